import assert from "node:assert/strict";
import { test } from "node:test";

import type { State } from "../src/level.ts";
import type { Relay, Row } from "../src/mesh.ts";
import { fingerprint, layout, matches, spotLevel } from "../src/spots.ts";

const row = (name: string, state: State = "up", rtt = 20, family: Row["family"] = "ipv4"): Row => ({
  name,
  family,
  address: "192.0.2.7:8620",
  protocol: "stamp",
  group: "edge",
  shard: 0,
  state,
  rtt: state === "up" ? rtt : null,
  loss: state === "up" ? 0 : 100,
  jitter: null,
  lastReplyAge: null,
  sent: null,
  received: null,
});

const relay = (name: string, rows: Row[], own = false): Relay => ({
  name,
  own,
  url: null,
  reachable: true,
  age: 0,
  error: null,
  running: true,
  reason: null,
  targets: rows.length,
  up: 0,
  rows,
});

test("relays that look at each other are a matrix, the worst column first", () => {
  const relays = [relay("a", [row("b"), row("c", "up", 150)], true), relay("b", [row("a"), row("c")]), relay("c", [row("a", "down"), row("b")])];
  const laid = layout(relays, "rtt", "", "worst");
  assert.equal(laid.kind, "matrix");
  if (laid.kind !== "matrix") return;
  assert.deepEqual(laid.columns, ["a", "c", "b"]);
  assert.deepEqual(
    laid.lines.map((line) => line.spots.map((spot) => spot?.row.state ?? null)),
    [
      [null, "up", "up"],
      ["up", "up", null],
      ["down", null, "up"],
    ],
  );
});

test("one relay, or more columns than are read, are walls", () => {
  const many = Array.from({ length: 33 }, (_, at) => row(`t${at}`));
  assert.equal(layout([relay("a", [row("b")], true)], "rtt", "", "name").kind, "walls");
  assert.equal(layout([relay("a", many, true), relay("b", [])], "rtt", "", "name").kind, "walls");
  assert.equal(layout([relay("a", many.slice(1), true), relay("b", [])], "rtt", "", "name").kind, "matrix");
});

test("the worst first: down, then by figure where it is bad, by name where all is fine", () => {
  const rows = [row("t10"), row("t9"), row("x", "up", 120), row("y", "up", 200), row("z", "down"), row("p", "pending")];
  const order = (sort: "worst" | "name") => layout([relay("a", rows, true)], "rtt", "", sort).lines[0]?.spots.map((spot) => spot?.label);
  assert.deepEqual(order("worst"), ["z", "y", "x", "p", "t9", "t10"]);
  assert.deepEqual(order("name"), ["p", "t9", "t10", "x", "y", "z"]);
});

test("a target of two families is told apart by them", () => {
  const laid = layout([relay("a", [row("b"), row("b", "up", 20, "ipv6"), row("c")], true)], "rtt", "", "name");
  assert.deepEqual(laid.lines[0]?.spots.map((spot) => spot?.label), ["b ipv4", "b ipv6", "c"]);
});

test("a filter takes what has all its words, in any of what is known", () => {
  const down = row("fra1", "down");
  for (const filter of ["", "fra", "FRA1 down", "edge 192.0.2", "stamp", "shard:0", "a"]) assert.equal(matches(down, "a", filter), true, filter);
  for (const filter of ["ams", "fra1 up", "shard:1"]) assert.equal(matches(down, "a", filter), false, filter);
  assert.equal(matches(row("x", "up", 400), "a", "bad"), true);
});

test("what a relay told long ago, or cannot tell, is stale whatever it was", () => {
  const spot = (of: Partial<Relay>) => spotLevel({ key: "", label: "", row: row("b"), relay: { ...relay("c", []), ...of } });
  assert.equal(spot({ age: 4.9 }), "good");
  assert.equal(spot({ age: 5.1 }), "stale");
  assert.equal(spot({ reachable: false }), "stale");
});

test("an order is another when any level is", () => {
  const [b, relays] = [row("b"), [relay("a", [row("c")], true)]];
  const before = fingerprint([relay("a", [b], true)]);
  b.rtt = 30;
  assert.equal(fingerprint([relay("a", [b], true)]), before);
  b.rtt = 130;
  assert.notEqual(fingerprint([relay("a", [b], true)]), before);
  assert.equal(fingerprint(relays), before);
});

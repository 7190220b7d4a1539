import assert from "node:assert/strict";
import { test } from "node:test";

import { chosen, pageUrl, putValues, readRelays, rowsOf, type RelaysJson, type ValuesJson } from "../src/mesh.ts";

const row = (name: string, family: "ipv4" | "ipv6") => ({
  name,
  family,
  address: "192.0.2.7:8620",
  protocol: "stamp",
  group: "default",
  shard: 0,
  state: "up" as const,
  rtt_ms: 0.182,
  loss_pct: 0,
  jitter_ms: 0.02,
  last_reply_age_seconds: 0.4,
  sent: 120,
  received: 120,
});

const relays = (): RelaysJson => ({
  at: 1,
  relays: [
    { name: "a", own: true, url: null, reachable: true, age_seconds: 0, error: null, running: true, reason: null, targets: 1, up: 1, rows: [row("b", "ipv4"), row("b", "ipv6")] },
    { name: "c", own: false, url: "http://127.0.0.1:9863/", reachable: false, age_seconds: null, error: "connection refused" },
  ],
});

const values = (rows: NonNullable<ValuesJson["relays"][number]["rows"]>): ValuesJson => ({
  at: 2,
  relays: [
    { reachable: true, age_seconds: 0.1, error: null, running: true, reason: null, up: 0, rows },
    { reachable: false, age_seconds: null, error: "connection refused" },
  ],
});

test("values are put into the rows they are of, in their order", () => {
  const mesh = readRelays(relays());
  const fits = putValues(mesh, values([["down", null, 100, null, 3, 124, 120], ["up", 0.2, 0, 0.03, 0.1, 124, 124]]));
  assert.equal(fits, true);
  assert.deepEqual([mesh[0]?.rows[0]?.state, mesh[0]?.rows[0]?.rtt, mesh[0]?.rows[0]?.lastReplyAge], ["down", null, 3]);
  assert.deepEqual([mesh[0]?.rows[1]?.rtt, mesh[0]?.rows[1]?.received], [0.2, 124]);
  assert.equal(mesh[0]?.up, 0);
});

test("values of other rows change nothing", () => {
  const mesh = readRelays(relays());
  assert.equal(putValues(mesh, values([["down", null, 100, null, 3, 124, 120]])), false);
  assert.equal(putValues(mesh, { at: 2, relays: [] }), false);
  assert.equal(mesh[0]?.rows[0]?.state, "up");
});

test("a relay that cannot be asked has no rows", () => {
  const mesh = readRelays(relays());
  assert.deepEqual([mesh[1]?.reachable, mesh[1]?.error, mesh[1]?.rows], [false, "connection refused", []]);
});

test("only pages are linked to", () => {
  assert.equal(pageUrl("http://127.0.0.1:9863/"), "http://127.0.0.1:9863");
  assert.equal(pageUrl("https://b.example.net/relay/"), "https://b.example.net/relay");
  for (const url of ["javascript:alert(1)", "data:text/html,x", "b:9862", "", null]) assert.equal(pageUrl(url), null, String(url));
});

test("of two families the one asked for is chosen, else the one that answers", () => {
  const rows = rowsOf(readRelays(relays()), "b");
  assert.equal(rows.length, 2);
  assert.equal(chosen(rows, "ipv6")?.family, "ipv6");
  assert.equal(chosen(rows, null)?.family, "ipv4");
  if (rows[0]) rows[0].state = "down";
  assert.equal(chosen(rows, null)?.family, "ipv6");
  assert.equal(chosen([], null), null);
});

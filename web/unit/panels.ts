import assert from "node:assert/strict";
import { test } from "node:test";

import type { Alert } from "../src/feed.ts";
import type { Happened } from "../src/history.ts";
import { crowds, Losses, sinceWhen, sorted } from "../src/panels.ts";

const alert = (name: string, severity: string, since: string, resolved: string | null = null): Alert => ({
  state: resolved ? "resolved" : "firing",
  labels: { alertname: name, severity },
  annotations: {},
  value: 1,
  threshold: 1,
  since,
  resolved,
});

test("alerts that stand are by severity, the newest first; those that ended the latest first", () => {
  const { standing, ended } = sorted([
    alert("a", "warning", "2026-11-20T10:00:00Z"),
    alert("b", "critical", "2026-11-20T09:00:00Z"),
    alert("c", "warning", "2026-11-20T11:00:00Z"),
    alert("d", "critical", "2026-11-20T08:00:00Z", "2026-11-20T08:10:00Z"),
    alert("e", "warning", "2026-11-20T07:00:00Z", "2026-11-20T08:20:00Z"),
  ]);
  assert.deepEqual(standing.map((one) => one.labels["alertname"]), ["b", "c", "a"]);
  assert.deepEqual(ended.map((one) => one.labels["alertname"]), ["e", "d"]);
});

test("an alert says since when, in words and by the clock", () => {
  const now = Date.parse("2026-11-20T10:04:12Z") / 1000;
  assert.equal(sinceWhen(alert("a", "warning", "2026-11-20T10:00:00Z"), now, true), "for 4 min 12 s, since 10:00:00");
  assert.equal(
    sinceWhen(alert("a", "warning", "2026-11-19T23:00:00Z", "2026-11-19T23:01:30Z"), now, true),
    "ended 11 h 2 min ago at 2026-11-19 23:01:30, lasted 1 min 30 s",
  );
});

test("what a ring lost ever is no news, what it lost within a minute is", () => {
  const losses = new Losses();
  assert.equal(losses.note(0, 123, 1000), 0);
  assert.equal(losses.note(0, 123, 1030), 0);
  assert.equal(losses.note(0, 130, 1050), 7);
  assert.equal(losses.note(0, 130, 1109), 7);
  assert.equal(losses.note(0, 130, 1111), 0);
  assert.equal(losses.note(0, 4, 1112), 0, "a data plane that began anew");
  assert.equal(losses.note(0, null, 1113), null);
});

test("what happens to many at once is one entry, the newest first", () => {
  const event = (at: number, kind: Happened["kind"], target: string): Happened => ({ at, kind, target, alertname: null, severity: null, summary: target });
  const found = crowds([event(1, "peer_up", "a"), event(10, "peer_down", "b"), event(11, "peer_down", "c"), event(12.5, "peer_down", "d"), event(12.6, "peer_up", "e")]);
  assert.deepEqual(
    found.map(({ first, more }) => [first.target, more]),
    [
      ["e", 0],
      ["d", 2],
      ["a", 0],
    ],
  );
  assert.deepEqual(crowds([]), []);
});

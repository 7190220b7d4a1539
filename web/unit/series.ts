import assert from "node:assert/strict";
import { test } from "node:test";

import type { Happened, History, Points } from "../src/history.ts";
import { ceiling, directions, eventsOf, joined, knownUntil, merged, series, stepAt, stretches, Tail } from "../src/series.ts";

type Step = { answered: number | null; lost: number | null; forward?: number | null; reverse?: number | null; rtt?: number | null };

const none: Step = { answered: null, lost: null };
const fine: Step = { answered: 10, lost: 0, forward: 0, reverse: 0, rtt: 0.02 };

function history(from: number, steps: readonly Step[], step = 10): History {
  const rtt = steps.map(({ rtt }) => rtt ?? null);
  const points: Points = {
    time: steps.map((_, at) => from + at * step),
    answered: steps.map(({ answered }) => answered),
    lost: steps.map(({ lost }) => lost),
    lost_forward: steps.map(({ forward }) => forward ?? null),
    lost_reverse: steps.map(({ reverse }) => reverse ?? null),
    rtt_min: rtt,
    rtt_mean: rtt,
    rtt_max: rtt,
    rtt_p05: rtt,
    rtt_p25: rtt,
    rtt_p50: rtt,
    rtt_p75: rtt,
    rtt_p95: rtt,
    rtt_p99: rtt,
    jitter: rtt,
  };
  return { target: "b", family: "ipv4", families: ["ipv4"], from, to: from + steps.length * step, step, tier: "10s", points };
}

test("loss is a share of what settled, by direction, and the rest is of none", () => {
  const drawn = series(history(1000, [{ answered: 6, lost: 4, forward: 2, reverse: 1, rtt: 0.02 }, { answered: 0, lost: 10 }, none]));
  assert.deepEqual(drawn.x, [1005, 1015, 1025]);
  assert.deepEqual(drawn.loss, [40, 100, null]);
  assert.deepEqual(drawn.forward, [20, 0, null]);
  assert.deepEqual(drawn.reverse, [10, 0, null]);
  assert.deepEqual(drawn.unknown, [10, 100, null]);
  assert.deepEqual(drawn.p50, [20, null, null]);
});

test("directions that are told later are those of the losses before", () => {
  const told: Step = { answered: 10, lost: 0, forward: 3, reverse: 1, rtt: 0.02 };
  const lossy: Step = { answered: 6, lost: 4, rtt: 0.02 };
  const of = (steps: readonly Step[]) => directions(history(1000, steps).points);
  assert.deepEqual(of([lossy, told]), { forward: [3, 0], reverse: [1, 0], unknown: [0, 0] });
  // An outage of two steps, all of it on the way there, as the first reply after it tells.
  const out: Step = { answered: 0, lost: 10 };
  const over: Step = { answered: 10, lost: 0, forward: 20, reverse: 0, rtt: 0.02 };
  assert.deepEqual(of([fine, out, out, over]), { forward: [0, 10, 10, 0], reverse: [0, 0, 0, 0], unknown: [0, 0, 0, 0] });
});

test("directions of losses that nobody saw are of none, and losses that nobody told of stay unknown", () => {
  const of = (steps: readonly Step[]) => directions(history(1000, steps).points);
  const told: Step = { answered: 40, lost: 0, forward: 3, reverse: 0, rtt: 0.02 };
  assert.deepEqual(of([told]), { forward: [0], reverse: [0], unknown: [0] });
  const lossy: Step = { answered: 40, lost: 2, rtt: 0.02 };
  const quiet: Step = { answered: 40, lost: 0, rtt: 0.02 };
  assert.deepEqual(of([lossy, quiet, told]).forward, [2, 0, 0], "within 64 replies");
  assert.deepEqual(of([lossy, quiet, quiet, told]), { forward: [0, 0, 0, 0], reverse: [0, 0, 0, 0], unknown: [2, 0, 0, 0] });
  assert.deepEqual(of([none]), { forward: [null], reverse: [null], unknown: [null] });
});

test("what was all lost and what was not measured are stretches of their own", () => {
  const lost: Step = { answered: 0, lost: 10 };
  const found = stretches(history(1000, [none, none, fine, lost, lost, fine, none, none]), 1070);
  assert.deepEqual(found, [
    { kind: "missing", from: 1000, to: 1020 },
    { kind: "lost", from: 1030, to: 1050 },
    { kind: "missing", from: 1060, to: 1070 },
  ]);
});

test("what is known ends with the newest step of which anything is", () => {
  assert.equal(knownUntil(history(1000, [fine, { answered: 0, lost: 3 }, none])), 1020);
  assert.equal(knownUntil(history(1000, [none, none])), null);
});

test("a tail takes the place of what it overlaps, and what is too old goes", () => {
  const whole = joined(history(1000, [fine, fine, fine, none]), history(1020, [{ ...fine, rtt: 0.03 }, { ...fine, rtt: 0.04 }]), 1010);
  assert.deepEqual(whole.points.time, [1010, 1020, 1030]);
  assert.deepEqual(whole.points.rtt_p50, [0.02, 0.03, 0.04]);
  assert.equal(whole.to, 1040);
});

const event = (at: number, kind: Happened["kind"], target: string | null): Happened => ({ at, kind, target, alertname: null, severity: null, summary: "" });

test("events of both lists are one list without doubles, of the target or of the relay, in their order", () => {
  const kept = [event(1010, "peer_down", "b"), event(1005, "peer_down", "c"), event(900, "peer_up", "b")];
  const live = [event(1011.9, "peer_down", "b"), event(1020, "peer_up", "b"), event(1001, "started", null)];
  assert.deepEqual(
    eventsOf(kept, live, "b", 1000, 1100).map(({ at, kind }) => [at, kind]),
    [
      [1001, "started"],
      [1010, "peer_down"],
      [1020, "peer_up"],
    ],
  );
});

test("a moment falls into its step, or into none", () => {
  const drawn = series(history(1000, [fine, fine]));
  assert.deepEqual([999, 1000.1, 1009, 1011, 1021].map((at) => stepAt(drawn, at)), [null, 0, 0, 1, null]);
});

test("single values do not press the rest flat", () => {
  const drawn = { ...series(history(1000, [fine, fine, fine])), max: [20, 900, 21], p75: [20, 21, 20] };
  assert.equal(ceiling(drawn), 84);
  assert.equal(ceiling({ ...drawn, max: [20, 30, 21] }), 30);
  assert.equal(ceiling({ ...drawn, max: [null, null, null] }), 1);
});

test("the tail keeps the newest alone", () => {
  const tail = new Tail();
  for (let at = 1; at <= 700; at += 1) tail.note(at, at);
  tail.note(700, 1);
  assert.deepEqual([tail.at.length, tail.at[0], tail.at.at(-1)], [600, 101, 700]);
  assert.deepEqual(tail.since(698), { at: [699, 700], rtt: [699, 700] });
  assert.deepEqual(tail.since(700), { at: [], rtt: [] });
});

test("an alert that got worse within a second is two events, and each that is kept stands for one that was told", () => {
  const alert = (at: number, severity: string): Happened => ({ at, kind: "alert_firing", target: "b", alertname: "A", severity, summary: "" });
  const told = [alert(100, "warning"), alert(101, "critical")];
  assert.deepEqual(merged([], told), told);
  assert.deepEqual(merged([alert(99.8, "warning")], told), [alert(99.8, "warning"), alert(101, "critical")]);
  assert.deepEqual(merged([alert(101, "critical")], told), told, "the one that is kept is the worse one");
  const flaps = [event(100, "peer_down", "b"), event(101, "peer_up", "b"), event(102, "peer_down", "b")];
  assert.deepEqual(merged([flaps[0]!], flaps), flaps, "down twice is down twice");
});

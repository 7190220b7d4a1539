import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { count, figureLevel, level, milliseconds, OCCUPANCY, percent, reasons, shortCount, STALE_AFTER, THRESHOLDS, type Measured } from "../src/level.ts";

interface Panel {
  title?: string;
  panels?: Panel[];
  fieldConfig?: { defaults: { thresholds?: { steps: { color: string; value: number | null }[] } } };
}

/** From where on a panel of the Grafana dashboard is yellow and red. */
function steps(title: string): (number | null)[] {
  const dashboard = JSON.parse(readFileSync(new URL("../../dashboards/relayscope.json", import.meta.url), "utf8")) as Panel;
  const flat = (panel: Panel): Panel[] => [panel, ...(panel.panels ?? []).flatMap(flat)];
  const panel = flat(dashboard).find((one) => one.title === title);
  const found = panel?.fieldConfig?.defaults.thresholds?.steps ?? [];
  return ["yellow", "red"].map((color) => found.find((step) => step.color === color)?.value ?? null);
}

test("the thresholds are those of the dashboard", () => {
  assert.deepEqual(steps("RTT").map((seconds) => (seconds ?? 0) * 1e3), [THRESHOLDS.rtt.warning, THRESHOLDS.rtt.bad]);
  assert.deepEqual(steps("Loss").map((ratio) => (ratio ?? 0) * 100), [THRESHOLDS.loss.warning, THRESHOLDS.loss.bad]);
  assert.deepEqual(steps("Jitter").map((seconds) => (seconds ?? 0) * 1e3), [THRESHOLDS.jitter.warning, THRESHOLDS.jitter.bad]);
  assert.deepEqual(steps("Ring occupancy"), [OCCUPANCY.warning, OCCUPANCY.bad]);
  assert.deepEqual(steps("Heartbeat age"), [null, STALE_AFTER]);
});

const up: Measured = { state: "up", rtt: 20, loss: 0, jitter: 1 };

test("a target is as bad as the worst of its figures", () => {
  assert.equal(level(up), "good");
  assert.equal(level({ ...up, loss: 1.99 }), "good");
  assert.equal(level({ ...up, loss: 2 }), "warning");
  assert.equal(level({ ...up, loss: 2, rtt: 300 }), "bad");
  assert.equal(level({ ...up, jitter: 100 }), "bad");
  assert.deepEqual(reasons({ ...up, loss: 2, rtt: 300 }), ["loss 2.0 %", "RTT 300 ms"]);
  assert.deepEqual(reasons(up), []);
});

test("what does not answer, or is not known, has no other level", () => {
  assert.equal(level({ ...up, state: "down", loss: 100 }), "down");
  assert.equal(level({ ...up, state: "pending", rtt: null }), "pending");
  assert.equal(level({ ...up, state: "stale", rtt: 999 }), "stale");
  assert.equal(figureLevel("rtt", null), "good");
});

test("milliseconds have three figures and no more than a microsecond's", () => {
  assert.deepEqual([0.0184, 0.182, 1.234, 11.26, 123.4, 1250].map(milliseconds), ["0.018", "0.182", "1.23", "11.3", "123", "1250"]);
  assert.equal(milliseconds(null), "–");
});

test("some loss is never shown as none, nor as all", () => {
  assert.deepEqual([0, 0.04, 0.44, 9.94, 9.96, 99.7, 100].map(percent), ["0", "<0.1", "0.4", "9.9", "10", "99", "100"]);
});

test("counts are grouped, or short", () => {
  assert.equal(count(1234567), "1\u202f234\u202f567");
  assert.deepEqual([0, 999, 1000, 54_100, 999_960, 1_234_567, 123_456_789].map(shortCount), ["0", "999", "1.0 k", "54.1 k", "1.0 M", "1.2 M", "123 M"]);
});

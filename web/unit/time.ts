import assert from "node:assert/strict";
import { test } from "node:test";

import { between, dateTime, isBound, panned, parseDateTime, parseSpan, resolve, shortTime, spanInWords, zone, zoomed } from "../src/time.ts";

const NOW = Date.parse("2026-11-30T03:04:05Z") / 1000;

test("spans are read and said", () => {
  assert.deepEqual(["90s", "5m", "6h", "30d", "1w", "h", "-1h", ""].map(parseSpan), [90, 300, 21_600, 2_592_000, null, null, null, null]);
  assert.deepEqual([0, 59.9, 60, 192, 7500, 273_600].map(spanInWords), ["0 s", "59 s", "1 min", "3 min 12 s", "2 h 5 min", "3 d 4 h"]);
});

test("a range is resolved against now, and has a minute at least", () => {
  assert.deepEqual(resolve({ from: "-1h", to: "now" }, NOW), [NOW - 3600, NOW]);
  assert.deepEqual(resolve({ from: "1796000000", to: "1796003600" }, NOW), [1_796_000_000, 1_796_003_600]);
  assert.deepEqual(resolve({ from: "1796003600", to: "1796000000" }, NOW), [1_795_999_940, 1_796_000_000]);
  for (const bound of ["now", "-6h", "1796000000"]) assert.ok(isBound(bound), bound);
  for (const bound of ["", "yesterday", "-6x", "1e9", "-"]) assert.ok(!isBound(bound), bound);
});

test("what reaches the present goes on with it, and is as long", () => {
  assert.deepEqual(between(NOW - 100.4, NOW - 0.5, NOW), { from: "-100s", to: "now" });
  assert.deepEqual(between(NOW - 500, NOW - 400, NOW), { from: String(NOW - 500), to: String(NOW - 400) });
  assert.deepEqual(between(NOW - 410, NOW - 400, NOW), { from: String(NOW - 460), to: String(NOW - 400) });
});

test("zooming keeps the middle, or the end where that is now", () => {
  assert.deepEqual(zoomed({ from: "1796000000", to: "1796003600" }, 0.5, NOW), { from: "1796000900", to: "1796002700" });
  assert.deepEqual(zoomed({ from: "-1h", to: "now" }, 2, NOW), { from: "-7200s", to: "now" });
  assert.deepEqual(zoomed({ from: "-1h", to: "now" }, 0.5, NOW), { from: "-1800s", to: "now" });
  assert.deepEqual(zoomed({ from: "-60s", to: "now" }, 0.5, NOW), { from: "-60s", to: "now" });
});

test("moving keeps the length, and stops at now", () => {
  assert.deepEqual(panned({ from: "-1h", to: "now" }, -0.5, NOW), { from: String(NOW - 5400), to: String(NOW - 1800) });
  assert.deepEqual(panned({ from: "-1h", to: "now" }, 0.5, NOW), { from: "-3600s", to: "now" });
  assert.deepEqual(panned({ from: String(NOW - 5400), to: String(NOW - 1800) }, 0.5, NOW), { from: "-3600s", to: "now" });
});

test("moments are said in UTC and read back", () => {
  assert.equal(dateTime(NOW, true), "2026-11-30 03:04:05");
  assert.equal(shortTime(NOW - 60, NOW, true), "03:03:05");
  assert.equal(shortTime(NOW - 86_400, NOW, true), "2026-11-29 03:04:05");
  assert.equal(parseDateTime(dateTime(NOW, true, "T"), true), NOW);
  assert.equal(parseDateTime(dateTime(NOW, false, "T"), false), NOW);
  assert.equal(parseDateTime("2026-11-30T03:04", true), NOW - 5);
  assert.equal(parseDateTime("tomorrow", true), null);
  assert.equal(zone(NOW, true), "UTC");
  assert.match(zone(NOW, false), /^UTC[+−]\d\d:\d\d$/);
});

import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULT_VIEW, formatView, ofTarget, parseView, type View } from "../src/view.ts";

const WHOLE: View = {
  target: "fra1 & ams2/é",
  family: "ipv6",
  range: { from: "1796000000", to: "1796003600" },
  figure: "loss",
  filter: "edge down",
  sort: "name",
  utc: true,
  theme: "dark",
};

test("a link carries the whole view", () => {
  assert.deepEqual(parseView(formatView(WHOLE)), WHOLE);
  assert.deepEqual(parseView(formatView({ ...WHOLE, utc: false, range: { from: "-6h", to: "now" } })), { ...WHOLE, utc: false, range: { from: "-6h", to: "now" } });
  assert.deepEqual(parseView(formatView({ ...DEFAULT_VIEW, range: { from: "-1h", to: "-5m" } })).range, { from: "-1h", to: "-5m" });
});

test("the usual view is a short link", () => {
  assert.equal(formatView(DEFAULT_VIEW), "#");
  assert.equal(formatView(ofTarget(DEFAULT_VIEW, "b", null)), "#target=b");
  assert.deepEqual(parseView(""), DEFAULT_VIEW);
});

test("what makes no sense in a link is as if it were not there", () => {
  const view = parseView("#target=&family=ipv5&from=yesterday&to=now&figure=mtu&sort=size&time=mars&theme=pink&x=1");
  assert.deepEqual(view, DEFAULT_VIEW);
  assert.equal(parseView(`#filter=${"x".repeat(500)}`).filter.length, 100);
});

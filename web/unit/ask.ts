import assert from "node:assert/strict";
import { test } from "node:test";

import { refusalInWords } from "../src/ask.ts";

test("a refusal is said in the relay's own words where it has any", () => {
  assert.equal(refusalInWords(404, "history is off; set enabled = true in [history]\n"), "history is off; set enabled = true in [history]");
  assert.equal(refusalInWords(503, ""), "the relay answered 503");
  assert.equal(refusalInWords(0, ""), "the relay does not answer");
  assert.equal(refusalInWords(401, "who are you?"), "the relay asks who you are: load the page again and sign in");
  assert.equal(refusalInWords(403, ""), "the relay does not allow it");
});

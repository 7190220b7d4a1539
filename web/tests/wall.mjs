// Leads a browser through a relay's wall of targets by keys, and holds the page to drawing what is seen alone.
//
//   node tests/wall.mjs URL TARGETS
//
// The targets are `t0000` and on, and one more with the longest name there may be. Ends with 0 where all checks pass; the last line counts them.

import assert from "node:assert/strict";

import { launch, open, PATIENCE } from "./browser.mjs";

const [url, given] = process.argv.slice(2);
const targets = Number(given);
const all = targets + 1;
const LONG = `t0500${"x".repeat(123)}`;
const name = (at) => `t${String(at).padStart(4, "0")}`;

let passed = 0;
const failed = [];
async function check(claim, hold) {
  try {
    await hold();
    passed += 1;
    console.log(`ok ${claim}`);
  } catch (error) {
    failed.push(claim);
    console.log(`not ok ${claim}\n${error.stack ?? error}`);
  }
}

/** A relay that has just started has no history of anybody: that is a 404, which a browser says on its console. */
async function hasHistory(target) {
  for (const deadline = Date.now() + PATIENCE; !(await fetch(new URL(`/api/v1/history?target=${target}`, url))).ok; ) {
    assert.ok(Date.now() < deadline, `no history of ${target} came`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const browser = await launch();
const { page, faults } = await open(browser, `${url}#sort=name`, { viewport: { width: 1280, height: 800 } });
await page.locator("#summary", { hasText: `${all} of ${all} up` }).waitFor();

const focused = () => page.evaluate(() => document.activeElement.querySelector(".name")?.textContent ?? "");
const columns = Number(await page.locator(".wall").getAttribute("aria-colcount"));
async function press(key, expected) {
  await page.keyboard.press(key);
  await page.waitForFunction((text) => document.activeElement.querySelector(".name")?.textContent === text, name(expected), { timeout: PATIENCE });
}
const isSeen = () => page.evaluate(() => {
  const { top, bottom } = document.activeElement.getBoundingClientRect();
  return top >= document.querySelector("header").getBoundingClientRect().bottom && bottom <= innerHeight;
});

await check("only what is seen is drawn", async () => {
  const drawn = await page.locator("a.cell").count();
  assert.ok(drawn >= columns * 10 && drawn <= columns * 30, `${drawn} cells in ${columns} columns`);
  assert.equal(await page.locator(".wall").getAttribute("aria-rowcount"), String(Math.ceil(all / columns)));
});

await check("keys lead from end to end, and what has the focus is seen", async () => {
  await page.keyboard.press("g");
  await press("Control+Home", 0);
  await press("ArrowRight", 1);
  await press("ArrowDown", 1 + columns);
  await press("Home", columns);
  await press("End", 2 * columns - 1);
  await press("ArrowUp", columns - 1);
  await press("Control+End", targets - 1);
  assert.ok(await isSeen());
  assert.equal(await page.locator("a.cell[tabindex='0']").count(), 1);
  await page.keyboard.press("PageUp");
  assert.ok((await focused()) < name(targets - 5 * columns), await focused());
  assert.ok(await isSeen());
});

await check("who comes back from a target is where they were", async () => {
  await press("Control+Home", 0);
  await press("End", columns - 1);
  for (let down = 2; down <= 40; down += 1) await page.keyboard.press("ArrowDown");
  const was = await focused();
  assert.equal(was, name(40 * columns - 1));
  await hasHistory(was);
  await page.keyboard.press("Enter");
  await page.locator("#target-name", { hasText: was }).waitFor();
  await page.keyboard.press("Escape");
  await page.waitForFunction((text) => document.activeElement.querySelector(".name")?.textContent === text, was, { timeout: PATIENCE });
  assert.ok(await isSeen());
  assert.equal(await page.locator(".wall").getAttribute("aria-colcount"), String(columns));
});

await check("a filter finds one of them, and figures go on", async () => {
  await page.keyboard.press("/");
  await page.keyboard.type(name(targets - 7));
  await page.locator("a.cell[data-key]").nth(1).waitFor({ state: "detached" });
  assert.equal(await page.locator("a.cell[data-key] .name").innerText(), name(targets - 7));
  const seen = new Set();
  for (const deadline = Date.now() + PATIENCE; seen.size < 3 && Date.now() < deadline; await page.waitForTimeout(100)) {
    seen.add(await page.locator("a.cell[data-key] .main").innerText());
  }
  assert.ok(seen.size >= 3, [...seen].join());
});

await check("another width is other columns", async () => {
  await page.locator("#filter").fill("");
  await page.setViewportSize({ width: 360, height: 740 });
  await page.waitForFunction(() => document.querySelector(".wall").getAttribute("aria-colcount") === "2", undefined, { timeout: PATIENCE });
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360);
});

await check("paper has all of them", async () => {
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  assert.equal(await page.locator("a.cell[data-key]").count(), all);
  await page.evaluate(() => dispatchEvent(new Event("afterprint")));
  assert.ok((await page.locator("a.cell[data-key]").count()) < targets / 2);
});

await check("a long name is wrapped or cut, and nothing is wider than a phone", async () => {
  const wide = () => page.evaluate(() => document.documentElement.scrollWidth);
  await hasHistory(LONG);
  await page.locator("#filter").fill(LONG);
  await page.locator("a.cell[data-key]").nth(1).waitFor({ state: "detached" });
  assert.ok((await wide()) <= 360, `${await wide()} pixels`);
  await page.locator("a.cell[data-key]").click();
  await page.locator("#target-name", { hasText: LONG }).waitFor();
  await page.locator("#events-list", { hasText: LONG }).waitFor();
  assert.ok((await wide()) <= 360, `${await wide()} pixels`);
});

await check("nothing was refused, thrown or asked of anybody else", async () => {
  assert.deepEqual(faults, []);
});

await browser.close();
console.log(`${passed + failed.length} checks, ${failed.length} failed${failed.length > 0 ? `: ${failed.join("; ")}` : ""}`);
process.exit(failed.length > 0 ? 1 : 0);

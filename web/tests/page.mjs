// Leads a browser through the page of a live demo, and holds it to what it is to show.
//
//   node tests/page.mjs DIRECTORY NAME=URL NAME=URL NAME=URL
//
// The relays are a demo's: `b` is the one that is looked at, the link from it to `c` is the impaired one. What is to be
// done to the demo is asked of whoever started this: a line `> cut b c` on stdout is to be said to it, `> !STOP` is a
// signal for it. Pictures go into DIRECTORY. Ends with 0 where all checks pass; the last line counts them.

import assert from "node:assert/strict";
import { join } from "node:path";

import { launch, open, PATIENCE, picture } from "./browser.mjs";

const [directory, ...given] = process.argv.slice(2);
const relays = Object.fromEntries(given.map((pair) => pair.split(/=(.*)/s).slice(0, 2)));
const DESK = { viewport: { width: 1280, height: 900 }, colorScheme: "light", timezoneId: "Europe/Berlin", locale: "en-GB" };
const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2, colorScheme: "dark" };

const say = (line) => console.log(`> ${line}`);
const shot = (page, name, whole = false) => picture(page, join(directory, `${name}.png`), whole);

let passed = 0;
const failed = [];
async function check(claim, hold) {
  const began = Date.now();
  try {
    await hold();
    passed += 1;
    console.log(`ok ${claim} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed.push(claim);
    console.log(`not ok ${claim}\n${error.stack ?? error}`);
  }
}

/** Asks again and again until `look` gives something true. */
async function until(what, look, patience = PATIENCE) {
  const deadline = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < deadline, `waited ${patience / 1000} s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** What is read, on a line. */
const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ").trim();
const json = async (path) => (await fetch(new URL(path, relays.b))).json();

const browser = await launch();
// By name: on a busy host any link may be the worst.
const { page, faults } = await open(browser, `${relays.b}#sort=name`, DESK);
const cell = (relay, target) => page.locator(`a.cell[data-key="${relay}\\a ${target}\\a ipv4"]`);

await check("the mesh is a matrix of who looks at whom, with figures", async () => {
  for (const [relay, target] of ["ab", "ac", "ba", "bc", "ca", "cb"]) {
    await cell(relay, target).locator(".unit", { hasText: "ms" }).waitFor();
    assert.match(await text(cell(relay, target)), /^. \w+: \d+\.?\d* ms \d+(\.\d+)? %$/, `${relay} ${target}`);
  }
  assert.deepEqual(await page.locator("#mesh").getByRole("columnheader").allInnerTexts(), ["sees →", "a", "b", "c"]);
  assert.equal(await page.getByRole("gridcell").count(), 9);
  assert.equal(await page.locator("#standing-text").innerText(), "live");
  assert.equal(await page.locator("#relay").innerText(), "b");
  assert.match(await page.locator("footer").innerText(), /relayscope \d+\.\d+/);
});

await check("figures follow what is measured", async () => {
  const seen = new Set();
  await until("three figures that differ", async () => seen.add(await cell("b", "c").locator(".main").innerText()).size >= 3);
});

await check("shards and their rings are shown", async () => {
  const row = page.locator("#shards-rows tr").first();
  await row.waitFor();
  assert.match(await text(row), /^0 ok [\d.]+ s [\d.]+ s [\d.]+ % 0 /);
});

// An outage from here on; meanwhile all that needs none.
await until("c to be up at b before it is cut off", async () => (await json("/mesh?format=json")).rows.some(({ name, state }) => name === "c" && state === "up"));
const cutAt = Date.now();
say("cut b c");

await check("a peer that is down is shown as such, by more than a colour, on both sides", async () => {
  for (const [relay, target] of ["bc", "cb"]) await page.locator(`a.cell.down[data-key="${relay}\\a ${target}\\a ipv4"]`).waitFor();
  assert.match(await text(cell("b", "c")), /^✕ down: down \d+ s$/);
  assert.match(await page.locator("#summary").innerText(), /1 of 2 up · 1 down/);
});

await check("the alert for it appears, and since when it stands", async () => {
  const alert = page.locator("#alerts-firing .alert", { hasText: "RelayPeerDown" });
  await alert.waitFor();
  assert.match(await alert.innerText(), /c/);
  assert.match(await alert.locator(".since").innerText(), /^for (\d+ min )?\d+ s, since \d\d:\d\d:\d\d$/);
  await until("the title to count it", async () => /^\(\d+\) b · relayscope$/.test(await page.title()));
  await page.locator("#lately-list .peer_down", { hasText: "c" }).first().waitFor();
  await shot(page, "mesh-light");
});

await check("dark is dark, by the system and by its switch", async () => {
  const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const brightness = async () => (await paper()).match(/\d+/g).map(Number).slice(0, 3).reduce((sum, one) => sum + one) / 3;
  assert.ok((await brightness()) > 200, await paper());
  await page.emulateMedia({ colorScheme: "dark" });
  await until("the system's dark", async () => (await brightness()) < 60);
  await page.emulateMedia({ colorScheme: "light" });
  await until("the system's light", async () => (await brightness()) > 200);
  await page.keyboard.press("d");
  await until("the switch's dark", async () => (await brightness()) < 60);
  assert.match(page.url(), /theme=dark$/);
  await shot(page, "mesh-dark");
  await page.getByRole("button", { name: "Dark" }).click();
  await until("the switch's light", async () => (await brightness()) > 200);
});

await check("times are local or in UTC", async () => {
  assert.match(await page.locator("#zone").innerText(), /^UTC\+0[12]:00$/);
  await page.keyboard.press("u");
  await page.locator("#zone", { hasText: /^UTC$/ }).waitFor();
  assert.match(page.url(), /time=utc/);
  await page.keyboard.press("u");
});

// A relay that has just started has no history of anybody: that is a 404, which a browser says on its console.
await until("history of a", async () => (await fetch(new URL("/api/v1/history?target=a", relays.b))).ok);

await check("the keyboard alone leads through the mesh and into a target and back", async () => {
  const { page, faults, close } = await open(browser, relays.b, DESK);
  await page.locator("a.cell.down").first().waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to what is measured");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.keyboard.press("s");
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("data-key")?.split("\n").slice(0, 2).join(" "));
  await page.keyboard.press("g");
  await until("a cell to have the focus", focused);
  await page.keyboard.press("Control+Home");
  await until("the first cell", async () => (await focused()) === "b a");
  await page.keyboard.press("ArrowRight");
  assert.equal(await focused(), "b c", "where b would look at itself there is nothing");
  await page.keyboard.press("ArrowUp");
  assert.equal(await focused(), "b c", "there is no row above");
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(), "a c");
  await page.keyboard.press("Home");
  assert.equal(await focused(), "a b", "a does not look at itself");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "the focus is seen");
  assert.equal(await page.locator("a.cell[tabindex='0']").count(), 1, "one cell of all is a stop");
  await page.keyboard.press("Control+Home");
  await page.keyboard.press("Enter");
  await page.locator("#target-name", { hasText: /^a$/ }).waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#mesh").waitFor();
  await page.keyboard.press("?");
  assert.ok(await page.getByRole("dialog").isVisible());
  await page.keyboard.press("Escape");
  assert.ok(!(await page.getByRole("dialog").isVisible()));
  assert.deepEqual(faults, []);
  await close();
});

await check("a filter keeps what matches, and the address keeps the filter", async () => {
  await page.keyboard.press("/");
  await page.keyboard.type("down");
  await until("two cells", async () => (await page.locator("a.cell[data-key]").count()) === 2);
  assert.match(page.url(), /filter=down/);
  await page.locator("#filter").fill("no such");
  await page.locator("#no-match").waitFor();
  await page.locator("#filter").fill("");
  await until("all cells", async () => (await page.locator("a.cell[data-key]").count()) === 6);
});

await check("the figure of the cells is what was asked for", async () => {
  await page.keyboard.press("Escape");
  await page.keyboard.press("l");
  await cell("b", "a").locator(".unit", { hasText: "%" }).waitFor();
  assert.match(page.url(), /figure=loss/);
  await page.keyboard.press("j");
  await cell("b", "a").locator(".unit", { hasText: "ms" }).waitFor();
  await page.keyboard.press("r");
});

await check("the page is read on a phone", async () => {
  const phone = await open(browser, relays.b, PHONE);
  await phone.page.locator("a.cell.down").first().waitFor();
  const wide = await phone.page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 360, `${wide} pixels are wider than 360`);
  await shot(phone.page, "mesh-phone", true);
  await phone.page.locator(`a.cell[data-key="b\\a c\\a ipv4"]`).tap();
  await phone.page.locator("#plot-rtt canvas").waitFor();
  assert.ok((await phone.page.evaluate(() => document.documentElement.scrollWidth)) <= 360);
  await shot(phone.page, "target-phone", true);
  assert.deepEqual(phone.faults, []);
  await phone.close();
});

// Long enough for a step of history in which all is lost.
await until("the outage to last", () => Date.now() - cutAt > 21_500);
say("mend b c");

await check("the alert ends, and says how long it lasted", async () => {
  const ended = page.locator("#alerts-ended .alert", { hasText: "RelayPeerDown" });
  await ended.waitFor();
  assert.match(await ended.locator(".since").innerText(), /^ended \d+ s ago at \d\d:\d\d:\d\d, lasted (\d+ min )?\d+ s$/);
  assert.equal(await page.locator("#alerts-firing .alert", { hasText: "RelayPeerDown" }).count(), 0);
  await page.locator("a.cell.good, a.cell.warning, a.cell.bad").and(cell("b", "c")).waitFor();
});

await check("a target's plots have points, and the outage is a gap of loss between two events", async () => {
  await cell("b", "c").click();
  await page.locator("#plot-rtt canvas").waitFor();
  for (let zoomed = 0; zoomed < 4; zoomed += 1) await page.keyboard.press("+");
  await page.locator("#range-said", { hasText: "(3 min 45 s)" }).waitFor();
  const steps = await until("history of before, in and after the outage", async () => {
    const { points } = await json("/api/v1/history?target=c");
    const kinds = points.time.map((_, at) => (points.lost[at] > 0 && points.answered[at] === 0 ? "lost" : points.answered[at] > 0 ? "answered" : ""));
    // Two in a row are a line.
    return /answered.*lost.*answered/.test(kinds.join(" ")) && /answered answered/.test(kinds.join(" ")) && points;
  });
  const lostAt = steps.time.find((_, at) => steps.lost[at] > 0 && steps.answered[at] === 0);
  // From the newest step back to the outage, as who has no pointer does.
  await page.locator("#plots").focus();
  await page.keyboard.press("End");
  // Numbers are drawn with the frame after the key.
  const read = async (id) => {
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    return page.locator(`#read-${id}`).innerText();
  };
  await until("the cursor in the outage", async () => {
    if (/^100 %/.test(await read("loss"))) return true;
    await page.keyboard.press("ArrowLeft");
    return false;
  });
  assert.match(await read("loss"), /^100 % \((\d+) of \1\)$/);
  assert.equal(await read("p50"), "–");
  assert.ok(lostAt > 0);
  await until("the cursor before the outage", async () => {
    if (/^\d+\.?\d* ms$/.test(await read("p50"))) return true;
    await page.keyboard.press("ArrowLeft");
    return false;
  });
  assert.match(await read("inner"), /^[\d.]+ – [\d.]+ ms$/);
  for (const kind of ["peer_down", "peer_up"]) await page.locator(`#events-list .${kind}`).first().waitFor();
  // A line takes two steps in a row, and the page asks for the newest when they are there.
  await until("pixels of the median line and of loss", async () => {
    const { ink, lossMany } = await page.evaluate(colours);
    return ink > 20 && lossMany > 200;
  });
});

/** How many pixels of the RTT plot are of the median line, and of loss. */
function colours() {
  const canvas = document.querySelector("#plot-rtt canvas");
  const resolve = (name) => {
    const probe = document.body.appendChild(document.createElement("span"));
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
    probe.remove();
    return found;
  };
  // Of a copy: who reads a canvas more than once is warned.
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const count = (colour) => {
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 200 && colour.every((value, channel) => Math.abs(data[at + channel] - value) < 12)) found += 1;
    }
    return found;
  };
  return { ink: count(resolve("--ink")), lossMany: count(resolve("--loss-many")) };
}

await check("dragging zooms, history comes finer or as fine, and back leads back", async () => {
  const asked = [];
  page.on("request", (request) => request.url().includes("/api/v1/history") && asked.push(request.url()));
  await page.mouse.move(0, 0);
  await shot(page, "target-light");
  const before = page.url();
  const box = await page.locator("#plot-rtt .u-over").boundingBox();
  await page.mouse.move(box.x + box.width * 0.9, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.97, box.y + 60, { steps: 4 });
  await page.mouse.up();
  await until("a range in the address", () => /from=-?\d+/.test(page.url()));
  await until("history of it", () => asked.length > 0);
  await page.keyboard.press("d");
  await until("dark plots", async () => page.evaluate(() => document.documentElement.dataset.theme === "dark"));
  await shot(page, "target-dark");
  await page.keyboard.press("d");
  await page.goBack();
  assert.equal(new URL(page.url()).hash.replace(/&?theme=\w+/, ""), new URL(before).hash.replace(/&?theme=\w+/, ""));
  await page.getByRole("button", { name: "24 h" }).click();
  assert.match(page.url(), /from=-24h/);
});

await check("a link carries the whole view", async () => {
  const again = await open(browser, `${relays.b}#target=c&from=-6h&theme=dark&time=utc`, DESK);
  await again.page.locator("#target-name", { hasText: /^c$/ }).waitFor();
  assert.equal(await again.page.locator("#ranges [data-range='6h']").getAttribute("aria-pressed"), "true");
  assert.equal(await again.page.locator("#zone").innerText(), "UTC");
  assert.equal(await again.page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await again.page.goto(`${relays.b}#target=nobody`);
  await again.page.locator("#target-unknown").waitFor();
  await again.page.locator("#history-said", { hasText: "nobody" }).waitFor();
  await again.close();
});

await check("nothing was refused, thrown or asked of anybody else", async () => {
  assert.deepEqual(faults, []);
});

await check("what is old is never shown as how things are", async () => {
  await page.keyboard.press("Escape");
  await cell("b", "a").waitFor();
  say("!STOP");
  await page.locator("#standing[data-kind='stale'], #standing[data-kind='reconnecting']").waitFor();
  await until("all cells to be stale", async () => (await page.locator("a.cell[data-key]:not(.stale)").count()) === 0);
  assert.match(await page.locator("#standing-text").innerText(), /figures are \d+ s old/);
  await shot(page, "mesh-stale");
  say("!CONT");
  await page.locator("#standing[data-kind='live']").waitFor();
  await cell("b", "a").and(page.locator(":not(.stale)")).waitFor();
});

await browser.close();
console.log(`${passed + failed.length} checks, ${failed.length} failed${failed.length > 0 ? `: ${failed.join("; ")}` : ""}`);
process.exit(failed.length > 0 ? 1 : 0);

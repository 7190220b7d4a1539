// Leads two tabs of a browser through the page of a relay's web bridge.
//
//   node tests/bridge.mjs DIRECTORY URL TOKEN TOKEN
//
// Member 0 of the room is a client by UDP, which whoever started this speaks for: a line `> udp says TEXT` has it say
// something, `> udp hears MEMBER TEXT` and `> scrape SERIES VALUE` are waited for there. Pictures go into DIRECTORY.
// Ends with 0 where all checks pass; the last line counts them.

import assert from "node:assert/strict";
import { join } from "node:path";

import { follow, launch, open, PATIENCE, picture } from "./browser.mjs";

const [directory, url, tokenOne, tokenTwo] = process.argv.slice(2);
const say = (line) => console.log(`> ${line}`);

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

const browser = await launch();
const DESK = { viewport: { width: 1000, height: 760 }, colorScheme: "light" };
const one = await open(browser, `${url}#token=${tokenOne}`, DESK);
const two = await follow(await one.page.context().newPage(), url);
const standing = (tab, text) => tab.page.locator("#standing", { hasText: text }).waitFor();
const line = (tab, who, text) => tab.page.locator("#log li", { hasText: who }).filter({ hasText: text }).first().waitFor();
const member = (tab, key) => tab.page.locator(`#members [data-member=${key}]`);

await check("a token of a link is in the field and nowhere else, and Enter joins with it", async () => {
  assert.equal(await one.page.evaluate(() => location.href), url);
  assert.equal(await one.page.locator("#message").isDisabled(), true);
  await one.page.keyboard.press("Enter");
  await standing(one, "joined as member 1");
  assert.equal(await one.page.locator("#token").inputValue(), "");
  assert.equal(await one.page.evaluate(() => document.activeElement.id), "message");
});

await check("a second tab joins with a token that is typed", async () => {
  await two.page.getByLabel("Token").fill(tokenTwo);
  await two.page.getByRole("button", { name: "Join" }).click();
  await standing(two, "joined as member 2");
  say("scrape web_bridge_connections 2");
});

await check("both tabs hear the client by UDP", async () => {
  say("udp says hello from a socket");
  await line(one, "member 0", "hello from a socket");
  await line(two, "member 0", "hello from a socket");
});

await check("each tab hears the other, and the client by UDP hears both", async () => {
  await one.page.keyboard.type("<b>one</b> & ünï");
  await one.page.keyboard.press("Enter");
  await line(two, "member 1", "<b>one</b> & ünï");
  await two.page.getByLabel("Message").fill("and two");
  await two.page.getByRole("button", { name: "Say" }).click();
  await line(one, "member 2", "and two");
  say("udp hears 1 <b>one</b> & ünï");
  say("udp hears 2 and two");
});

await check("members are listed, and how far the relay is", async () => {
  await member(one, "own").waitFor();
  await member(one, "m2").waitFor();
  await member(two, "m1").waitFor();
  await one.page.locator("#round-trip", { hasText: /^\d+\.\d ms$/ }).waitFor();
  await picture(one.page, join(directory, "bridge-light.png"));
  await two.page.emulateMedia({ colorScheme: "dark" });
  await picture(two.page, join(directory, "bridge-dark.png"));
});

await check("a tab that is closed is gone for the other, and its session is over", async () => {
  assert.deepEqual(two.faults, []);
  await two.page.close();
  say('scrape web_bridge_connections 1');
  say('scrape ended_sessions_total{reason="left"} 1');
  await line(one, "member 2", "is gone");
  await member(one, "m2").waitFor({ state: "detached" });
});

await check("who leaves is not let in again with the same token, and is told why", async () => {
  await one.page.getByRole("button", { name: "Leave" }).click();
  await standing(one, "not joined");
  await one.page.getByLabel("Token").fill(tokenOne);
  await one.page.keyboard.press("Enter");
  await standing(one, "refused: another client joined with this token");
  say('scrape web_bridge_auth_failures_total{reason="replayed"} 1');
});

await check("no error, no violation of the content security policy, no request to anybody else", async () => {
  assert.deepEqual(one.faults, []);
});

await Promise.race([browser.close(), new Promise((resolve) => setTimeout(resolve, PATIENCE).unref())]);
console.log(`${passed + failed.length} checks, ${failed.length} failed`);
process.exitCode = failed.length === 0 ? 0 : 1;

// A browser that is led through the page, and what is held against the page whatever it does.

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";

import { chromium } from "playwright-core";

/** Debian's, or what RELAYSCOPE_CHROMIUM names. */
const EXECUTABLE = process.env.RELAYSCOPE_CHROMIUM ?? "/usr/bin/chromium";
/** How long anything may take that has no time of its own to keep: milliseconds. */
export const PATIENCE = 28_000;

/** Nothing but the page talks to anybody, and nobody but this host is talked to. */
const FLAGS = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-domain-reliability",
  "--disable-extensions",
  "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication,CertificateTransparencyComponentUpdater",
  "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*",
  "--metrics-recording-only",
  "--no-first-run",
  "--no-pings",
];

export function launch(flags = []) {
  // The sandbox wants another user than root.
  const sandbox = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: EXECUTABLE, args: [...FLAGS, ...sandbox, ...flags] });
}

/**
 * A page, and the list of what it did that no page of ours does: errors, what the content security policy refused,
 * requests to anybody else.
 */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext(options);
  return { ...(await follow(await context.newPage(), url)), close: () => context.close() };
}

/** The same of a tab that is there. */
export async function follow(page, url) {
  page.setDefaultTimeout(PATIENCE);
  const faults = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(`console ${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`thrown: ${error.stack ?? error}`));
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (asked.protocol !== "data:" && asked.origin !== new URL(url).origin) faults.push(`request to ${asked.origin}`);
  });
  await page.exposeFunction("reportViolation", (what) => faults.push(`content security policy: ${what}`));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      window.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  await page.goto(url);
  return { page, faults };
}

/** A picture of what is seen, or of all there is. */
export async function picture(page, path, whole = false) {
  mkdirSync(dirname(path), { recursive: true });
  await page.screenshot({ path, fullPage: whole, animations: "disabled" });
}

/** The memory of a process in bytes: what is its own alone, and with its share of what is others', too. */
export function memory(pid) {
  const file = `/proc/${pid}/smaps_rollup`;
  if (!existsSync(file)) return { own: 0, shared: 0 };
  const text = readFileSync(file, "utf8");
  const kilobytes = (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? 0);
  return { own: (kilobytes("Private_Dirty") + kilobytes("Private_Clean")) * 1024, shared: kilobytes("Pss") * 1024 };
}

// How soon a page shows 1,000 targets, and what memory it takes while they change each second.
//
//   node tests/budget.mjs URL [MINUTES]
//
// Prints a line a minute and the figures; ends with 1 where a budget is exceeded. Not part of CI: it takes its time.

import { launch, memory, open, picture } from "./browser.mjs";

const [url, minutes = "10"] = process.argv.slice(2);
/** Milliseconds, and bytes. */
const BUDGET = { paint: 1000, memory: 150e6 };
/** Cold starts that are measured. */
const PAINTS = 5;
/** How often memory is looked at: milliseconds. */
const LOOK_EVERY = 5000;

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

async function paints() {
  const found = [];
  for (let at = 0; at < PAINTS; at += 1) {
    const browser = await launch();
    const { page } = await open(browser, url, { viewport: { width: 1400, height: 900 } });
    await page.locator("a.cell[data-key] .main").first().waitFor();
    await page.waitForTimeout(500);
    found.push(
      await page.evaluate(() => ({
        paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN,
        mesh: performance.getEntriesByName("mesh")[0]?.startTime ?? NaN,
      })),
    );
    await browser.close();
  }
  const worst = (name) => Math.max(...found.map((one) => one[name]));
  console.log(`first paint ${found.map(({ paint }) => paint.toFixed(0)).join(", ")} ms; the mesh ${found.map(({ mesh }) => mesh.toFixed(0)).join(", ")} ms`);
  return { paint: worst("paint"), mesh: worst("mesh") };
}

/** What the page's renderer takes, and all of the browser: the other renderers idle. */
async function taken(session) {
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const of = (type) => processInfo.filter((one) => one.type === type).map(({ id }) => memory(id));
  const renderer = of("renderer").reduce((a, b) => (a.shared > b.shared ? a : b));
  return { renderer, all: processInfo.map(({ id }) => memory(id).shared).reduce((a, b) => a + b) };
}

async function soak() {
  const browser = await launch(["--enable-precise-memory-info"]);
  const { page, faults } = await open(browser, url, { viewport: { width: 1400, height: 900 } });
  await page.locator("a.cell[data-key] .main").first().waitFor();
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  const processes = await browser.newBrowserCDPSession();
  const most = { shared: 0, own: 0 };
  const look = async () => {
    const { renderer, all } = await taken(processes);
    most.shared = Math.max(most.shared, renderer.shared);
    most.own = Math.max(most.own, renderer.own);
    return { renderer, all };
  };
  const looking = setInterval(look, LOOK_EVERY);
  for (let minute = 0; minute <= Number(minutes); minute += 1) {
    // In turns the mesh, scrolled, and a target with its plots, as an operator goes to and fro.
    const { metrics } = await session.send("Performance.getMetrics");
    const metric = (name) => metrics.find((one) => one.name === name)?.value ?? 0;
    const { renderer, all } = await look();
    console.log(
      `${String(minute).padStart(2)} min: renderer ${megabytes(renderer.shared)} MB (own ${megabytes(renderer.own)}), JS heap ${megabytes(metric("JSHeapUsedSize"))} MB, ` +
        `${metric("Nodes")} nodes, ${metric("JSEventListeners")} listeners, CPU ${(metric("TaskDuration") / Math.max(1, metric("Timestamp") - start(metric))).toFixed(3)}; all of the browser ${megabytes(all)} MB`,
    );
    if (minute === Number(minutes)) break;
    await visit(page, minute);
  }
  clearInterval(looking);
  await picture(page, "target/screenshots/budget.png");
  console.log(faults.length === 0 ? "no faults" : `faults: ${faults.join("; ")}`);
  await browser.close();
  return { most, faults };
}

let began = null;
function start(metric) {
  began ??= metric("Timestamp");
  return began;
}

/** A minute: half of it in the mesh from top to bottom, half with a target. */
async function visit(page, minute) {
  for (let step = 0; step < 15; step += 1) {
    await page.evaluate((part) => scrollTo(0, part * document.documentElement.scrollHeight), step / 15);
    await page.waitForTimeout(2000);
  }
  await page.evaluate(() => scrollTo(0, 0));
  await page.waitForTimeout(500);
  await page.locator("a.cell[data-key]").nth(minute).click();
  await page.waitForTimeout(28_000);
  await page.keyboard.press("Escape");
  await page.waitForTimeout(1000);
}

const { paint, mesh } = await paints();
const { most, faults } = await soak();
console.log(`first paint at most ${paint.toFixed(0)} ms, the mesh at most ${mesh.toFixed(0)} ms (budget ${BUDGET.paint}); memory at most ${megabytes(most.shared)} MB, its own ${megabytes(most.own)} (budget ${megabytes(BUDGET.memory)})`);
process.exit(paint <= BUDGET.paint && mesh <= BUDGET.paint && most.shared <= BUDGET.memory && faults.length === 0 ? 0 : 1);

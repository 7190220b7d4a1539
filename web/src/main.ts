/** Wires the live stream, the address and the parts of the page. */

import "./style/page.css";
import "./style/head.css";
import "./style/overview.css";
import "./style/cells.css";
import "./style/side.css";
import "./style/target.css";
import "./style/media.css";

import { wireCustom } from "./custom.ts";
import { byId, perFrame, setHidden } from "./dom.ts";
import { Feed, type News } from "./feed.ts";
import { drawHeader, setTitle } from "./header.ts";
import { askEvents, type Happened } from "./history.ts";
import { wireKeys } from "./keys.ts";
import { Overview } from "./overview.ts";
import { drawAlerts, drawLately, drawShards, Losses, sorted } from "./panels.ts";
import { Place } from "./place.ts";
import { merged } from "./series.ts";
import type { Spot } from "./spots.ts";
import { TargetView } from "./target.ts";
import { formatView, ofTarget } from "./view.ts";

/** Before the page was opened: seconds, and as many. */
const BEFORE = 86_400;
const BEFORE_MAX = 200;

let before: readonly Happened[] = [];
let looks = "";
let wasIn: string | null = null;
/** Whether the mesh was drawn once: for who measures how soon that is. */
let isMarked = false;

const draw = perFrame(drawAll);
const place = new Place(draw);
const feed = new Feed(take);
const overview = new Overview(draw);
const target = new TargetView(feed, place, draw);
const losses = new Losses();

function take(news: News): void {
  if (news === "relays" || news === "values") target.note();
  // At the begin of each stream: what happened while there was none was told to nobody.
  if (news === "relays") void askBefore();
  draw();
}

function href(spot: Spot): string | null {
  const { name, family } = spot.row;
  const hash = formatView(ofTarget(place.view, name, spot.label === name ? null : family));
  if (spot.relay.own) return hash;
  return spot.relay.url === null ? null : `${spot.relay.url}/${hash}`;
}

function drawAll(): void {
  const { view, utc } = place;
  const fresh = feed.isFresh();
  // What is old is told as of then: nothing lasts longer because nothing is heard.
  const now = fresh || feed.relays.length === 0 ? feed.now() : feed.now() - feed.age();
  const moment = { now, utc, view };
  const own = feed.relays.find((relay) => relay.own);
  const isMesh = view.target === null;
  setHidden(byId("overview"), !isMesh);
  setHidden(byId("target"), isMesh);
  document.body.classList.toggle("stale", !fresh && own !== undefined);
  drawHeader(feed, utc);
  setTitle(own?.name ?? "", view.target, sorted(feed.alerts?.alerts ?? []).standing.length);
  // Canvases do not follow styles by themselves, nor axes the zone.
  const by = `${place.theme} ${utc}`;
  if (by !== looks) {
    looks = by;
    target.restyle();
  }
  if (isMesh) {
    overview.draw({ relays: feed.relays, fresh, view, href });
    if (own && !isMarked) performance.mark("mesh");
    isMarked ||= own !== undefined;
    drawAlerts(feed.alerts, moment);
    drawLately(merged(before, feed.happened), moment);
    drawShards(feed.shards, losses, fresh, now);
  }
  target.draw();
  moveFocus(view.target);
}

/** Who goes from the mesh to a target, or to another, begins at its top; who comes back where they were. */
function moveFocus(to: string | null): void {
  const [from, isFirst] = [wasIn, wasIn === null && to === null];
  wasIn = to;
  if (isFirst || from === to) return;
  if (to === null) return overview.focus();
  scrollTo(0, 0);
  byId("main").focus({ preventScroll: true });
}

async function askBefore(): Promise<void> {
  const now = feed.now();
  const answer = await askEvents({ target: null, from: now - BEFORE, to: now, limit: BEFORE_MAX }, new AbortController().signal);
  if (answer.ok) before = answer.value.events;
  draw();
}

for (const button of document.querySelectorAll<HTMLButtonElement>("[data-jump]")) {
  button.addEventListener("click", () => byId(button.dataset["jump"] ?? "main").scrollIntoView());
}
for (const link of document.querySelectorAll<HTMLAnchorElement>("[data-skip], [data-home]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    if (link.dataset["home"] === undefined) byId("main").focus();
    else place.go({ target: null, family: null, filter: "" });
  });
}
wireKeys(place, overview, target, drawAll);
wireCustom(place, () => feed.now());
// Ages grow though nothing comes.
setInterval(draw, 1000);
draw();

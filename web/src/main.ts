/** Wires the live stream, the address and the parts of the page. */

import "./style.css";

import { byId, perFrame, setAttribute, setHidden } from "./dom.ts";
import { Feed, type News } from "./feed.ts";
import { askEvents, type Happened } from "./history.ts";
import { drawHeader, setTitle } from "./header.ts";
import { Overview } from "./overview.ts";
import { drawAlerts, drawLately, drawShards, Losses, sorted } from "./panels.ts";
import { Place } from "./place.ts";
import type { Spot } from "./spots.ts";
import { formatView, ofTarget } from "./view.ts";

const place = new Place(() => draw());
const draw = perFrame(drawAll);
const overview = new Overview(draw);
const losses = new Losses();
/** What happened before the page was opened. */
let before: readonly Happened[] = [];

const feed = new Feed((_news: News) => draw());
// Ages grow though nothing comes.
setInterval(draw, 1000);

function href(spot: Spot): string | null {
  const { name, family } = spot.row;
  const has = spot.label === name ? null : family;
  const hash = formatView(ofTarget(place.view, name, has));
  if (spot.relay.own) return hash;
  return spot.relay.url === null ? null : `${spot.relay.url}/${hash}`;
}

function drawAll(): void {
  const { view, utc } = place;
  const now = feed.now();
  const moment = { now, utc, view };
  const fresh = feed.isFresh();
  drawHeader(feed, utc);
  setHidden(byId("overview"), view.target !== null);
  overview.draw({ relays: feed.relays, fresh, view, href });
  drawAlerts(feed.alerts, moment);
  drawLately([...before, ...feed.happened], moment);
  drawShards(feed.shards, losses, fresh, now);
  setAttribute(document.body, "class", fresh || feed.relays.length === 0 ? null : "stale");
  const own = feed.relays.find((relay) => relay.own);
  setTitle(own?.name ?? "", view.target, sorted(feed.alerts?.alerts ?? []).standing.length);
}

async function askBefore(): Promise<void> {
  const answer = await askEvents({ target: null, from: feed.now() - 86_400, to: feed.now(), limit: 20 }, new AbortController().signal);
  if (answer.ok) before = answer.value.events;
  draw();
}

void askBefore();
draw();

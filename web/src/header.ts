/** The head of the page: which relay, whether what is shown is how things are, and the clock. */

import { byId, setAttribute, setText } from "./dom.ts";
import type { Feed, Standing } from "./feed.ts";
import { dateTime, spanInWords, zone } from "./time.ts";

const WORDS: Readonly<Record<Standing["kind"], string>> = {
  connecting: "connecting",
  live: "live",
  stale: "stale",
  reconnecting: "reconnecting",
};

/** How the stream stands and how old the figures are, in words. */
export function standingInWords({ kind, reason }: Standing, age: number): string {
  if (kind === "live") return WORDS.live;
  const last = Number.isFinite(age) && kind !== "connecting" ? `: figures are ${spanInWords(age)} old` : "";
  return `${WORDS[kind]}${last}${reason ? `; ${reason}` : ""}`;
}

export function drawHeader(feed: Feed, utc: boolean): void {
  const own = feed.relays.find((relay) => relay.own);
  const name = own?.name ?? "";
  setText(byId("relay"), name);
  const { standing } = feed;
  const chip = byId("standing");
  setAttribute(chip, "data-kind", standing.kind === "reconnecting" && feed.isFresh() ? "live" : standing.kind);
  setText(byId("standing-text"), standingInWords(standing, feed.age()));
  const now = feed.now();
  const [date, time] = dateTime(now, utc).split(" ");
  setText(byId("date"), date ?? "");
  setText(byId("clock"), time ?? "");
  setText(byId("zone"), zone(now, utc));
}

export function setTitle(relay: string, target: string | null, troubled: number): void {
  const of = target === null ? relay : `${target} seen by ${relay}`;
  const title = `${troubled > 0 ? `(${troubled}) ` : ""}${of ? `${of} · ` : ""}relayscope`;
  if (document.title !== title) document.title = title;
}

/** Beside the mesh: alerts, what happened lately, shards and their rings. */

import { byId, fill, make, part, setAttribute, setHidden, setText } from "./dom.ts";
import type { Alert, Alerts, Shard } from "./feed.ts";
import type { Happened, Kind } from "./history.ts";
import { count, OCCUPANCY, shortCount, STALE_AFTER } from "./level.ts";
import { shortTime, spanInWords } from "./time.ts";
import { formatView, ofTarget, type View } from "./view.ts";

export interface Moment {
  readonly now: number;
  readonly utc: boolean;
  readonly view: View;
}

/** As many of those that ended are shown. */
const ENDED_MAX = 5;
/** As many of the things that happened. */
const LATELY_MAX = 12;
/** What comes within as long of the one before is of the same kind the same event: seconds. */
const CROWD_PAUSE = 2;
/** As many are not counted: there may be more than are known here. */
const MANY = 100;
/** What a ring lost is news for as long: seconds. */
const LOST_IS_NEWS = 60;

const SEVERITY: Readonly<Record<string, number>> = { critical: 0, warning: 1, info: 2 };

function seconds(rfc3339: string): number {
  return Date.parse(rfc3339) / 1000;
}

/** Those that stand by severity, then the newest first; those that ended, the latest first. */
export function sorted(alerts: readonly Alert[]): { standing: Alert[]; ended: Alert[] } {
  const rank = (alert: Alert): number => SEVERITY[alert.labels["severity"] ?? ""] ?? 3;
  const standing = alerts.filter((alert) => alert.resolved === null);
  const ended = alerts.filter((alert) => alert.resolved !== null);
  standing.sort((a, b) => rank(a) - rank(b) || seconds(b.since) - seconds(a.since));
  ended.sort((a, b) => seconds(b.resolved ?? "") - seconds(a.resolved ?? ""));
  return { standing, ended };
}

/** In words: since when it stands, or when it ended and how long it took. */
export function sinceWhen(alert: Alert, now: number, utc: boolean): string {
  const since = seconds(alert.since);
  if (alert.resolved === null) return `for ${spanInWords(now - since)}, since ${shortTime(since, now, utc)}`;
  const ended = seconds(alert.resolved);
  return `ended ${spanInWords(now - ended)} ago at ${shortTime(ended, now, utc)}, lasted ${spanInWords(ended - since)}`;
}

const SEVERITY_MARK: Readonly<Record<string, string>> = { critical: "◆", warning: "▲" };

export function drawAlerts(alerts: Alerts | null, { now, utc, view }: Moment): void {
  const isOff = alerts?.enabled === false;
  const { standing, ended } = sorted(alerts?.alerts ?? []);
  setHidden(byId("alerts-off"), !isOff);
  setHidden(byId("alerts-none"), alerts === null || isOff || standing.length > 0);
  setText(byId("alerts-count"), standing.length > 0 ? String(standing.length) : "");
  byId("alerts").classList.toggle("firing", standing.length > 0);
  const put = (item: HTMLElement, alert: Alert): void => {
    const severity = alert.labels["severity"] ?? "";
    const target = alert.labels["target"];
    setAttribute(item, "class", alert.resolved === null ? `alert ${severity}` : "alert ended");
    setText(part(item, "mark"), alert.resolved === null ? (SEVERITY_MARK[severity] ?? "●") : "✓");
    setText(part(item, "name"), alert.labels["alertname"] ?? "alert");
    setText(part(item, "severity"), alert.resolved === null ? severity : "resolved");
    setText(part(item, "said"), alert.annotations["summary"] ?? "");
    setText(part(item, "since"), sinceWhen(alert, now, utc));
    const link = part(item, "name");
    setAttribute(link, "href", target ? formatView(ofTarget(view, target, null)) : null);
    setAttribute(item, "title", alert.annotations["description"] ?? null);
  };
  fill(byId("alerts-firing"), standing, makeAlert, put);
  fill(byId("alerts-ended"), ended.slice(0, ENDED_MAX), makeAlert, put);
}

function makeAlert(): HTMLElement {
  const head = make("span", { class: "title" }, make("span", { class: "mark", "aria-hidden": "true" }), make("a", { class: "name" }), make("span", { class: "severity" }));
  return make("li", { class: "alert" }, head, make("span", { class: "said" }), make("span", { class: "since" }));
}

export const KIND: Readonly<Record<Kind, { readonly mark: string; readonly word: string }>> = {
  peer_up: { mark: "▲", word: "up" },
  peer_down: { mark: "▼", word: "down" },
  alert_firing: { mark: "◆", word: "alert" },
  alert_resolved: { mark: "◇", word: "alert ended" },
  started: { mark: "▷", word: "relay started" },
  stopped: { mark: "□", word: "relay stopped" },
};

export function makeHappened(): HTMLElement {
  return make(
    "li",
    { class: "happened" },
    make("time"),
    make("span", { class: "mark", "aria-hidden": "true" }),
    make("span", { class: "said" }),
  );
}

export function putHappened(item: HTMLElement, event: Happened, { now, utc }: Moment): void {
  const time = item.getElementsByTagName("time")[0];
  if (time) {
    setText(time, shortTime(event.at, now, utc));
    setAttribute(time, "datetime", new Date(event.at * 1000).toISOString());
    setAttribute(time, "title", `${spanInWords(now - event.at)} ago`);
  }
  setAttribute(item, "class", `happened ${event.kind}`);
  setText(part(item, "mark"), KIND[event.kind]?.mark ?? "·");
  setText(part(item, "said"), event.summary);
}

/** The same that happened to many, one after the other. */
export interface Crowd {
  readonly first: Happened;
  readonly more: number;
}

/** The newest first; what came as one is one. */
export function crowds(happened: readonly Happened[]): Crowd[] {
  const found: { first: Happened; more: number }[] = [];
  let before: Happened | null = null;
  for (const event of happened.toReversed()) {
    const last = found.at(-1);
    if (last && before && event.kind === before.kind && before.at - event.at <= CROWD_PAUSE) last.more += 1;
    else found.push({ first: event, more: 0 });
    before = event;
  }
  return found;
}

export function drawLately(happened: readonly Happened[], moment: Moment): void {
  const latest = crowds(happened).slice(0, LATELY_MAX);
  setHidden(byId("lately"), latest.length === 0);
  fill(byId("lately-list"), latest, makeHappened, (item, { first, more }) => {
    putHappened(item, first, moment);
    if (more > 0) setText(part(item, "said"), `${first.summary}, and ${more >= MANY ? "many" : more} more`);
  });
}

/** Tells what a ring lost in the last minute from what it lost ever. */
export class Losses {
  readonly #seen = new Map<number, { lost: number; at: number }[]>();

  /** Of the last minute; null before there was anything to compare with. */
  note(shard: number, lost: number | null, now: number): number | null {
    if (lost === null) return null;
    const seen = this.#seen.get(shard) ?? [];
    this.#seen.set(shard, seen);
    // A data plane that began anew counts anew.
    if (lost < (seen.at(-1)?.lost ?? 0)) seen.length = 0;
    if (now > (seen.at(-1)?.at ?? -Infinity)) seen.push({ lost, at: now });
    while ((seen[1]?.at ?? Infinity) <= now - LOST_IS_NEWS) seen.shift();
    return lost - (seen[0]?.lost ?? lost);
  }
}

export function drawShards(shards: readonly Shard[], losses: Losses, fresh: boolean, now: number): void {
  setHidden(byId("shards"), shards.length === 0);
  fill(byId<HTMLTableSectionElement>("shards-rows"), shards, makeShard, (row, shard) => {
    const age = shard.heartbeat_age_seconds;
    const lostLately = losses.note(shard.shard, shard.lost, now);
    const used = shard.occupancy_ratio;
    setText(part(row, "shard"), String(shard.shard));
    setText(part(row, "verdict"), fresh ? shard.verdict : "stale");
    setAttribute(row, "title", shard.reason);
    row.classList.toggle("bad", shard.verdict !== "ok");
    setText(part(row, "beat"), ageText(age));
    part(row, "beat").classList.toggle("bad", age !== null && age > STALE_AFTER);
    setText(part(row, "drained"), ageText(shard.drained_age_seconds));
    setText(part(row, "ratio"), used === null ? "–" : `${(used * 100).toFixed(used < 0.1 ? 1 : 0)} %`);
    const bar = part(row, "level");
    bar.style.width = `${Math.min(1, used ?? 0) * 100}%`;
    bar.className = `level ${(used ?? 0) >= OCCUPANCY.bad ? "bad" : (used ?? 0) >= OCCUPANCY.warning ? "warning" : "good"}`;
    setAttribute(part(row, "ring"), "title", `${count(shard.unread)} of ${count(shard.capacity)} samples not yet read`);
    setText(part(row, "lost"), shortCount(shard.lost));
    setAttribute(part(row, "lost"), "title", `${count(shard.lost)} overwritten, of them ${count(lostLately)} in the last minute`);
    part(row, "lost").classList.toggle("bad", (lostLately ?? 0) > 0);
    setText(part(row, "recorded"), shortCount(shard.recorded));
    setAttribute(part(row, "recorded"), "title", count(shard.recorded));
  });
}

function ageText(age: number | null): string {
  return age === null ? "–" : age < 10 ? `${age.toFixed(1)} s` : spanInWords(age);
}

function makeShard(): HTMLTableRowElement {
  const ring = make("td", { class: "ring" }, make("span", { class: "bar", "aria-hidden": "true" }, make("span", { class: "level" })), make("span", { class: "ratio" }));
  return make(
    "tr",
    {},
    make("th", { scope: "row", class: "shard" }),
    make("td", { class: "verdict" }),
    make("td", { class: "beat number" }),
    make("td", { class: "drained number" }),
    ring,
    make("td", { class: "lost number" }),
    make("td", { class: "recorded number" }),
  );
}

/** One target: how it is now, how it was, and what happened. */

import { byId, fill, make, part, setAttribute, setHidden, setText } from "./dom.ts";
import type { Feed } from "./feed.ts";
import { askEvents, askHistory, type Happened, type History } from "./history.ts";
import { count, figureLevel, inWords, level, MARK, NAME, type Figure } from "./level.ts";
import { chosen, rowsOf, type Row } from "./mesh.ts";
import { makeHappened, putHappened } from "./panels.ts";
import type { Place } from "./place.ts";
import { Plots } from "./plot.ts";
import { drawReadout } from "./readout.ts";
import { ceiling, eventsOf, joined, knownUntil, series, stepAt, stretches, Tail, type Series } from "./series.ts";
import { between, isLive, panned, RANGES, resolve, shortTime, spanInWords, zoomed, type Range } from "./time.ts";
import { formatView, type Family } from "./view.ts";

/** History has nothing new more often: seconds. */
const REFRESH_MIN = 10;
/** The newest steps are asked for again: they were not whole. */
const AGAIN = 3;
const EVENTS_MAX = 500;
/** As many are listed; all are marked on the plots. */
const LISTED_MAX = 100;

interface Loaded {
  /** What it was asked for. */
  readonly key: string;
  history: History;
  series: Series;
  events: readonly Happened[];
  /** When it was asked for last, by the relay's clock. */
  at: number;
}

export class TargetView {
  readonly #feed: Feed;
  readonly #place: Place;
  readonly #redraw: () => void;
  readonly #tail = new Tail();
  #plots: Plots | null = null;
  #loaded: Loaded | null = null;
  #asking: { key: string; abort: AbortController } | null = null;
  /** Why there is no history, and of what. */
  #refused: { key: string; why: string; at: number } | null = null;
  #of = "";
  #cursor: number | null = null;

  constructor(feed: Feed, place: Place, redraw: () => void) {
    this.#feed = feed;
    this.#place = place;
    this.#redraw = redraw;
    this.#wire();
  }

  /** Notes what came, though it may not be drawn. */
  note(): void {
    const row = this.#row();
    if (row && this.#feed.isFresh()) this.#tail.note(this.#feed.now(), row.state === "up" ? row.rtt : null);
  }

  draw(): void {
    const { view, utc } = this.#place;
    if (view.target === null) return this.#leave();
    const row = this.#row();
    const of = `${view.target}\n${view.family ?? row?.family ?? ""}`;
    if (of !== this.#of) {
      this.#of = of;
      this.#tail.clear();
      this.#loaded = null;
      this.#cursor = null;
    }
    const now = this.#feed.now();
    this.#drawHead(row, now);
    this.#load(now);
    this.#drawHistory(now, utc);
  }

  /** In the theme and the zone of the moment. */
  restyle(): void {
    this.#plots?.restyle();
    this.#redraw();
  }

  /** What keys do. */
  zoom(factor: number): void {
    this.#setRange(zoomed(this.#place.view.range, factor, this.#feed.now()));
  }

  pan(part: number): void {
    this.#setRange(panned(this.#place.view.range, part, this.#feed.now()));
  }

  #row(): Row | null {
    const { target, family } = this.#place.view;
    return target === null ? null : chosen(rowsOf(this.#feed.relays, target), family);
  }

  #leave(): void {
    this.#of = "";
    this.#asking?.abort.abort();
    this.#asking = null;
    this.#loaded = null;
    this.#plots?.close();
    this.#tail.clear();
  }

  #setRange(range: Range): void {
    this.#place.go({ range });
  }

  // The head: the newest of the live stream.

  #drawHead(row: Row | null, now: number): void {
    const { view, utc } = this.#place;
    setText(byId("target-name"), view.target ?? "");
    setAttribute(byId("back"), "href", formatView({ ...view, target: null, family: null }));
    const known = this.#feed.relays.length > 0;
    setHidden(byId("target-unknown"), !known || row !== null);
    setHidden(byId("target-now"), row === null);
    const fresh = this.#feed.isFresh();
    const is = row === null ? null : fresh ? level(row) : "stale";
    const state = byId("target-state");
    setHidden(state, is === null);
    if (row && is) {
      setAttribute(state, "class", `state ${is}`);
      setText(state, `${MARK[is]} ${fresh ? row.state : "stale"}`);
      setText(byId("target-since"), this.#sinceWhen(row, now, utc));
      for (const figure of ["rtt", "loss", "jitter"] as const) {
        const element = byId(`now-${figure}`);
        setText(element, row.state === "down" && figure !== "loss" ? "–" : inWords(figure, row[figure]));
        setAttribute(element, "class", fresh ? figureLevel(figure, row[figure]) : "stale");
      }
      setText(byId("now-reply"), row.lastReplyAge === null ? "never" : row.lastReplyAge < 1 ? "just now" : `${spanInWords(row.lastReplyAge)} ago`);
      setText(byId("now-answered"), `${count(row.received)} of ${count(row.sent)}`);
      const about = [row.address ?? "no address yet", row.protocol, row.group === null ? null : `group ${row.group}`, `shard ${row.shard}`];
      setText(byId("target-about"), about.filter((one) => one !== null).join(" · "));
    }
    this.#drawFamilies();
    this.#drawOthers();
  }

  /** Since when it is as it is, as far as events or its last reply tell. */
  #sinceWhen(row: Row, now: number, utc: boolean): string {
    const turned = this.#events().findLast((event) => event.kind === "peer_up" || event.kind === "peer_down");
    const kind = row.state === "up" ? "peer_up" : "peer_down";
    if (row.state !== "up" && row.state !== "down") return "";
    if (turned?.kind === kind) return `for ${spanInWords(now - turned.at)}, since ${shortTime(turned.at, now, utc)}`;
    return row.state === "down" && row.lastReplyAge !== null ? `last reply ${spanInWords(row.lastReplyAge)} ago` : "";
  }

  #drawFamilies(): void {
    const { view } = this.#place;
    const rows = view.target === null ? [] : rowsOf(this.#feed.relays, view.target);
    const families = rows.map((row) => row.family).filter((family) => family !== null);
    setHidden(byId("families"), families.length < 2);
    const shown = this.#row()?.family ?? null;
    fill(byId("families-list"), families, makeFamily, (item, family) => {
      const link = part(item, "family");
      setText(link, family === "ipv4" ? "IPv4" : "IPv6");
      setAttribute(link, "href", formatView({ ...view, family }));
      setAttribute(link, "aria-current", family === shown ? "true" : null);
    });
  }

  #drawOthers(): void {
    const { target } = this.#place.view;
    const others = this.#feed.relays.filter((relay) => !relay.own && relay.rows.some((row) => row.name === target));
    setHidden(byId("others"), others.length === 0);
    fill(byId("others-list"), others, makeOther, (item, relay) => {
      const row = chosen(relay.rows.filter((one) => one.name === target), null);
      const link = part(item, "name");
      setText(link, relay.name);
      setAttribute(link, "href", relay.url === null ? null : `${relay.url}/${formatView({ ...this.#place.view, family: null })}`);
      const is = row === null ? "stale" : level(row);
      setAttribute(part(item, "state"), "class", `state ${is}`);
      setText(part(item, "state"), `${MARK[is]} ${row?.state ?? ""}`);
      setText(part(item, "said"), row ? (["rtt", "loss", "jitter"] as const).map((figure) => `${NAME[figure]} ${inWords(figure, row[figure])}`).join(", ") : "");
    });
  }

  // History: loaded as it is looked at.

  #load(now: number): void {
    const { target, family, range } = this.#place.view;
    // Before the stream told which families there are, the relay chooses.
    if (target === null || (this.#feed.relays.length === 0 && this.#feed.standing.kind === "connecting")) return;
    const of: Family | null = this.#row()?.family ?? family;
    const key = `${target}\n${of ?? ""}\n${range.from}\n${range.to}`;
    const loaded = this.#loaded?.key === key ? this.#loaded : null;
    if (this.#asking?.key === key) return;
    if (this.#asking) {
      this.#asking.abort.abort();
      this.#asking = null;
    }
    const pause = Math.max(REFRESH_MIN, loaded?.history.step ?? 0);
    const last = Math.max(loaded?.at ?? -Infinity, this.#refused?.key === key ? this.#refused.at : -Infinity);
    const isOver = loaded !== null && !isLive(range);
    const isDue = !isOver && now - last >= pause;
    if (isDue) void this.#ask({ key, target, family: of, range, loaded, now });
  }

  async #ask(of: { key: string; target: string; family: Family | null; range: Range; loaded: Loaded | null; now: number }): Promise<void> {
    const { key, target, family, range, loaded, now } = of;
    const abort = new AbortController();
    this.#asking = { key, abort };
    const [from, to] = resolve(range, now);
    // Only what is new, where the rest is there.
    const step = loaded?.history.step ?? null;
    const known = loaded ? knownUntil(loaded.history) : null;
    const begin = loaded && step && known !== null ? Math.max(from, known - AGAIN * step) : from;
    const answers = await Promise.all([
      askHistory({ target, family, from: begin, to, step }, abort.signal),
      askEvents({ target, from: begin, to, limit: EVENTS_MAX }, abort.signal),
    ]).catch(() => null);
    // Something else is looked at by now.
    if (answers === null || this.#asking?.abort !== abort) return;
    this.#asking = null;
    const [history, events] = answers;
    if (!history.ok) {
      this.#refused = { key, why: history.why, at: now };
      if (this.#loaded?.key !== key) this.#loaded = null;
    } else if (loaded && step !== history.value.step) {
      // So far back there are longer steps only: all of it anew.
      this.#loaded = null;
    } else {
      this.#refused = null;
      const whole = loaded && begin > from ? joined(loaded.history, history.value, from) : history.value;
      const kept = loaded?.events ?? [];
      const happened = events.ok ? [...kept.filter(({ at }) => at >= from && at < begin), ...events.value.events] : kept;
      this.#loaded = { key, history: whole, series: series(whole), events: happened, at: now };
    }
    this.#redraw();
  }

  #events(): Happened[] {
    const { target, range } = this.#place.view;
    const [from, to] = resolve(range, this.#feed.now());
    return eventsOf(this.#loaded?.events ?? [], this.#feed.happened, target ?? "", from, to);
  }

  #drawHistory(now: number, utc: boolean): void {
    const { range } = this.#place.view;
    const [from, to] = resolve(range, now);
    for (const button of byId("ranges").querySelectorAll<HTMLButtonElement>("[data-range]")) {
      setAttribute(button, "aria-pressed", String(range.to === "now" && range.from === `-${button.dataset["range"] ?? ""}`));
    }
    setText(byId("range-said"), `${shortTime(from, now, utc)} – ${isLive(range) ? "now" : shortTime(to, now, utc)} (${spanInWords(to - from)})`);
    const loaded = this.#loaded;
    const said = byId("history-said");
    const isAsking = this.#asking !== null && loaded === null;
    setText(said, this.#refused ? `No history: ${this.#refused.why}` : isAsking ? "loading history" : "");
    setHidden(said, said.textContent === "");
    const events = this.#events();
    this.#drawEvents(events, now, utc);
    const step = loaded?.history.step ?? 1;
    const until = (loaded ? knownUntil(loaded.history) : null) ?? from;
    const isFine = step <= 30 && isLive(range);
    const live = isFine || !loaded ? this.#tail.since(loaded ? until : from) : { at: [], rtt: [] };
    const drawn = loaded?.series ?? NOTHING;
    this.#plots ??= this.#makePlots();
    this.#plots.draw({
      series: drawn,
      stretches: loaded ? stretches(loaded.history, isLive(range) ? until : to) : [],
      events,
      live,
      from,
      to,
      ceiling: ceiling(drawn),
    });
    drawReadout(loaded?.history ?? null, drawn, this.#cursor === null ? null : stepAt(drawn, this.#cursor), now, utc);
  }

  #makePlots(): Plots {
    const hosts: Record<Figure, HTMLElement> = { rtt: byId("plot-rtt"), loss: byId("plot-loss"), jitter: byId("plot-jitter") };
    return new Plots(hosts, {
      utc: () => this.#place.utc,
      zoom: (from, to) => this.#setRange(between(from, to, this.#feed.now())),
      cursor: (at) => {
        this.#cursor = at;
        this.#redraw();
      },
    });
  }

  #drawEvents(events: readonly Happened[], now: number, utc: boolean): void {
    const listed = events.slice(-LISTED_MAX).reverse();
    const moment = { now, utc, view: this.#place.view };
    setHidden(byId("events-none"), listed.length > 0);
    setText(byId("events-more"), events.length > listed.length ? `and ${events.length - listed.length} more before` : "");
    fill(byId("events-list"), listed, makeHappened, (item, event) => {
      putHappened(item, event, moment);
      setAttribute(item, "data-at", String(event.at));
    });
  }

  #wire(): void {
    byId("ranges").addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("button") : null;
      const { range, act } = button?.dataset ?? {};
      if (range && RANGES.includes(range)) this.#setRange({ from: `-${range}`, to: "now" });
      if (act === "in") this.zoom(0.5);
      if (act === "out") this.zoom(2);
      if (act === "before") this.pan(-0.5);
      if (act === "after") this.pan(0.5);
    });
    byId("events-list").addEventListener("click", (event) => {
      const at = event.target instanceof Element ? event.target.closest("[data-at]")?.getAttribute("data-at") : null;
      if (at) this.#plots?.pointAt(Number(at));
    });
    const plots = byId("plots");
    plots.addEventListener("dblclick", () => this.zoom(2));
    plots.addEventListener("keydown", (event) => this.#key(event));
    // Numbers are read aloud to who leads the cursor by keys, not while they change by themselves.
    plots.addEventListener("focus", () => byId("readout").setAttribute("aria-live", "polite"));
    plots.addEventListener("blur", () => byId("readout").setAttribute("aria-live", "off"));
  }

  /** The arrows lead the cursor from step to step. */
  #key(event: KeyboardEvent): void {
    const drawn = this.#loaded?.series;
    if (!drawn || drawn.x.length === 0 || event.altKey || event.metaKey || event.ctrlKey) return;
    const last = drawn.x.length - 1;
    const at = this.#cursor === null ? null : stepAt(drawn, this.#cursor);
    const by = event.shiftKey ? 10 : 1;
    const to: Record<string, number> = {
      ArrowLeft: (at ?? last + 1) - by,
      ArrowRight: (at ?? last - 1) + by,
      Home: 0,
      End: last,
    };
    const next = to[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const x = drawn.x[Math.min(Math.max(next, 0), last)];
    if (x !== undefined) this.#plots?.pointAt(x);
  }
}

const NOTHING: Series = {
  step: 10,
  x: [],
  max: [],
  p95: [],
  p75: [],
  p50: [],
  p25: [],
  p05: [],
  min: [],
  jitter: [],
  loss: [],
  forward: [],
  reverse: [],
  unknown: [],
  directions: { forward: [], reverse: [], unknown: [] },
};

function makeFamily(): HTMLElement {
  return make("li", {}, make("a", { class: "family" }));
}

function makeOther(): HTMLElement {
  return make("li", {}, make("a", { class: "name" }), make("span", { class: "state" }), make("span", { class: "said" }));
}

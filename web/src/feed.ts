/** The live stream: what it told last, whether it is alive, and how it is found again. */

import { refusalInWords } from "./ask.ts";
import type { Happened } from "./history.ts";
import { STALE_AFTER } from "./level.ts";
import { putValues, readRelays, type Relay, type RelaysJson, type ValuesJson } from "./mesh.ts";

export interface Shard {
  shard: number;
  verdict: string;
  reason: string | null;
  heartbeat_age_seconds: number | null;
  drained_age_seconds: number | null;
  recorded: number | null;
  drained: number | null;
  lost: number | null;
  unread: number | null;
  capacity: number | null;
  occupancy_ratio: number | null;
}

export interface Alert {
  state: "firing" | "resolved";
  labels: Readonly<Record<string, string>>;
  annotations: Readonly<Record<string, string>>;
  value: number;
  threshold: number;
  since: string;
  resolved: string | null;
}

export interface Alerts {
  enabled?: boolean;
  alerts?: Alert[];
}

/** How the stream stands. `reason` says in words why it is not live. */
export interface Standing {
  readonly kind: "connecting" | "live" | "stale" | "reconnecting";
  readonly reason: string | null;
}

export type News = "relays" | "values" | "shards" | "alerts" | "happened" | "standing";

/** The first pause before the stream is opened again, and the longest: milliseconds. */
const PAUSE_FIRST = 1000;
const PAUSE_MAX = 15_000;
/** A stream that says nothing for as long is dead, whatever the browser thinks: milliseconds. */
const SILENCE_MAX = 10_000;
/** A page that nobody sees for as long leaves its place to others: milliseconds. */
const UNSEEN_MAX = 300_000;
/** The latest things that happened are kept, as many. */
export const HAPPENED_MAX = 200;
/** How often it is looked whether the stream is alive: milliseconds. */
const LOOK_EVERY = 1000;

const EVENTS = ["relays", "values", "shards", "alerts", "happened"] as const;

export class Feed {
  relays: Relay[] = [];
  shards: Shard[] = [];
  alerts: Alerts | null = null;
  /** Since the page was opened, newest last. */
  readonly happened: Happened[] = [];
  standing: Standing = { kind: "connecting", reason: null };

  #source: EventSource | null = null;
  #pause = PAUSE_FIRST;
  #reopen = 0;
  #unseen = 0;
  /** When something came last, by both clocks: one of them stands still while the machine sleeps. */
  #heard: readonly [number, number] | null = null;
  /** When figures came last. */
  #figures: readonly [number, number] | null = null;
  #ahead = 0;
  readonly #tell: (news: News) => void;

  constructor(tell: (news: News) => void) {
    this.#tell = tell;
    setInterval(() => this.#look(), LOOK_EVERY);
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("online", () => this.#source ?? this.#open());
    this.#open();
  }

  /** Now by the relay's clock: the browser's may be wrong. */
  now(): number {
    return Date.now() / 1000 + this.#ahead;
  }

  /** The age of the figures in seconds; infinite where there are none. */
  age(): number {
    return this.#figures ? elapsed(this.#figures) / 1000 : Infinity;
  }

  /** Whether figures may be shown as how things are. */
  isFresh(): boolean {
    return this.age() <= STALE_AFTER;
  }

  #open(): void {
    clearTimeout(this.#reopen);
    this.#source?.close();
    const source = new EventSource("api/v1/live");
    this.#source = source;
    this.#heard = clocks();
    for (const name of EVENTS) {
      source.addEventListener(name, (event: MessageEvent<string>) => this.#take(name, event.data));
    }
    source.onerror = () => this.#lost(source);
  }

  #take(name: (typeof EVENTS)[number], data: string): void {
    this.#heard = clocks();
    let json: unknown;
    try {
      json = JSON.parse(data);
    } catch {
      return; // Cut off: the next one is whole.
    }
    switch (name) {
      case "relays":
        this.relays = readRelays(json as RelaysJson);
        this.#figuresOf((json as RelaysJson).at);
        break;
      case "values":
        if (!putValues(this.relays, json as ValuesJson)) return;
        this.#figuresOf((json as ValuesJson).at);
        break;
      case "shards":
        this.shards = (json as { shards: Shard[] }).shards;
        break;
      case "alerts":
        this.alerts = json as Alerts;
        break;
      case "happened":
        this.happened.push(...(json as { events: Happened[] }).events);
        this.happened.splice(0, this.happened.length - HAPPENED_MAX);
        break;
    }
    this.#tell(name);
  }

  #figuresOf(at: number): void {
    this.#figures = clocks();
    this.#ahead = at - Date.now() / 1000;
    this.#pause = PAUSE_FIRST;
    this.#stand({ kind: "live", reason: null });
  }

  #lost(source: EventSource): void {
    if (source !== this.#source) return;
    source.close();
    this.#source = null;
    this.#stand({ kind: "reconnecting", reason: this.standing.reason });
    // Never all pages at once: the relay may just have come back.
    const pause = this.#pause * (0.75 + Math.random() / 2);
    this.#pause = Math.min(this.#pause * 2, PAUSE_MAX);
    this.#reopen = window.setTimeout(() => this.#open(), pause);
    void this.#findReason();
  }

  /** The browser does not tell why a stream was refused; the status of another attempt does. */
  async #findReason(): Promise<void> {
    const attempt = new AbortController();
    let reason: string | null;
    try {
      const response = await fetch("api/v1/live", { signal: attempt.signal, headers: { accept: "text/event-stream" } });
      reason = response.ok ? null : refusalInWords(response.status, await response.text());
    } catch {
      reason = refusalInWords(0, "");
    }
    attempt.abort();
    if (this.standing.kind === "reconnecting") this.#stand({ kind: "reconnecting", reason });
  }

  #look(): void {
    if (this.#source && this.#heard && elapsed(this.#heard) > SILENCE_MAX) this.#lost(this.#source);
    if (this.standing.kind === "live" && !this.isFresh()) this.#stand({ kind: "stale", reason: null });
  }

  #seen(): void {
    clearTimeout(this.#unseen);
    if (document.hidden) {
      this.#unseen = window.setTimeout(() => this.#leave(), UNSEEN_MAX);
    } else if (!this.#source) {
      this.#pause = PAUSE_FIRST;
      this.#open();
    }
  }

  #leave(): void {
    clearTimeout(this.#reopen);
    this.#source?.close();
    this.#source = null;
    this.#stand({ kind: "reconnecting", reason: "nobody looked at this page" });
  }

  #stand(standing: Standing): void {
    if (standing.kind === this.standing.kind && standing.reason === this.standing.reason) return;
    this.standing = standing;
    this.#tell("standing");
  }
}

function clocks(): readonly [number, number] {
  return [performance.now(), Date.now()];
}

/** Milliseconds by the clock that went further. */
function elapsed(since: readonly [number, number]): number {
  return Math.max(performance.now() - since[0], Date.now() - since[1], 0);
}

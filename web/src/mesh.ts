/** The mesh as the live stream tells it: relays that look, and what each sees. */

import type { State } from "./level.ts";
import type { Family } from "./view.ts";

/** What one relay sees of one target by one address family. Its figures change in place. */
export interface Row {
  readonly name: string;
  readonly family: Family | null;
  readonly address: string | null;
  readonly protocol: string | null;
  readonly group: string | null;
  readonly shard: number;
  state: State;
  rtt: number | null;
  loss: number | null;
  jitter: number | null;
  lastReplyAge: number | null;
  sent: number | null;
  received: number | null;
}

export interface Relay {
  readonly name: string;
  readonly own: boolean;
  /** Its own page; null where it has none that a browser may be sent to. */
  readonly url: string | null;
  reachable: boolean;
  age: number | null;
  error: string | null;
  running: boolean;
  reason: string | null;
  targets: number;
  up: number;
  readonly rows: readonly Row[];
}

interface RowJson {
  name: string;
  family: Family | null;
  address: string | null;
  protocol: string | null;
  group: string | null;
  shard: number;
  state: State;
  rtt_ms: number | null;
  loss_pct: number | null;
  jitter_ms: number | null;
  last_reply_age_seconds: number | null;
  sent: number | null;
  received: number | null;
}

interface StandingJson {
  reachable: boolean;
  age_seconds: number | null;
  error: string | null;
  running?: boolean | null;
  reason?: string | null;
  up?: number | null;
}

export interface RelaysJson {
  at: number;
  relays: (StandingJson & { name: string; own: boolean; url: string | null; targets?: number | null; rows?: RowJson[] | null })[];
}

type Values = [State, number | null, number | null, number | null, number | null, number | null, number | null];

export interface ValuesJson {
  at: number;
  relays: (StandingJson & { rows?: Values[] | null })[];
}

/** Only what a browser opens as a page: a configuration is no place to run scripts from. */
export function pageUrl(url: string | null): string | null {
  if (url === null) return null;
  try {
    const { protocol, href } = new URL(url);
    return protocol === "http:" || protocol === "https:" ? href.replace(/\/$/, "") : null;
  } catch {
    return null;
  }
}

export function readRelays(json: RelaysJson): Relay[] {
  return json.relays.map((relay) => ({
    name: relay.name,
    own: relay.own,
    url: pageUrl(relay.url),
    reachable: relay.reachable,
    age: relay.age_seconds,
    error: relay.error,
    running: relay.running ?? false,
    reason: relay.reason ?? null,
    targets: relay.targets ?? 0,
    up: relay.up ?? 0,
    rows: (relay.rows ?? []).map((row) => ({
      name: row.name,
      family: row.family,
      address: row.address,
      protocol: row.protocol,
      group: row.group,
      shard: row.shard,
      state: row.state,
      rtt: row.rtt_ms,
      loss: row.loss_pct,
      jitter: row.jitter_ms,
      lastReplyAge: row.last_reply_age_seconds,
      sent: row.sent,
      received: row.received,
    })),
  }));
}

/** Puts in the newest figures; false, and nothing is changed, where they are of other rows than these. */
export function putValues(relays: readonly Relay[], json: ValuesJson): boolean {
  const fits = (relay: Relay, at: number): boolean => {
    const rows = json.relays[at]?.rows ?? [];
    return rows.length === relay.rows.length || rows.length === 0;
  };
  if (json.relays.length !== relays.length || !relays.every(fits)) return false;
  relays.forEach((relay, at) => {
    const news = json.relays[at];
    if (!news) return;
    relay.reachable = news.reachable;
    relay.age = news.age_seconds;
    relay.error = news.error;
    relay.running = news.running ?? false;
    relay.reason = news.reason ?? null;
    relay.up = news.up ?? 0;
    news.rows?.forEach((values, index) => {
      const row = relay.rows[index];
      if (row) [row.state, row.rtt, row.loss, row.jitter, row.lastReplyAge, row.sent, row.received] = values;
    });
  });
  return true;
}

/** The own relay's rows of a target: one, or one of each family. */
export function rowsOf(relays: readonly Relay[], target: string): Row[] {
  return relays.find((relay) => relay.own)?.rows.filter((row) => row.name === target) ?? [];
}

/** Of a target's rows the one to look at: of the family asked for, else one that answers, else the first. */
export function chosen(rows: readonly Row[], family: Family | null): Row | null {
  const asked = rows.find((row) => row.family === family && family !== null);
  return asked ?? rows.find((row) => row.state === "up") ?? rows[0] ?? null;
}

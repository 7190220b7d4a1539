/** History and events as the relay keeps them. */

import { ask, type Answer } from "./ask.ts";
import type { Family } from "./view.ts";

type Column = (number | null)[];

/** A regular grid: what was not measured is null. RTT and jitter in seconds. */
export interface Points {
  time: number[];
  answered: Column;
  lost: Column;
  lost_forward: Column;
  lost_reverse: Column;
  rtt_min: Column;
  rtt_mean: Column;
  rtt_max: Column;
  rtt_p05: Column;
  rtt_p25: Column;
  rtt_p50: Column;
  rtt_p75: Column;
  rtt_p95: Column;
  rtt_p99: Column;
  jitter: Column;
}

export interface History {
  readonly target: string;
  readonly family: Family | null;
  readonly families: readonly Family[];
  readonly from: number;
  readonly to: number;
  /** Seconds from a point to the next. */
  readonly step: number;
  readonly tier: string;
  readonly points: Points;
}

export type Kind = "peer_up" | "peer_down" | "alert_firing" | "alert_resolved" | "started" | "stopped";

export interface Happened {
  readonly at: number;
  readonly kind: Kind;
  readonly target: string | null;
  readonly alertname: string | null;
  readonly severity: string | null;
  readonly summary: string;
}

export interface Events {
  readonly events: readonly Happened[];
  readonly left_off: number;
}

function query(parameters: Readonly<Record<string, string | number | null>>): string {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null) given.set(name, String(value));
  }
  return given.toString();
}

export function askHistory(
  of: { target: string; family: Family | null; from: number; to: number; step: number | null },
  signal: AbortSignal,
): Promise<Answer<History>> {
  return ask(`api/v1/history?${query(of)}`, signal);
}

export function askEvents(
  of: { target: string | null; from: number; to: number; limit: number },
  signal: AbortSignal,
): Promise<Answer<Events>> {
  return ask(`api/v1/events?${query(of)}`, signal);
}

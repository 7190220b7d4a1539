/** History made ready to be drawn. */

import type { Happened, History, Points } from "./history.ts";

type Column = (number | null)[];

/** Milliseconds and percent, by step; `x` is the middle of each. */
export interface Series {
  readonly step: number;
  readonly x: number[];
  readonly max: Column;
  readonly p95: Column;
  readonly p75: Column;
  readonly p50: Column;
  readonly p25: Column;
  readonly p05: Column;
  readonly min: Column;
  readonly jitter: Column;
  /** Of the probes that settled, in percent; null where none did. */
  readonly loss: Column;
  readonly forward: Column;
  readonly reverse: Column;
  /** Of those whose direction nobody knows. */
  readonly unknown: Column;
  readonly directions: Directions;
}

/** Losses by direction, where they happened; null where nothing was measured. */
export interface Directions {
  readonly forward: Column;
  readonly reverse: Column;
  readonly unknown: Column;
}

/** A direction is told with one of the next 16 replies, and a few more where they come in another order. */
const TOLD_WITHIN = 64;

/** A stretch without RTT: because all was lost, or because nothing was measured. */
export interface Stretch {
  readonly kind: "lost" | "missing";
  readonly from: number;
  readonly to: number;
}

const scaled = (column: Column, by: number): Column => column.map((value) => (value === null ? null : value * by));

export function series(history: History): Series {
  const { points, step } = history;
  const settled = points.answered.map((answered, at) => (answered === null ? null : answered + (points.lost[at] ?? 0)));
  const share = (count: Column): Column =>
    count.map((value, at) => {
      const of = settled[at];
      return value === null || !of ? null : Math.min(100, (value / of) * 100);
    });
  const told = directions(points);
  return {
    step,
    x: points.time.map((time) => time + step / 2),
    max: scaled(points.rtt_max, 1e3),
    p95: scaled(points.rtt_p95, 1e3),
    p75: scaled(points.rtt_p75, 1e3),
    p50: scaled(points.rtt_p50, 1e3),
    p25: scaled(points.rtt_p25, 1e3),
    p05: scaled(points.rtt_p05, 1e3),
    min: scaled(points.rtt_min, 1e3),
    jitter: scaled(points.jitter, 1e3),
    loss: share(points.lost),
    forward: share(told.forward),
    reverse: share(told.reverse),
    unknown: share(told.unknown),
    directions: told,
  };
}

/**
 * Gives the losses of each step their direction: history has that in the step of the reply that told it, which after an
 * outage is the first one thereafter. The oldest losses that still have none get it, unless so many replies came since
 * that none of them can have told it.
 */
export function directions(points: Points): Directions {
  const empty = (): Column => points.lost.map((lost) => (lost === null ? null : 0));
  const [forward, reverse] = [empty(), empty()];
  const waiting: { at: number; left: number; replies: number }[] = [];
  points.lost.forEach((lost, at) => {
    if (lost) waiting.push({ at, left: lost, replies: 0 });
    let there = points.lost_forward[at] ?? 0;
    let back = points.lost_reverse[at] ?? 0;
    while (there + back > 0) {
      const first = waiting[0];
      if (!first) break;
      const taken = Math.min(first.left, there + back);
      const takenThere = Math.round((taken * there) / (there + back));
      forward[first.at] = (forward[first.at] ?? 0) + takenThere;
      reverse[first.at] = (reverse[first.at] ?? 0) + taken - takenThere;
      there -= takenThere;
      back -= taken - takenThere;
      first.left -= taken;
      if (first.left === 0) waiting.shift();
    }
    for (const one of waiting) if (one.at < at) one.replies += points.answered[at] ?? 0;
    while (waiting[0] && waiting[0].replies > TOLD_WITHIN) waiting.shift();
  });
  const unknown = points.lost.map((lost, at) => (lost === null ? null : lost - (forward[at] ?? 0) - (reverse[at] ?? 0)));
  return { forward, reverse, unknown };
}

/** Where the newest step ends of which anything is known; null where nothing is. */
export function knownUntil(history: History): number | null {
  const { time, answered, lost } = history.points;
  for (let at = time.length - 1; at >= 0; at -= 1) {
    if ((answered[at] ?? null) !== null || (lost[at] ?? null) !== null) return (time[at] ?? 0) + history.step;
  }
  return null;
}

/** Whatever has no RTT before `until`, each stretch as long as it is. */
export function stretches(history: History, until: number): Stretch[] {
  const { time, answered, lost } = history.points;
  const found: { kind: Stretch["kind"]; from: number; to: number }[] = [];
  time.forEach((from, at) => {
    if (from >= until) return;
    const isMissing = (answered[at] ?? null) === null && (lost[at] ?? null) === null;
    const isLost = answered[at] === 0 && (lost[at] ?? 0) > 0;
    if (!isMissing && !isLost) return;
    const kind = isMissing ? "missing" : "lost";
    const last = found.at(-1);
    if (last && last.kind === kind && last.to === from) last.to = from + history.step;
    else found.push({ kind, from, to: from + history.step });
  });
  return found;
}

/** `history` with what is newer in `tail`, and without what lies before `from`. The steps have to be the same. */
export function joined(history: History, tail: History, from: number): History {
  const begins = tail.points.time[0] ?? Infinity;
  const keep = history.points.time.map((time) => time < begins && time + history.step > from);
  const names = Object.keys(history.points) as (keyof Points)[];
  const points = Object.fromEntries(
    names.map((name) => [name, [...history.points[name].filter((_, at) => keep[at]), ...tail.points[name]]]),
  ) as unknown as Points;
  return { ...tail, from: history.from, points };
}

/** What is told live and what is recorded are looked at by different hands: seconds apart at most. */
const SAME_WITHIN = 2.5;

/** What is kept and what was told live, the newest last, each thing once. */
export function merged(kept: readonly Happened[], live: readonly Happened[]): Happened[] {
  const isSame = (a: Happened, b: Happened): boolean =>
    a.kind === b.kind &&
    a.target === b.target &&
    a.alertname === b.alertname &&
    a.severity === b.severity &&
    Math.abs(a.at - b.at) <= SAME_WITHIN;
  // One that is kept stands for one that was told: what happened twice did.
  const unmatched = [...kept];
  const told = live.filter((event) => {
    const at = unmatched.findIndex((one) => isSame(one, event));
    if (at >= 0) unmatched.splice(at, 1);
    return at < 0;
  });
  return [...kept, ...told].sort((a, b) => a.at - b.at);
}

/** Of a target, or of the relay itself, within a range. */
export function eventsOf(kept: readonly Happened[], live: readonly Happened[], target: string, from: number, to: number): Happened[] {
  const isOf = (event: Happened): boolean =>
    (event.target === target || (event.target === null && event.alertname === null)) && event.at >= from && event.at <= to;
  return merged(kept.filter(isOf), live.filter(isOf));
}

/** The step that a moment falls into; null where there is none. */
export function stepAt(series: Series, at: number): number | null {
  const first = series.x[0];
  if (first === undefined) return null;
  const index = Math.floor((at - first) / series.step + 0.5);
  return index >= 0 && index < series.x.length ? index : null;
}

/**
 * To where RTT is drawn: all of it, but for single values that would press the rest flat. What is above is marked at
 * the edge.
 */
export function ceiling(series: Series): number {
  const greatest = (column: Column): number => column.reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
  return Math.min(greatest(series.max), 4 * greatest(series.p75)) || 1;
}

/** Values of a target as they come, for the stretch that history does not have yet. Keeps the newest alone. */
export class Tail {
  static readonly LENGTH_MAX = 600;
  readonly at: number[] = [];
  readonly rtt: Column = [];

  note(at: number, rtt: number | null): void {
    if (at <= (this.at.at(-1) ?? -Infinity)) return;
    this.at.push(at);
    this.rtt.push(rtt);
    if (this.at.length > Tail.LENGTH_MAX) {
      this.at.shift();
      this.rtt.shift();
    }
  }

  clear(): void {
    this.at.length = 0;
    this.rtt.length = 0;
  }

  /** What is newer than `after`. */
  since(after: number): { at: number[]; rtt: Column } {
    const first = this.at.findIndex((at) => at > after);
    return first < 0 ? { at: [], rtt: [] } : { at: this.at.slice(first), rtt: this.rtt.slice(first) };
  }
}

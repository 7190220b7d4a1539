/** Moments, spans and ranges in words. A moment is in unix seconds, a span in seconds. */

const SPANS: readonly (readonly [string, number])[] = [
  ["d", 86_400],
  ["h", 3600],
  ["m", 60],
  ["s", 1],
];

/** Of `"90s"`, `"6h"`, `"30d"`: its seconds; null where it is none. */
export function parseSpan(text: string): number | null {
  const match = /^(\d{1,9})([smhd])$/.exec(text);
  const unit = SPANS.find(([letter]) => letter === match?.[2]);
  return match && unit ? Number(match[1]) * unit[1] : null;
}

/** In its two greatest units: `"3 d 4 h"`, `"12 min"`, `"40 s"`. */
export function spanInWords(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const first = SPANS.findIndex(([, length]) => whole >= length);
  if (first < 0) return "0 s";
  let rest = whole;
  const words: string[] = [];
  for (const [letter, length] of SPANS.slice(first, first + 2)) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count > 0) words.push(`${count} ${letter === "m" ? "min" : letter}`);
  }
  return words.join(" ");
}

/**
 * Where a range begins or ends, as in a link: `"now"`, `"-6h"` before now, or unix seconds. It moves with the time
 * unless it is of the last kind.
 */
export type Bound = string;

export interface Range {
  readonly from: Bound;
  readonly to: Bound;
}

/** The ranges that have a button. */
export const RANGES: readonly string[] = ["1h", "6h", "24h", "7d", "30d"];
export const DEFAULT_RANGE: Range = { from: "-1h", to: "now" };
/** Nothing shorter is looked at: history has an interval of 10 s. */
export const SPAN_MIN = 60;
/** Nothing longer: longer than any history that is kept. */
export const SPAN_MAX = 5 * 366 * 86_400;

export function isBound(text: string): boolean {
  return text === "now" || /^\d{1,11}$/.test(text) || (text.startsWith("-") && parseSpan(text.slice(1)) !== null);
}

export function resolveBound(bound: Bound, now: number): number {
  if (bound === "now") return now;
  if (bound.startsWith("-")) return now - (parseSpan(bound.slice(1)) ?? 0);
  return Number(bound);
}

/** Begin and end in unix seconds, the begin before the end by {@link SPAN_MIN} at least. */
export function resolve(range: Range, now: number): [number, number] {
  const to = resolveBound(range.to, now);
  const from = resolveBound(range.from, now);
  return [Math.min(Math.max(from, to - SPAN_MAX), to - SPAN_MIN), to];
}

/** Whether the range ends now, wherever now is. */
export function isLive(range: Range): boolean {
  return range.to === "now";
}

/** `range`, `factor` times as long: about its middle, or to its end where that is now. */
export function zoomed(range: Range, factor: number, now: number): Range {
  const [from, to] = resolve(range, now);
  if (isLive(range)) return between(to - Math.min(Math.max((to - from) * factor, SPAN_MIN), SPAN_MAX), to, now);
  const half = Math.min(Math.max(((to - from) / 2) * factor, SPAN_MIN / 2), SPAN_MAX / 2);
  const middle = (from + to) / 2;
  return between(middle - half, middle + half, now);
}

/** Moved by a part of its own length. */
export function panned(range: Range, part: number, now: number): Range {
  const [from, to] = resolve(range, now);
  const by = (to - from) * part;
  return between(Math.min(from + by, now - (to - from)), Math.min(to + by, now), now);
}

/** What lies between two moments; what would reach the present ends now, and is as long. */
export function between(from: number, to: number, now: number): Range {
  if (to >= now - 1) return { from: `-${Math.round(Math.max(to - from, SPAN_MIN))}s`, to: "now" };
  const end = Math.round(to);
  return { from: String(Math.min(Math.round(from), end - SPAN_MIN)), to: String(end) };
}

const two = (n: number): string => String(n).padStart(2, "0");

/** A moment's parts on the wall clock, of this place or of UTC. */
function parts(at: number, utc: boolean): [number, number, number, number, number, number] {
  const date = new Date(at * 1000);
  return utc
    ? [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()];
}

/** `"2026-11-30 03:04:05"`, or with `"T"` between as an input has it. */
export function dateTime(at: number, utc: boolean, between = " "): string {
  const [year, month, day, hour, minute, second] = parts(at, utc);
  return `${year}-${two(month)}-${two(day)}${between}${two(hour)}:${two(minute)}:${two(second)}`;
}

/** `"03:04:05"` on the day of `now`, else with the date before it. */
export function shortTime(at: number, now: number, utc: boolean): string {
  const full = dateTime(at, utc);
  return full.slice(0, 10) === dateTime(now, utc).slice(0, 10) ? full.slice(11) : full;
}

/** Of `"2026-11-30T03:04"`, with or without seconds, on the wall clock of this place or of UTC; null where it is none. */
export function parseDateTime(text: string, utc: boolean): number | null {
  const match = /^(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?$/.exec(text.trim());
  if (!match) return null;
  const [year, month, day, hour, minute, second] = match.slice(1).map((part) => Number(part ?? 0));
  const of = [year ?? 0, (month ?? 1) - 1, day ?? 1, hour ?? 0, minute ?? 0, second ?? 0] as const;
  const at = utc ? Date.UTC(...of) : new Date(...of).getTime();
  return Number.isNaN(at) ? null : at / 1000;
}

/** The zone that times are shown in: `"UTC"`, or how far this place is from it. */
export function zone(at: number, utc: boolean): string {
  if (utc) return "UTC";
  const ahead = -new Date(at * 1000).getTimezoneOffset();
  const minutes = Math.abs(ahead);
  return `UTC${ahead < 0 ? "−" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}

/** The numbers at the cursor, or of the newest step that has any. */

import { byId, setText } from "./dom.ts";
import type { History, Points } from "./history.ts";
import { count, milliseconds, percent } from "./level.ts";
import type { Directions, Series } from "./series.ts";
import { shortTime, spanInWords } from "./time.ts";

export function drawReadout(history: History | null, series: Series, at: number | null, now: number, utc: boolean): void {
  const index = at ?? newest(history);
  const points = history?.points ?? null;
  const read = (name: keyof Points): number | null => (index === null ? null : (points?.[name][index] ?? null));
  const ms = (name: keyof Points): string => {
    const value = read(name);
    return milliseconds(value === null ? null : value * 1e3);
  };
  const range = (from: keyof Points, to: keyof Points): string => (read(from) === null ? "–" : `${ms(from)} – ${ms(to)} ms`);
  const time = read("time");
  setText(byId("read-time"), time === null ? "–" : shortTime(time, now, utc));
  setText(byId("read-step"), history ? `${at === null ? "newest " : ""}${spanInWords(history.step)}` : "");
  setText(byId("read-p50"), read("rtt_p50") === null ? "–" : `${ms("rtt_p50")} ms`);
  setText(byId("read-p99"), read("rtt_p99") === null ? "–" : `${ms("rtt_p99")} ms`);
  setText(byId("read-inner"), range("rtt_p25", "rtt_p75"));
  setText(byId("read-middle"), range("rtt_p05", "rtt_p95"));
  setText(byId("read-wide"), range("rtt_min", "rtt_max"));
  setText(byId("read-jitter"), read("jitter") === null ? "–" : `${ms("jitter")} ms`);
  setText(byId("read-loss"), lossText(read("answered"), read("lost"), index === null ? null : (series.loss[index] ?? null)));
  setText(byId("read-direction"), index === null ? "–" : directionText(series.directions, index));
}

function newest(history: History | null): number | null {
  if (!history) return null;
  const { answered, lost } = history.points;
  for (let at = answered.length - 1; at >= 0; at -= 1) {
    if ((answered[at] ?? null) !== null || (lost[at] ?? null) !== null) return at;
  }
  return null;
}

export function lossText(answered: number | null, lost: number | null, share: number | null): string {
  if (lost === null || answered === null) return "not measured";
  return `${percent(share)} % (${count(lost)} of ${count(answered + lost)})`;
}

export function directionText({ forward, reverse, unknown }: Directions, at: number): string {
  const parts = [
    [forward[at], "there"],
    [reverse[at], "back"],
    [unknown[at], "unknown"],
  ] as const;
  const said = parts.filter(([lost]) => lost).map(([lost, word]) => `${count(lost ?? null)} ${word}`);
  return said.join(", ") || "–";
}

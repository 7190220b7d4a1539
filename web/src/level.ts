/** How bad a measurement is, by the thresholds of the Grafana dashboard. */

export type State = "up" | "down" | "pending" | "stale";
export type Figure = "rtt" | "loss" | "jitter";

/** From fine to worst; the last two say that nothing is known. */
export type Level = "good" | "warning" | "bad" | "down" | "pending" | "stale";

/** The least that is a warning, and the least that is bad; a test holds them to `dashboards/relayscope.json`. */
export const THRESHOLDS = {
  rtt: { unit: "ms", warning: 100, bad: 300 },
  loss: { unit: "%", warning: 2, bad: 5 },
  jitter: { unit: "ms", warning: 30, bad: 100 },
} as const;
/** Of a ring, 0 to 1. */
export const OCCUPANCY = { warning: 0.8, bad: 1 } as const;
/** The age of a sign of life from which on it is none: seconds. */
export const STALE_AFTER = 5;

/** For who sorts the worst first. */
export const RANK: Readonly<Record<Level, number>> = { down: 5, stale: 4, bad: 3, warning: 2, pending: 1, good: 0 };

/** A shape for each, for who does not tell the colours apart. */
export const MARK: Readonly<Record<Level, string>> = {
  good: "●",
  warning: "▲",
  bad: "◆",
  down: "✕",
  pending: "○",
  stale: "?",
};

export const WORD: Readonly<Record<Level, string>> = {
  good: "fine",
  warning: "warning",
  bad: "bad",
  down: "down",
  pending: "pending",
  stale: "stale",
};

export interface Measured {
  readonly state: State;
  readonly rtt: number | null;
  readonly loss: number | null;
  readonly jitter: number | null;
}

export function figureLevel(figure: Figure, value: number | null): Level {
  const { warning, bad } = THRESHOLDS[figure];
  if (value === null || value < warning) return "good";
  return value < bad ? "warning" : "bad";
}

/** The worst that is said of a target. */
export function level(of: Measured): Level {
  if (of.state !== "up") return of.state;
  let worst: Level = "good";
  for (const figure of ["rtt", "loss", "jitter"] as const) {
    const one = figureLevel(figure, of[figure]);
    if (RANK[one] > RANK[worst]) worst = one;
  }
  return worst;
}

/** Why a target has its level: `"loss 12 %"`; empty where all is fine. */
export function reasons(of: Measured): string[] {
  if (of.state !== "up") return [];
  return (["loss", "rtt", "jitter"] as const)
    .filter((figure) => figureLevel(figure, of[figure]) !== "good")
    .map((figure) => `${NAME[figure]} ${inWords(figure, of[figure])}`);
}

export const NAME: Readonly<Record<Figure, string>> = { rtt: "RTT", loss: "loss", jitter: "jitter" };

/** Milliseconds to three figures, never more than a microsecond's: `"0.182"`, `"11.2"`, `"1250"`. */
export function milliseconds(value: number | null): string {
  if (value === null) return "–";
  if (value < 1) return value.toFixed(3);
  if (value < 10) return value.toFixed(2);
  return value < 100 ? value.toFixed(1) : value.toFixed(0);
}

/** Percent: `"0"`, `"0.4"`, `"12"`, `"100"`. What is above 0 never shows as that, nor what is below 100. */
export function percent(value: number | null): string {
  if (value === null) return "–";
  if (value === 0 || value === 100) return String(value);
  if (value < 0.1) return "<0.1";
  if (value < 9.95) return value.toFixed(1);
  return String(Math.min(99, Math.round(value)));
}

export function figureText(figure: Figure, value: number | null): string {
  return figure === "loss" ? percent(value) : milliseconds(value);
}

export function inWords(figure: Figure, value: number | null): string {
  return value === null ? "not known" : `${figureText(figure, value)} ${THRESHOLDS[figure].unit}`;
}

/** Counts, in groups of three digits by a thin space. */
export function count(value: number | null): string {
  return value === null ? "–" : String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A count in at most five characters: `"812"`, `"54.1 k"`, `"1.2 G"`. */
export function shortCount(value: number | null): string {
  if (value === null) return "–";
  const scales = [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const;
  // What would round to a thousand of one is one of the next.
  const scale = scales.find(([size]) => value >= size * 0.9995);
  if (!scale || value < 1000) return String(value);
  const scaled = value / scale[0];
  return `${scaled < 99.95 ? scaled.toFixed(1) : scaled.toFixed(0)} ${scale[1]}`;
}

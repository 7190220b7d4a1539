/** What is looked at, as it stands in the part of the address behind `#`: a link carries it, no log sees it. */

import type { Figure } from "./level.ts";
import { DEFAULT_RANGE, isBound, type Range } from "./time.ts";

export type Family = "ipv4" | "ipv6";
export type Sort = "worst" | "name";
export type Theme = "light" | "dark";

export interface View {
  /** A target's page; null is the overview. */
  readonly target: string | null;
  /** Null is the family that answers. */
  readonly family: Family | null;
  readonly range: Range;
  readonly figure: Figure;
  readonly filter: string;
  readonly sort: Sort;
  /** Null is what this browser was told before, else local time. */
  readonly utc: boolean | null;
  /** Null is what this browser was told before, else what its system prefers. */
  readonly theme: Theme | null;
}

export const DEFAULT_VIEW: View = {
  target: null,
  family: null,
  range: DEFAULT_RANGE,
  figure: "rtt",
  filter: "",
  sort: "worst",
  utc: null,
  theme: null,
};

/** A filter is no longer. */
export const FILTER_MAX = 100;

function oneOf<T extends string>(text: string | null, known: readonly T[]): T | null {
  return known.find((one) => one === text) ?? null;
}

/** What makes no sense is as if it were not there. */
export function parseView(hash: string): View {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const from = given.get("from") ?? "";
  const to = given.get("to") ?? "now";
  const zone = oneOf(given.get("time"), ["utc", "local"]);
  return {
    target: given.get("target") || null,
    family: oneOf(given.get("family"), ["ipv4", "ipv6"]),
    range: isBound(from) && isBound(to) ? { from, to } : DEFAULT_RANGE,
    figure: oneOf(given.get("figure"), ["rtt", "loss", "jitter"]) ?? "rtt",
    filter: (given.get("filter") ?? "").slice(0, FILTER_MAX),
    sort: oneOf(given.get("sort"), ["worst", "name"]) ?? "worst",
    utc: zone === null ? null : zone === "utc",
    theme: oneOf(given.get("theme"), ["light", "dark"]),
  };
}

/** The shortest that {@link parseView} reads the same of, with its `#`. */
export function formatView(view: View): string {
  const given = new URLSearchParams();
  const put = (name: string, value: string | null, usual: string | null): void => {
    if (value !== null && value !== usual) given.set(name, value);
  };
  put("target", view.target, null);
  put("family", view.family, null);
  put("from", view.range.from, DEFAULT_RANGE.from);
  // Without a begin an end says nothing.
  if (view.range.to !== "now") given.set("from", view.range.from);
  put("to", view.range.to, "now");
  put("figure", view.figure, "rtt");
  put("filter", view.filter, "");
  put("sort", view.sort, "worst");
  put("time", view.utc === null ? null : view.utc ? "utc" : "local", null);
  put("theme", view.theme, null);
  return `#${given.toString()}`;
}

/** The same view of a target, from now on back: it is another place, and keeps only how it is looked at. */
export function ofTarget(view: View, target: string, family: Family | null): View {
  return { ...view, target, family };
}

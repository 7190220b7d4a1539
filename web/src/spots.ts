/** Which relay's view of which target stands where. */

import { level, RANK, STALE_AFTER, type Figure, type Level } from "./level.ts";
import type { Relay, Row } from "./mesh.ts";
import type { Sort } from "./view.ts";

/** One relay's view of one target by one address family. */
export interface Spot {
  readonly key: string;
  readonly relay: Relay;
  readonly row: Row;
  /** The target's name, with its family where the target has two. */
  readonly label: string;
}

export interface Line {
  readonly relay: Relay;
  readonly spots: readonly (Spot | null)[];
}

/** A matrix has a column for each target, and nothing where a relay does not look; walls are filled one by one. */
export type Layout =
  | { readonly kind: "matrix"; readonly columns: readonly string[]; readonly lines: readonly Line[] }
  | { readonly kind: "walls"; readonly lines: readonly Line[] };

/** With more columns a matrix is no longer read. */
export const COLUMNS_MAX = 32;
/** With more spots it is no longer drawn whole. */
export const MATRIX_MAX = 1024;

/** Whether each word of a filter is in what a row has, or is its state or how bad it is. */
export function matches(row: Row, relay: string, filter: string): boolean {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const has = [row.name, row.address, row.protocol, row.group, row.family, row.state, level(row), relay, `shard:${row.shard}`];
  const text = has.filter((one) => one !== null).join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Whether what a relay told is how things are. */
export function isFresh(relay: Relay): boolean {
  return relay.reachable && (relay.own || (relay.age ?? Infinity) <= STALE_AFTER);
}

export function spotLevel(spot: Spot): Level {
  return isFresh(spot.relay) ? level(spot.row) : "stale";
}

/** The worst first; of those that are equally bad the greater figure, of those that are fine the first by name. */
function compare(figure: Figure): (a: Spot, b: Spot) => number {
  return (a, b) => {
    const [x, y] = [RANK[spotLevel(a)], RANK[spotLevel(b)]];
    if (x !== y) return y - x;
    const by = x > RANK.pending ? (b.row[figure] ?? 0) - (a.row[figure] ?? 0) : 0;
    return by || byName(a.label, b.label);
  };
}

/** As people number things: `relay-2` before `relay-10`. */
const names = new Intl.Collator("en", { numeric: true });
export const byName = (a: string, b: string): number => names.compare(a, b);

export function layout(relays: readonly Relay[], figure: Figure, filter: string, sort: Sort): Layout {
  const twice = new Set<string>();
  for (const relay of relays) {
    relay.rows.forEach((row, at) => row.name === relay.rows[at - 1]?.name && twice.add(row.name));
  }
  const label = (row: Row): string => (twice.has(row.name) && row.family ? `${row.name} ${row.family}` : row.name);
  const lines = relays.map((relay) => {
    const rows = relay.rows.filter((row) => matches(row, relay.name, filter));
    const spots = rows.map((row) => ({ key: `${relay.name}\n${row.name}\n${row.family ?? ""}`, relay, row, label: label(row) }));
    return { relay, spots: spots.sort(sort === "worst" ? compare(figure) : (a, b) => byName(a.label, b.label)) };
  });
  // In the order of the worst of each column, wherever that is.
  const all = lines.flatMap((line) => line.spots);
  const ordered = lines.length > 1 ? all.sort(sort === "worst" ? compare(figure) : (a, b) => byName(a.label, b.label)) : all;
  const columns = [...new Set(ordered.map((spot) => spot.label))];
  if (relays.length < 2 || columns.length > COLUMNS_MAX || columns.length * lines.length > MATRIX_MAX) {
    return { kind: "walls", lines };
  }
  const spread = lines.map(({ relay, spots }) => {
    const at = new Map(spots.map((spot) => [spot.label, spot]));
    return { relay, spots: columns.map((column) => at.get(column) ?? null) };
  });
  return { kind: "matrix", columns, lines: spread };
}

/** What changes where a layout is in another order than it was made in: how bad each is. */
export function fingerprint(relays: readonly Relay[]): string {
  return relays.map((relay) => (isFresh(relay) ? relay.rows.map((row) => RANK[level(row)]).join("") : "?")).join("|");
}

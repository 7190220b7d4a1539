/** The mesh at a glance: a matrix where it has few columns, else a wall of cells for each relay. */

import { describe, type Cell, type Look } from "./cell.ts";
import { byId, make, setAttribute, setHidden, setText } from "./dom.ts";
import { RANK, type Level, WORD } from "./level.ts";
import { Matrix, standing } from "./matrix.ts";
import type { Relay } from "./mesh.ts";
import { fingerprint, layout, spotLevel, type Layout, type Spot } from "./spots.ts";
import type { View } from "./view.ts";
import { Wall } from "./wall.ts";

/** An order stands for as long, so that a cell can be hit: milliseconds. */
const ORDER_STANDS = 3000;

export interface OverviewState {
  readonly relays: readonly Relay[];
  readonly fresh: boolean;
  readonly view: View;
  readonly href: (spot: Spot) => string | null;
}

/** Where a spot stands. */
interface Position {
  readonly spot: Spot;
  readonly line: number;
  readonly at: number;
}

interface Section {
  readonly root: HTMLElement;
  readonly title: HTMLElement;
  readonly note: HTMLElement;
  readonly wall: Wall;
}

export class Overview {
  readonly #root = byId("mesh");
  readonly #matrix = new Matrix();
  readonly #scroller = make("div", { class: "scroller" }, this.#matrix.root);
  readonly #sections: Section[] = [];
  #layout: Layout | null = null;
  readonly #positions = new Map<string, Position>();
  #laidBy = "";
  #laidAt = 0;
  #active: string | null = null;
  #activeCell: Cell | null = null;
  #state: OverviewState | null = null;

  constructor(redraw: () => void) {
    this.#root.append(this.#scroller);
    addEventListener("scroll", redraw, { passive: true });
    new ResizeObserver(() => {
      for (const { wall } of this.#sections) wall.measure();
      redraw();
    }).observe(this.#root);
    this.#root.addEventListener("keydown", (event) => this.#key(event));
    this.#root.addEventListener("focusin", (event) => {
      const spot = this.#spotOf(event.target);
      if (spot) this.#setActive(spot.key);
    });
    this.#root.addEventListener("pointerover", (event) => {
      const spot = this.#spotOf(event.target);
      if (spot) (event.target as Element).closest("a")?.setAttribute("title", describe(spot));
    });
    const whole = (all: boolean) => () => {
      if (this.#state) for (const { wall } of this.#sections) wall.drawWhole(this.#look(this.#state), all);
    };
    addEventListener("beforeprint", whole(true));
    addEventListener("afterprint", whole(false));
  }

  draw(state: OverviewState): void {
    this.#state = state;
    const { figure, filter, sort } = state.view;
    const asked = `${figure}\n${filter}\n${sort}\n`;
    const by = asked + (sort === "worst" && state.fresh ? fingerprint(state.relays) : "");
    const isForced = !this.#laidBy.startsWith(asked) || this.#layout === null || !this.#isOf(state.relays);
    const isSettled = performance.now() - this.#laidAt > ORDER_STANDS && !this.#root.matches(":focus-within, :hover");
    const hadFocus = this.#root.contains(document.activeElement);
    if (isForced || (by !== this.#laidBy && isSettled)) {
      this.#laidBy = by;
      this.#laidAt = performance.now();
      this.#lay(layout(state.relays, figure, filter, sort));
    }
    const look = this.#look(state);
    if (this.#layout?.kind === "matrix") {
      this.#matrix.draw(look);
    } else {
      this.#layout?.lines.forEach((line, at) => {
        const section = this.#sections[at];
        if (!section) return;
        const said = standing(line);
        setText(section.note, said ?? "");
        setHidden(section.note, said === null);
        section.wall.draw(look);
      });
    }
    this.#keepStop();
    // The focus goes where its target went, not with the place that another took.
    if (hadFocus && this.#active !== null && document.activeElement?.getAttribute("data-key") !== this.#active) this.focus();
    setText(byId("summary"), summary(state));
    this.#drawEmpty(state);
  }

  /** The first cell, for who comes by a shortcut. */
  focus(): void {
    this.#activeCell?.link.focus();
  }

  #look({ view, fresh, href }: OverviewState): Look {
    return { figure: view.figure, fresh, href };
  }

  #isOf(relays: readonly Relay[]): boolean {
    const lines = this.#layout?.lines ?? [];
    return lines.length === relays.length && lines.every((line, at) => line.relay === relays[at]);
  }

  #lay(layout: Layout): void {
    this.#layout = layout;
    this.#positions.clear();
    layout.lines.forEach((line, index) => {
      line.spots.forEach((spot, at) => spot && this.#positions.set(spot.key, { spot, line: index, at }));
    });
    const isMatrix = layout.kind === "matrix";
    setHidden(this.#scroller, !isMatrix);
    const walls = isMatrix ? [] : layout.lines;
    for (const section of this.#sections.splice(walls.length)) section.root.remove();
    if (isMatrix) this.#matrix.setLayout(layout);
    walls.forEach((line, at) => {
      const section = (this.#sections[at] ??= this.#makeSection());
      const { name, own, url } = line.relay;
      setText(section.title, layout.lines.length > 1 ? `${name} looks at` : "");
      setAttribute(section.title, "href", own ? null : url);
      setHidden(section.title, layout.lines.length < 2);
      section.wall.setSpots(line.spots.filter((spot) => spot !== null), `What ${name} sees`);
    });
  }

  #makeSection(): Section {
    const title = make("a");
    const note = make("p", { class: "note", hidden: true });
    const wall = new Wall();
    const root = make("section", { class: "walls" }, make("h3", {}, title), note, wall.root);
    this.#root.append(root);
    return { root, title, note, wall };
  }

  #drawEmpty({ relays, view }: OverviewState): void {
    const [any, shown] = [relays.some((relay) => relay.rows.length > 0), this.#positions.size > 0];
    setHidden(byId("no-targets"), relays.length === 0 || any);
    setHidden(byId("no-match"), !any || shown);
    setText(byId("no-match-filter"), view.filter);
  }

  // The keyboard: one cell of all can be reached by Tab, the arrows go on from there.

  #first(): Position | null {
    for (const position of this.#positions.values()) return position;
    return null;
  }

  #spotOf(target: EventTarget | null): Spot | null {
    const link = target instanceof Element ? target.closest("a.cell") : null;
    const key = link?.getAttribute("data-key");
    return key ? (this.#positions.get(key)?.spot ?? null) : null;
  }

  #setActive(key: string): void {
    this.#active = key;
    this.#keepStop();
  }

  /** Sees to it that Tab leads to the active cell, or to the first where that is gone. */
  #keepStop(): void {
    const found = this.#positions.get(this.#active ?? "") ?? this.#first();
    const cell = found ? this.#cell(found.line, found.at) : null;
    if (this.#activeCell !== cell) this.#activeCell?.link.setAttribute("tabindex", "-1");
    this.#activeCell = cell;
    if (cell) setAttribute(cell.link, "tabindex", "0");
  }

  #cell(line: number, at: number): Cell | null {
    if (!this.#state) return null;
    if (this.#layout?.kind === "matrix") return this.#matrix.cell(line, at);
    return this.#sections[line]?.wall.reveal(at, this.#look(this.#state)) ?? null;
  }

  #key(event: KeyboardEvent): void {
    if (event.altKey || event.metaKey || !this.#layout) return;
    const from = this.#positions.get(this.#active ?? "");
    if (!from) return;
    const to = this.#layout.kind === "matrix" ? this.#inMatrix(event, from) : this.#inWall(event, from);
    if (!to) return;
    event.preventDefault();
    const spot = this.#layout.lines[to.line]?.spots[to.at];
    if (!spot) return;
    this.#setActive(spot.key);
    this.#activeCell?.link.focus({ preventScroll: true });
    this.#activeCell?.link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #inMatrix(event: KeyboardEvent, from: { line: number; at: number }): { line: number; at: number } | null {
    const lines = this.#layout?.lines ?? [];
    const step = (line: number, at: number, byLine: number, byColumn: number) => {
      for (; ; line += byLine, at += byColumn) {
        const spot = lines[line]?.spots[at];
        if (spot === undefined) return null;
        if (spot) return { line, at };
      }
    };
    const { line, at } = from;
    const last = (lines[line]?.spots.length ?? 1) - 1;
    switch (event.key) {
      case "ArrowLeft":
        return step(line, at - 1, 0, -1);
      case "ArrowRight":
        return step(line, at + 1, 0, 1);
      case "ArrowUp":
        return step(line - 1, at, -1, 0);
      case "ArrowDown":
        return step(line + 1, at, 1, 0);
      case "Home":
        return event.ctrlKey ? step(0, 0, 0, 1) : step(line, 0, 0, 1);
      case "End":
        return event.ctrlKey ? step(lines.length - 1, last, 0, -1) : step(line, last, 0, -1);
      default:
        return null;
    }
  }

  #inWall(event: KeyboardEvent, from: { line: number; at: number }): { line: number; at: number } | null {
    const { line, at } = from;
    const wall = this.#sections[line]?.wall;
    if (!wall) return null;
    const { columns, rowsSeen } = wall;
    const last = wall.spots.length - 1;
    const within = (to: number) => ({ line, at: Math.min(Math.max(to, 0), last) });
    const lines = this.#layout?.lines ?? [];
    const over = (by: 1 | -1) => {
      for (let next = line + by; lines[next]; next += by) {
        const count = lines[next]?.spots.length ?? 0;
        if (count > 0) return { line: next, at: by > 0 ? Math.min(at % columns, count - 1) : count - 1 };
      }
      return null;
    };
    switch (event.key) {
      case "ArrowLeft":
        return within(at - 1);
      case "ArrowRight":
        return within(at + 1);
      case "ArrowUp":
        return at >= columns ? within(at - columns) : over(-1);
      case "ArrowDown":
        return Math.floor(at / columns) < Math.floor(last / columns) ? within(at + columns) : over(1);
      case "Home":
        return within(event.ctrlKey ? 0 : at - (at % columns));
      case "End":
        return within(event.ctrlKey ? last : at - (at % columns) + columns - 1);
      case "PageUp":
        return within(at - columns * rowsSeen >= 0 ? at - columns * rowsSeen : at % columns);
      case "PageDown":
        return within(at + columns * rowsSeen);
      default:
        return null;
    }
  }
}

/** `"12 of 14 up · 1 down · 1 warning"`, of the own relay. */
export function summary({ relays, fresh }: { relays: readonly Relay[]; fresh: boolean }): string {
  const own = relays.find((relay) => relay.own);
  if (!own) return "";
  const counts = new Map<Level, number>();
  for (const row of own.rows) {
    const is = fresh ? spotLevel({ key: "", relay: own, row, label: "" }) : "stale";
    counts.set(is, (counts.get(is) ?? 0) + 1);
  }
  const worstFirst = (Object.keys(RANK) as Level[]).sort((a, b) => RANK[b] - RANK[a]);
  const said = worstFirst.filter((one) => one !== "good" && counts.has(one)).map((one) => `${counts.get(one) ?? 0} ${WORD[one]}`);
  return [fresh ? `${own.up} of ${own.targets} up` : `${own.targets} targets`, ...said].join(" · ");
}

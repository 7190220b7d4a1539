/** One relay's targets side by side in rows. Only rows that are seen exist, however many there are. */

import { Cell, type Look } from "./cell.ts";
import { make, setAttribute } from "./dom.ts";
import type { Spot } from "./spots.ts";

/** The least width of a cell and the height of a row with its gap, in units of the page's font. */
const CELL_WIDTH = 8.25;
const ROW_HEIGHT = 3.5;
/** Rows beyond the edges of what is seen that are there, too. */
const MARGIN = 2;

interface WallRow {
  readonly root: HTMLElement;
  readonly cells: Cell[];
}

export class Wall {
  readonly root = make("div", { class: "wall", role: "grid" });
  readonly #rows = new Map<number, WallRow>();
  #spots: readonly Spot[] = [];
  #columns = 1;
  #height = 1;
  /** A row that has to be there whether it is seen or not: the one with the focus. */
  #kept = 0;
  /** All rows are there: for paper. */
  #whole = false;

  setSpots(spots: readonly Spot[], label: string): void {
    this.#spots = spots;
    setAttribute(this.root, "aria-label", label);
    this.measure();
  }

  get spots(): readonly Spot[] {
    return this.#spots;
  }

  get columns(): number {
    return this.#columns;
  }

  get rowsSeen(): number {
    return Math.max(1, Math.floor(innerHeight / this.#height) - 1);
  }

  /** Lays the rows anew: the width may have changed. */
  measure(): void {
    // What is not shown has no width; it keeps its rows, and the one with the focus.
    const width = this.root.clientWidth;
    if (width === 0) return;
    const unit = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const columns = Math.max(1, Math.floor(width / (CELL_WIDTH * unit)));
    this.#height = ROW_HEIGHT * unit;
    if (columns !== this.#columns) {
      this.#columns = columns;
      for (const at of [...this.#rows.keys()]) this.#drop(at);
    }
    const rows = this.#rowCount();
    this.root.style.height = `${rows * this.#height}px`;
    this.root.style.setProperty("--columns", String(columns));
    setAttribute(this.root, "aria-rowcount", String(rows));
    setAttribute(this.root, "aria-colcount", String(columns));
  }

  /** Draws what is seen; rows that are not seen any more are used for those that are. */
  draw(look: Look): void {
    const top = this.root.getBoundingClientRect().top;
    const last = this.#rowCount() - 1;
    const from = this.#whole ? 0 : Math.max(0, Math.floor(-top / this.#height) - MARGIN);
    const to = this.#whole ? last : Math.min(last, Math.ceil((innerHeight - top) / this.#height) + MARGIN);
    const wanted = new Set<number>();
    for (let at = from; at <= to; at += 1) wanted.add(at);
    if (this.#kept <= last && last >= 0) wanted.add(this.#kept);
    const spare: WallRow[] = [];
    for (const [at, row] of this.#rows) {
      if (!wanted.has(at)) {
        this.#rows.delete(at);
        spare.push(row);
      }
    }
    for (const at of wanted) {
      let row = this.#rows.get(at);
      if (!row) {
        row = spare.pop() ?? this.#make();
        this.#rows.set(at, row);
        setAttribute(row.root, "aria-rowindex", String(at + 1));
        row.root.style.transform = `translateY(${at * this.#height}px)`;
      }
      row.cells.forEach((cell, column) => cell.show(this.#spots[at * this.#columns + column] ?? null, look));
    }
    for (const row of spare) row.root.remove();
  }

  drawWhole(look: Look, whole: boolean): void {
    this.#whole = whole;
    this.draw(look);
  }

  /** The cell of a spot; its row stays from now on. Draws if it has to. */
  reveal(index: number, look: Look): Cell | null {
    this.#kept = Math.floor(index / this.#columns);
    if (!this.#rows.has(this.#kept)) this.draw(look);
    return this.#rows.get(this.#kept)?.cells[index % this.#columns] ?? null;
  }

  #rowCount(): number {
    return Math.ceil(this.#spots.length / this.#columns);
  }

  #make(): WallRow {
    const cells = Array.from({ length: this.#columns }, () => new Cell(true));
    cells.forEach((cell, column) => cell.root.setAttribute("aria-colindex", String(column + 1)));
    const root = make("div", { class: "wall-row", role: "row" }, ...cells.map((cell) => cell.root));
    this.root.append(root);
    return { root, cells };
  }

  #drop(at: number): void {
    this.#rows.get(at)?.root.remove();
    this.#rows.delete(at);
  }
}

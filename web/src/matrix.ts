/** Relays that look against targets looked at. */

import { Cell, type Look } from "./cell.ts";
import { make, part, setAttribute, setHidden, setText } from "./dom.ts";
import type { Layout, Line } from "./spots.ts";

type MatrixLayout = Extract<Layout, { kind: "matrix" }>;

interface MatrixRow {
  readonly root: HTMLElement;
  readonly head: HTMLElement;
  readonly note: HTMLElement;
  readonly cells: Cell[];
}

export class Matrix {
  readonly root = make("div", { class: "matrix", role: "grid", "aria-label": "The mesh: rows look at columns" });
  readonly #head = make("div", { class: "matrix-row head", role: "row" }, make("span", { role: "columnheader", class: "corner" }));
  readonly #rows: MatrixRow[] = [];
  #layout: MatrixLayout = { kind: "matrix", columns: [], lines: [] };

  constructor() {
    part(this.#head, "corner").textContent = "sees →";
    this.root.append(this.#head);
  }

  get layout(): MatrixLayout {
    return this.#layout;
  }

  setLayout(layout: MatrixLayout): void {
    this.#layout = layout;
    this.root.style.setProperty("--columns", String(layout.columns.length));
    const headers = [...this.#head.children].slice(1);
    for (const header of headers.slice(layout.columns.length)) header.remove();
    layout.columns.forEach((column, at) => {
      const header = headers[at] ?? this.#head.appendChild(make("span", { role: "columnheader" }));
      setText(header, column);
      setAttribute(header, "title", column);
    });
    for (const row of this.#rows.splice(layout.lines.length)) row.root.remove();
    layout.lines.forEach((line, at) => {
      const row = (this.#rows[at] ??= this.#make());
      while (row.cells.length > layout.columns.length) row.cells.pop()?.root.remove();
      while (row.cells.length < layout.columns.length) {
        const cell = new Cell(false);
        row.cells.push(cell);
        row.root.append(cell.root);
      }
      setText(part(row.head, "name"), line.relay.name);
    });
  }

  draw(look: Look): void {
    this.#layout.lines.forEach((line, at) => {
      const row = this.#rows[at];
      if (!row) return;
      const said = standing(line);
      setText(row.note, said ?? "");
      setHidden(row.note, said === null);
      row.root.classList.toggle("unasked", !line.relay.reachable);
      const link = part(row.head, "name");
      setAttribute(link, "href", line.relay.own ? null : line.relay.url);
      row.cells.forEach((cell, column) => {
        cell.show(line.spots[column] ?? null, look);
        const itself = this.#layout.columns[column] === line.relay.name;
        cell.root.classList.toggle("itself", itself && !line.spots[column]);
      });
    });
  }

  cell(line: number, column: number): Cell | null {
    return this.#rows[line]?.cells[column] ?? null;
  }

  #make(): MatrixRow {
    const head = make("span", { role: "rowheader" }, make("a", { class: "name" }));
    const note = make("span", { class: "note", role: "gridcell", hidden: true });
    const root = make("div", { class: "matrix-row", role: "row" }, head, note);
    this.root.append(root);
    return { root, head, note, cells: [] };
  }
}

/** What is wrong with a relay itself; null where nothing is. */
export function standing({ relay }: Line): string | null {
  if (!relay.reachable) return relay.error ?? "cannot be asked";
  if (relay.reason) return relay.reason;
  if (!relay.running) return "not every shard is running";
  if (!relay.own && relay.age !== null && relay.age > 5) return `seen ${Math.floor(relay.age)} s ago`;
  return null;
}


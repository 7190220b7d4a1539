/** A cell: what one relay sees of one target, as a link to more of it. */

import { make, setAttribute, setText } from "./dom.ts";
import { count, figureText, inWords, MARK, NAME, reasons, THRESHOLDS, WORD, type Figure } from "./level.ts";
import { spotLevel, type Spot } from "./spots.ts";
import { spanInWords } from "./time.ts";

/** What all cells are drawn by. */
export interface Look {
  readonly figure: Figure;
  /** Whether the stream is alive; if not, nothing is shown as how things are. */
  readonly fresh: boolean;
  readonly href: (spot: Spot) => string | null;
}

export class Cell {
  readonly root: HTMLElement;
  readonly link: HTMLAnchorElement;
  spot: Spot | null = null;
  readonly #mark = make("span", { class: "mark", "aria-hidden": "true" });
  readonly #word = make("span", { class: "heard" });
  readonly #name = make("span", { class: "name" });
  readonly #main = make("b", { class: "main" });
  readonly #unit = make("span", { class: "unit" });
  readonly #aside = make("span", { class: "aside" });

  constructor(isNamed: boolean) {
    const name = isNamed ? [this.#name] : [];
    this.link = make("a", { class: "cell", tabindex: "-1" }, this.#mark, this.#word, ...name, this.#main, this.#unit, this.#aside);
    this.root = make("div", { role: "gridcell" }, this.link);
  }

  /** Shows a spot, or that there is none. */
  show(spot: Spot | null, look: Look): void {
    this.spot = spot;
    if (!spot) return this.#empty();
    const { row } = spot;
    const is = look.fresh ? spotLevel(spot) : "stale";
    const isFigure = row.state === "up" || row.state === "stale" || (look.figure === "loss" && row.loss !== null);
    setAttribute(this.link, "class", `cell ${is}${isFigure ? "" : " worded"}`);
    setText(this.#mark, MARK[is]);
    setText(this.#word, `${WORD[is]}: `);
    setText(this.#name, spot.label);
    setAttribute(this.link, "data-key", spot.key);
    const href = look.href(spot);
    setAttribute(this.link, "href", href);
    if (isFigure) {
      setText(this.#main, figureText(look.figure, row[look.figure]));
      setText(this.#unit, row[look.figure] === null ? "" : THRESHOLDS[look.figure].unit);
    } else {
      setText(this.#main, row.state);
      setText(this.#unit, "");
    }
    setText(this.#aside, this.#besides(spot, look.figure));
  }

  #empty(): void {
    if (this.link.className === "cell none") return;
    this.link.className = "cell none";
    setAttribute(this.link, "href", null);
    setAttribute(this.link, "data-key", null);
    for (const element of [this.#mark, this.#word, this.#name, this.#main, this.#unit, this.#aside]) setText(element, "");
  }

  #besides({ row }: Spot, figure: Figure): string {
    if (row.state === "down") return row.lastReplyAge === null ? "never seen" : spanInWords(row.lastReplyAge);
    if (row.state === "pending") return "";
    const other = figure === "loss" ? "rtt" : "loss";
    return row[other] === null ? "" : inWords(other, row[other]);
  }
}

/** All there is to say of a spot, for who points at it. */
export function describe(spot: Spot): string {
  const { row, relay } = spot;
  const is = spotLevel(spot);
  const why = reasons(row);
  const lines = [
    `${relay.name} looks at ${spot.label}: ${row.state}${is === "stale" ? ", stale" : ""}${why.length > 0 ? `; ${WORD[is]}: ${why.join(", ")}` : ""}`,
    (["rtt", "loss", "jitter"] as const).map((figure) => `${NAME[figure]} ${inWords(figure, row[figure])}`).join(", "),
    `last reply ${row.lastReplyAge === null ? "never" : `${spanInWords(row.lastReplyAge)} ago`}, ${count(row.received)} of ${count(row.sent)} answered`,
  ];
  if (row.address) lines.push(`${row.address}, ${row.protocol ?? "?"}, group ${row.group ?? "?"}, shard ${row.shard}`);
  return lines.join("\n");
}

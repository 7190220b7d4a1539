/** What single keys do, wherever the focus is but in a field. */

import { byId } from "./dom.ts";
import type { Overview } from "./overview.ts";
import type { Place } from "./place.ts";
import type { TargetView } from "./target.ts";
import { RANGES } from "./time.ts";

/** `draw` draws at once: what is typed next is for what a key leads to. */
export function wireKeys(place: Place, overview: Overview, target: TargetView, draw: () => void): void {
  const help = byId<HTMLDialogElement>("help");
  const inMesh = (): boolean => place.view.target === null;
  const toMesh = (): void => {
    if (inMesh()) return;
    place.go({ target: null, family: null });
    draw();
  };
  const filter = byId<HTMLInputElement>("filter");
  const keys: Readonly<Record<string, () => void>> = {
    "?": () => help.showModal(),
    "/": () => {
      toMesh();
      filter.focus();
    },
    g: () => {
      toMesh();
      overview.focus();
    },
    r: () => place.adjust({ figure: "rtt" }),
    l: () => place.adjust({ figure: "loss" }),
    j: () => place.adjust({ figure: "jitter" }),
    s: () => place.adjust({ sort: place.view.sort === "worst" ? "name" : "worst" }),
    u: () => place.setUtc(!place.utc),
    d: () => place.setTheme(place.theme === "dark" ? "light" : "dark"),
    Escape: () => (inMesh() ? place.adjust({ filter: "" }) : toMesh()),
    p: () => byId("plots").focus(),
    "+": () => inTarget(() => target.zoom(0.5)),
    "-": () => inTarget(() => target.zoom(2)),
    "[": () => inTarget(() => target.pan(-0.5)),
    "]": () => inTarget(() => target.pan(0.5)),
  };
  const inTarget = (act: () => void): void => {
    if (!inMesh()) act();
  };
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    const isField = event.target instanceof HTMLInputElement && event.target.type !== "radio";
    if (isField) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const range = RANGES[Number(event.key) - 1];
    const act = range ? () => inTarget(() => place.go({ range: { from: `-${range}`, to: "now" } })) : keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  byId("keys").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());
}

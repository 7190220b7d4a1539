/** Where we are: the view in the address, and what this browser was told of time and theme. */

import { byId, setAttribute } from "./dom.ts";
import type { Figure } from "./level.ts";
import { DEFAULT_VIEW, formatView, parseView, type Sort, type Theme, type View } from "./view.ts";

const UTC = "relayscope.utc";
const THEME = "relayscope.theme";

/** What was kept; null where nothing was, or the browser keeps nothing. */
function kept(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Then it is kept in the address alone.
  }
}

export class Place {
  view: View = DEFAULT_VIEW;
  readonly #changed: () => void;
  readonly #dark = matchMedia("(prefers-color-scheme: dark)");

  constructor(changed: () => void) {
    this.#changed = changed;
    this.view = parseView(location.hash);
    addEventListener("popstate", () => this.#read());
    addEventListener("hashchange", () => this.#read());
    this.#dark.addEventListener("change", () => this.#show());
    this.#wire();
    this.#show();
  }

  get utc(): boolean {
    return this.view.utc ?? kept(UTC) === "true";
  }

  get theme(): Theme {
    const known = this.view.theme ?? kept(THEME);
    return known === "light" || known === "dark" ? known : this.#dark.matches ? "dark" : "light";
  }

  /** Goes to another view; back leads here again. */
  go(change: Partial<View>): void {
    this.#set({ ...this.view, ...change }, "pushState");
  }

  /** Changes how it is looked at; back leads to where it did before. */
  adjust(change: Partial<View>): void {
    this.#set({ ...this.view, ...change }, "replaceState");
  }

  setUtc(utc: boolean): void {
    keep(UTC, String(utc));
    this.adjust({ utc });
  }

  setTheme(theme: Theme): void {
    keep(THEME, theme);
    this.adjust({ theme });
  }

  #set(view: View, how: "pushState" | "replaceState"): void {
    const hash = formatView(view);
    if (hash !== formatView(this.view)) history[how](null, "", hash);
    this.view = view;
    this.#show();
    this.#changed();
  }

  #read(): void {
    this.view = parseView(location.hash);
    this.#show();
    this.#changed();
  }

  #wire(): void {
    const filter = byId<HTMLInputElement>("filter");
    filter.addEventListener("input", () => this.adjust({ filter: filter.value }));
    for (const input of radios()) {
      input.addEventListener("change", () => {
        this.adjust(input.name === "figure" ? { figure: input.value as Figure } : { sort: input.value as Sort });
      });
    }
    byId("utc").addEventListener("click", () => this.setUtc(!this.utc));
    byId("theme").addEventListener("click", () => this.setTheme(this.theme === "dark" ? "light" : "dark"));
  }

  /** Puts the controls as the view is. */
  #show(): void {
    const filter = byId<HTMLInputElement>("filter");
    if (filter.value !== this.view.filter) filter.value = this.view.filter;
    for (const input of radios()) {
      input.checked = input.value === (input.name === "figure" ? this.view.figure : this.view.sort);
    }
    setAttribute(document.documentElement, "data-theme", this.theme);
    setAttribute(byId("utc"), "aria-pressed", String(this.utc));
    setAttribute(byId("theme"), "aria-pressed", String(this.theme === "dark"));
  }
}

function radios(): HTMLInputElement[] {
  return [...document.querySelectorAll<HTMLInputElement>("input[name=figure], input[name=sort]")];
}

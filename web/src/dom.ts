/** Elements, made and changed: nothing is written that is there already. */

type Attributes = Readonly<Record<string, string | boolean>>;

/** An element with attributes (`true` is there without a value, `false` is not) and what is in it. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...content: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...content);
  return element;
}

/** What `index.html` has under an id. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`no element #${id} in the page`);
  return element as T;
}

export function setText(element: Element, text: string): void {
  // One text node is changed in place: no layout object is made anew.
  const only = element.firstChild;
  if (only instanceof Text && !only.nextSibling) {
    if (only.data !== text) only.data = text;
  } else {
    element.textContent = text;
  }
}

export function setAttribute(element: Element, name: string, value: string | null): void {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) {
    element.setAttribute(name, value);
  }
}

export function setHidden(element: HTMLElement, hidden: boolean): void {
  if (element.hidden !== hidden) element.hidden = hidden;
}

/** As many children as there are items, each made once and then filled; what is left over goes. */
export function fill<T, E extends HTMLElement>(
  parent: HTMLElement,
  items: readonly T[],
  create: () => E,
  put: (element: E, item: T, index: number) => void,
): void {
  while (parent.children.length > items.length) parent.lastElementChild?.remove();
  items.forEach((item, index) => {
    let child = parent.children[index] as E | undefined;
    if (!child) {
      child = create();
      parent.append(child);
    }
    put(child, item, index);
  });
}

/** The part of an element that has a class of this name. */
export function part(of: Element, name: string): HTMLElement {
  const found = of.getElementsByClassName(name)[0];
  if (!found) throw new Error(`no part .${name}`);
  return found as HTMLElement;
}

/** Runs `draw` with the next frame, once however often it is called before. */
export function perFrame(draw: () => void): () => void {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  };
}

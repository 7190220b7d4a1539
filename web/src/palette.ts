/** The page's colours for what is drawn on a canvas, as they are in the theme of the moment. */

const NAMES = {
  ink: "--ink",
  ink2: "--ink-2",
  line: "--line",
  panel: "--panel",
  good: "--good",
  warning: "--warning",
  bad: "--bad",
  down: "--down",
  idle: "--idle",
  forward: "--forward",
  reverse: "--reverse",
  wide: "--smoke-wide",
  middle: "--smoke-middle",
  inner: "--smoke-inner",
  lost: "--lost",
  lossFew: "--loss-few",
  lossSome: "--loss-some",
  lossMany: "--loss-many",
} as const;

export type Palette = Readonly<Record<keyof typeof NAMES, string>>;

export function palette(): Palette {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const resolve = (name: string): string => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const colours = Object.fromEntries(Object.entries(NAMES).map(([name, variable]) => [name, resolve(variable)]));
  probe.remove();
  return colours as Palette;
}

/** Stripes on a canvas, for what is not there. */
export function stripes(context: CanvasRenderingContext2D, colour: string): CanvasPattern | string {
  const size = Math.round(8 * devicePixelRatio);
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const on = tile.getContext("2d");
  if (!on) return colour;
  on.strokeStyle = colour;
  on.lineWidth = devicePixelRatio;
  on.beginPath();
  for (const shift of [-size, 0, size]) {
    on.moveTo(shift - 1, size + 1);
    on.lineTo(shift + size + 1, -1);
  }
  on.stroke();
  return context.createPattern(tile, "repeat") ?? colour;
}

/** The three plots of a target on one axis of time: RTT as smoke, loss by direction, jitter. */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import type { Happened, Kind } from "./history.ts";
import { figureLevel, milliseconds, percent, THRESHOLDS, type Figure } from "./level.ts";
import { palette, stripes, type Palette } from "./palette.ts";
import { KIND } from "./panels.ts";
import type { Series, Stretch } from "./series.ts";
import { dateTime } from "./time.ts";

/** All that is drawn. */
export interface Scene {
  readonly series: Series;
  readonly stretches: readonly Stretch[];
  readonly events: readonly Happened[];
  /** The newest, not yet in history. */
  readonly live: { readonly at: readonly number[]; readonly rtt: readonly (number | null)[] };
  readonly from: number;
  readonly to: number;
  readonly ceiling: number;
}

export interface PlotsOptions {
  readonly utc: () => boolean;
  /** A stretch was drawn with the pointer. */
  readonly zoom: (from: number, to: number) => void;
  /** The cursor is at a moment, or at none. */
  readonly cursor: (at: number | null) => void;
}

const HEIGHT: Readonly<Record<Figure, number>> = { rtt: 280, loss: 130, jitter: 130 };
const AXIS_WIDTH = 58;
/** Fewer pixels are a click, not a stretch. */
const DRAG_MIN = 6;
const JUDGED_LENGTH = 12;
const EVENT_COLOUR: Readonly<Record<Kind, keyof Palette>> = {
  peer_up: "good",
  peer_down: "down",
  alert_firing: "warning",
  alert_resolved: "idle",
  started: "idle",
  stopped: "idle",
};

export class Plots {
  readonly #hosts: Readonly<Record<Figure, HTMLElement>>;
  readonly #options: PlotsOptions;
  readonly #plots: Partial<Record<Figure, uPlot>> = {};
  readonly #resized = new ResizeObserver(() => this.#resize());
  #scene: Scene | null = null;
  #palette: Palette = palette();
  #key = `target-${Math.random()}`;

  constructor(hosts: Readonly<Record<Figure, HTMLElement>>, options: PlotsOptions) {
    this.#hosts = hosts;
    this.#options = options;
    this.#resized.observe(hosts.rtt);
  }

  draw(scene: Scene): void {
    this.#scene = scene;
    const { series, live, from, to } = scene;
    const x = [...series.x, ...live.at];
    const past = (column: readonly (number | null)[]): (number | null)[] => [...column, ...live.at.map(() => null)];
    const data: Record<Figure, uPlot.AlignedData> = {
      rtt: [x, ...[series.max, series.p95, series.p75, series.p50, series.p25, series.p05, series.min].map(past), [...series.x.map(() => null), ...live.rtt]],
      loss: [x, past(series.loss)],
      jitter: [x, past(series.jitter)],
    };
    for (const figure of ["rtt", "loss", "jitter"] as const) {
      const plot = (this.#plots[figure] ??= this.#make(figure));
      plot.batch(() => {
        plot.setData(data[figure], false);
        plot.setScale("x", { min: from, max: to });
      });
    }
  }

  /** Puts the cursor at a moment, as if the pointer were there. */
  pointAt(at: number): void {
    const plot = this.#plots.rtt;
    if (!plot) return;
    const left = plot.valToPos(at, "x");
    plot.setCursor({ left: Math.min(Math.max(left, 0), plot.bbox.width / devicePixelRatio), top: plot.bbox.height / devicePixelRatio / 2 }, true);
    this.#options.cursor(at);
  }

  /** Draws anew in the colours and the time zone of the moment. */
  restyle(): void {
    this.#palette = palette();
    this.close();
    if (this.#scene) this.draw(this.#scene);
  }

  /** Gives back what the plots took. */
  close(): void {
    for (const figure of ["rtt", "loss", "jitter"] as const) {
      this.#plots[figure]?.destroy();
      delete this.#plots[figure];
    }
  }

  #make(figure: Figure): uPlot {
    const host = this.#hosts[figure];
    const colours = this.#palette;
    const options: uPlot.Options = {
      width: host.clientWidth || 600,
      height: HEIGHT[figure],
      padding: [figure === "rtt" ? 18 : 8, 26, 0, 0],
      legend: { show: false },
      tzDate: (at) => (this.#options.utc() ? uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : new Date(at * 1000)),
      scales: { x: { time: true, auto: false }, y: { range: () => this.#range(figure) } },
      axes: [
        { ...axis(colours), size: 26, space: 70, values: (_plot, splits, _axis, _space, step) => splits.map((at) => this.#moment(at, step)) },
        { ...axis(colours), size: AXIS_WIDTH, values: (_plot, splits) => splits.map((value) => label(figure, value, splits)) },
      ],
      series: [{}, ...this.#lines(figure, colours)],
      cursor: {
        sync: { key: this.#key },
        y: false,
        drag: { x: true, y: false, setScale: false, dist: DRAG_MIN },
        points: { show: false },
        bind: { dblclick: () => () => null },
      },
      hooks: {
        drawClear: [(plot) => this.#drawBehind(plot)],
        draw: [(plot) => this.#drawOver(plot, figure)],
        setCursor: [(plot) => this.#moved(plot)],
        setSelect: [(plot) => this.#selected(plot)],
      },
    };
    if (figure === "rtt") {
      options.bands = [
        { series: [1, 7], fill: colours.wide },
        { series: [2, 6], fill: colours.middle },
        { series: [3, 5], fill: colours.inner },
      ];
    }
    host.replaceChildren();
    return new uPlot(options, [[], ...this.#lines(figure, colours).map(() => [])], host);
  }

  #lines(figure: Figure, colours: Palette): uPlot.Series[] {
    const none: uPlot.Series = { stroke: "transparent", width: 0, points: { show: false } };
    const points = (colour: string): uPlot.Series.Points => ({ size: 3, stroke: colour, fill: colour });
    switch (figure) {
      case "rtt":
        return [none, none, none, { stroke: colours.ink, width: 1.5, points: points(colours.ink) }, none, none, none, { stroke: colours.good, width: 1, dash: [2, 2], points: points(colours.good) }];
      case "loss":
        return [{ ...none, paths: () => null }];
      case "jitter":
        return [{ stroke: colours.ink2, width: 1.25, fill: colours.middle, points: points(colours.ink2) }];
    }
  }

  #range(figure: Figure): [number, number] {
    const scene = this.#scene;
    if (!scene) return [0, 1];
    const { series, live, ceiling } = scene;
    const greatest = (column: readonly (number | null)[]): number => column.reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
    switch (figure) {
      case "rtt":
        return [0, Math.max(ceiling, greatest(live.rtt)) * 1.08];
      case "loss":
        return [0, [1, 2, 5, 10, 20, 50, 100].find((top) => top >= greatest(series.loss)) ?? 100];
      case "jitter":
        return [0, greatest(series.jitter) * 1.1 || 1];
    }
  }

  #moment(at: number, step: number): string {
    const text = dateTime(at, this.#options.utc());
    if (step >= 86_400 || text.endsWith(" 00:00:00")) return text.slice(5, 10);
    return step >= 60 ? text.slice(11, 16) : text.slice(11);
  }

  /** Behind the lines: what was not measured, what was lost whole, thresholds. */
  #drawBehind(plot: uPlot): void {
    const { ctx, bbox } = plot;
    const place = (at: number): number => Math.min(Math.max(plot.valToPos(at, "x", true), bbox.left), bbox.left + bbox.width);
    ctx.save();
    for (const { kind, from, to } of this.#scene?.stretches ?? []) {
      const left = place(from);
      const width = Math.max(place(to) - left, devicePixelRatio);
      ctx.fillStyle = kind === "missing" ? stripes(ctx, this.#palette.line) : this.#palette.lost;
      ctx.fillRect(left, bbox.top, width, bbox.height);
    }
    ctx.restore();
  }

  #drawOver(plot: uPlot, figure: Figure): void {
    const { ctx } = plot;
    ctx.save();
    if (figure === "loss") this.#drawLoss(plot);
    if (figure === "rtt") this.#drawLossMarks(plot);
    this.#drawThresholds(plot, figure);
    this.#drawEvents(plot, figure);
    ctx.restore();
  }

  /** Loss on the axis of time, as high as there is room and as dark as it is bad; what is above the ceiling on top. */
  #drawLossMarks(plot: uPlot): void {
    const { ctx, bbox } = plot;
    const { series, ceiling } = this.#sceneOf();
    const height = Math.round(7 * devicePixelRatio);
    this.#eachStep(plot, (at, left, width) => {
      const loss = series.loss[at] ?? 0;
      if (loss > 0) {
        ctx.fillStyle = this.#lossColour(loss);
        ctx.fillRect(left, bbox.top + bbox.height - height, width, height);
      }
      if ((series.max[at] ?? 0) > ceiling * 1.08) {
        const [middle, half] = [left + width / 2, 3 * devicePixelRatio];
        ctx.fillStyle = this.#palette.ink2;
        ctx.beginPath();
        ctx.moveTo(middle - half, bbox.top + 2 * half);
        ctx.lineTo(middle + half, bbox.top + 2 * half);
        ctx.lineTo(middle, bbox.top);
        ctx.fill();
      }
    });
  }

  #drawLoss(plot: uPlot): void {
    const { ctx } = plot;
    const { series } = this.#sceneOf();
    const hatch = stripes(ctx, this.#palette.ink2);
    const parts = [
      [series.forward, this.#palette.forward],
      [series.reverse, this.#palette.reverse],
      [series.unknown, this.#palette.idle],
    ] as const;
    this.#eachStep(plot, (at, left, width) => {
      let below = 0;
      for (const [column, colour] of parts) {
        const value = column[at] ?? 0;
        if (value <= 0) continue;
        const top = plot.valToPos(Math.min(100, below + value), "y", true);
        const bottom = plot.valToPos(below, "y", true);
        below += value;
        ctx.fillStyle = colour;
        ctx.fillRect(left, top, width, bottom - top);
        if (colour === this.#palette.idle) {
          ctx.fillStyle = hatch;
          ctx.fillRect(left, top, width, bottom - top);
        }
      }
    });
  }

  #drawThresholds(plot: uPlot, figure: Figure): void {
    const { ctx, bbox } = plot;
    const top = plot.scales["y"]?.max ?? 0;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.lineWidth = devicePixelRatio;
    for (const grade of ["warning", "bad"] as const) {
      const value = THRESHOLDS[figure][grade];
      if (value > top) continue;
      const at = Math.round(plot.valToPos(value, "y", true)) + 0.5;
      ctx.strokeStyle = this.#palette[grade];
      ctx.beginPath();
      ctx.moveTo(bbox.left, at);
      ctx.lineTo(bbox.left + bbox.width, at);
      ctx.stroke();
    }
    ctx.setLineDash([]);
  }

  #drawEvents(plot: uPlot, figure: Figure): void {
    const { ctx, bbox } = plot;
    const { events, from, to } = this.#sceneOf();
    ctx.lineWidth = devicePixelRatio;
    ctx.textAlign = "center";
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    for (const { at, kind } of events) {
      if (at < from || at > to) continue;
      const x = Math.round(plot.valToPos(at, "x", true)) + 0.5;
      ctx.strokeStyle = ctx.fillStyle = this.#palette[EVENT_COLOUR[kind] ?? "idle"];
      ctx.globalAlpha = 0.7;
      // What is judged stands at the edge, what was so stands through.
      const isJudged = kind === "alert_firing" || kind === "alert_resolved";
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + (isJudged ? JUDGED_LENGTH * devicePixelRatio : bbox.height));
      ctx.stroke();
      ctx.globalAlpha = 1;
      if (figure === "rtt") ctx.fillText(KIND[kind]?.mark ?? "·", x, bbox.top - 4 * devicePixelRatio);
    }
  }

  /** Each step that is seen, with where it begins and how wide it is: in pixels of the canvas, a pixel at least. */
  #eachStep(plot: uPlot, draw: (at: number, left: number, width: number) => void): void {
    const { bbox } = plot;
    const { series, from, to } = this.#sceneOf();
    const half = series.step / 2;
    series.x.forEach((x, at) => {
      if (x + half <= from || x - half >= to) return;
      const left = Math.max(Math.round(plot.valToPos(x - half, "x", true)), Math.round(bbox.left));
      const right = Math.min(Math.round(plot.valToPos(x + half, "x", true)), Math.round(bbox.left + bbox.width));
      draw(at, left, Math.max(right - left, 1));
    });
  }

  #lossColour(loss: number): string {
    const { lossFew, lossSome, lossMany } = this.#palette;
    const is = figureLevel("loss", loss);
    return is === "bad" ? lossMany : is === "warning" ? lossSome : lossFew;
  }

  #sceneOf(): Scene {
    if (!this.#scene) throw new Error("nothing was drawn yet");
    return this.#scene;
  }

  #moved(plot: uPlot): void {
    // The others follow; the one that leads tells.
    if (!plot.cursor.event) return;
    const left = plot.cursor.left ?? -1;
    this.#options.cursor(left < 0 ? null : plot.posToVal(left, "x"));
  }

  #selected(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < DRAG_MIN || !plot.cursor.event) return;
    const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    for (const one of Object.values(this.#plots)) one.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.#options.zoom(from, to);
  }

  #resize(): void {
    for (const figure of ["rtt", "loss", "jitter"] as const) {
      const [plot, width] = [this.#plots[figure], this.#hosts[figure].clientWidth];
      if (plot && width > 0 && plot.width !== width) plot.setSize({ width, height: HEIGHT[figure] });
    }
  }
}

function axis(colours: Palette): uPlot.Axis {
  const fine = { stroke: colours.line, width: 1 };
  return { stroke: colours.ink2, grid: fine, ticks: { ...fine, size: 4 }, font: "11px system-ui, sans-serif", gap: 4 };
}

function label(figure: Figure, value: number, splits: readonly number[]): string {
  if (figure === "loss") return `${percent(value)} %`;
  const step = (splits[1] ?? 1) - (splits[0] ?? 0);
  const decimals = Math.min(3, Math.max(0, Math.ceil(-Math.log10(step || 1))));
  return value === 0 ? "0 ms" : `${step < 0.001 ? milliseconds(value) : value.toFixed(decimals)} ms`;
}

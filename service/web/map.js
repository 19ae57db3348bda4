// The map of a collection: Chart.js draws it, its zoom plugin moves it. Added here: one scale for both axes, so distances
// can be compared; texts beside their points where there is room; lines to the closest danmaku.

import { short } from "./words.js";

const { Chart } = window;

const STEP = 60; // px
export const ZOOM = 1.4;
const CROWD = 150; // points, in which there is no room between them
const MOST_TEXTS = 300; // to find a place for
const NARROW = 480; // px: below it, only the typed danmaku and the closest to it are named
const SHAPES = ["circle", "rectRot", "triangle", "rect"];

export class Atlas {
  #chart;
  #box;
  #map;
  #yours = null; // {text, x, y, near: ids}
  #cluster = null; // the only one in full colour
  #whole = 0; // what the x axis spans when all is seen
  #isMoved = false;
  #colours = {};
  #onZoom;
  #widths = new Map();

  constructor(box, { onPick, onZoom }) {
    this.#box = box;
    this.#onZoom = onZoom;
    const moved = () => {
      this.#isMoved = true;
      onZoom(this.level);
    };
    this.#chart = new Chart(box.querySelector("canvas"), {
      type: "scatter",
      data: { datasets: [] },
      options: {
        maintainAspectRatio: false,
        animation: false,
        layout: { padding: 12 },
        scales: { x: { display: false }, y: { display: false } },
        onResize: () => this.#isMoved || queueMicrotask(() => this.#fit()),
        onClick: (_, [hit]) => {
          const point = hit && this.#pointOf(hit);
          if (point?.id !== undefined) onPick(point.text);
        },
        onHover: (event, hits) => {
          event.native.target.style.cursor = hits.length ? "pointer" : "grab";
        },
        plugins: {
          legend: { display: false },
          tooltip: { displayColors: false, callbacks: { label: ({ raw }) => raw.text } },
          zoom: {
            pan: { enabled: true, onPan: moved },
            zoom: {
              wheel: { enabled: true },
              pinch: { enabled: true },
              mode: "xy",
              onZoom: moved,
              // Scrolling the page past the map must not zoom it; it needs the focus, or Ctrl.
              onZoomStart: ({ event }) => event.type !== "wheel" || event.ctrlKey || box.contains(document.activeElement),
            },
          },
        },
      },
      plugins: [{ id: "texts", afterDatasetsDraw: (chart) => this.#write(chart) }],
    });
    box.addEventListener("keydown", (event) => this.#onKey(event));
  }

  // Shows a map as GET /collections/{name}/map gives it, or none.
  show(map) {
    this.#map = map;
    this.#yours = this.#cluster = null;
    this.reset();
  }

  // Places a unit vector, or none. `near`: ids of the closest danmaku.
  land(text, vector, near) {
    const { mean, axes } = this.#map ?? {};
    const isThere = vector && axes?.length === 2;
    const along = (axis) => axis.reduce((sum, weight, index) => sum + weight * (vector[index] - mean[index]), 0);
    this.#yours = isThere ? { text, x: along(axes[0]), y: along(axes[1]), near } : null;
    this.#draw();
    if (!this.#isMoved) this.#fit();
  }

  // Shows one cluster in full colour and the others faint; null: all in full colour.
  pick(cluster) {
    this.#cluster = cluster;
    this.#draw();
  }

  get level() {
    return this.#whole ? this.#whole / (this.#chart.scales.x.max - this.#chart.scales.x.min) : 1;
  }

  zoom(factor) {
    this.#chart.zoom(2 - 1 / factor, "none"); // the plugin expects the zoom this way
  }

  reset() {
    this.#isMoved = false;
    this.#draw();
    this.#fit();
  }

  // After a change of theme or language.
  redraw() {
    this.#draw();
  }

  #fit() {
    const points = [...(this.#map?.danmaku ?? []), ...(this.#yours ? [this.#yours] : [])];
    if (!points.length) return;
    const [xs, ys] = ["x", "y"].map((axis) => points.map((point) => point[axis]));
    const bounds = (values) => [Math.min(...values), Math.max(...values)];
    const [[left, right], [low, high]] = [bounds(xs), bounds(ys)];
    const { width, height } = this.#chart.chartArea;
    const unit = Math.max((right - left) / width, (high - low) / height, 1e-6) * 1.14; // of a pixel, with a margin
    const spans = { x: [(left + right) / 2, (unit * width) / 2], y: [(low + high) / 2, (unit * height) / 2] };
    const limits = {};
    for (const [axis, [middle, half]] of Object.entries(spans)) {
      Object.assign(this.#chart.options.scales[axis], { min: middle - half, max: middle + half });
      limits[axis] = { min: middle - 2.5 * half, max: middle + 2.5 * half, minRange: half / 20 };
    }
    this.#chart.options.plugins.zoom.limits = limits;
    this.#whole = 2 * spans.x[1];
    this.#chart.update("none");
    this.#onZoom(this.level);
  }

  #draw() {
    const colour = (name) => resolved(this.#box, `var(--${name})`);
    const { danmaku = [], clusters = [] } = this.#map ?? {};
    const near = new Set(this.#yours?.near);
    const datasets = clusters.map((_, cluster) => {
      const isFaint = this.#cluster !== null && this.#cluster !== cluster;
      const data = danmaku.filter((point) => point.cluster === cluster);
      return {
        data,
        pointStyle: SHAPES[cluster % SHAPES.length],
        backgroundColor: colour(isFaint ? "line" : `cluster-${cluster}`),
        borderWidth: 0,
        pointRadius: data.map((point) => (near.has(point.id) ? 7 : danmaku.length > 400 ? 3 : 5)),
        pointHoverRadius: 8,
        pointHitRadius: 6,
      };
    });
    const yours = this.#yours;
    if (yours) {
      const ends = danmaku.filter((point) => near.has(point.id));
      datasets.unshift(
        {
          data: [yours],
          pointStyle: "circle",
          backgroundColor: colour("yours"),
          borderColor: colour("surface"),
          borderWidth: 2.5,
          pointRadius: 9,
          pointHoverRadius: 10,
        },
        {
          data: ends.flatMap((end) => [yours, end, { x: NaN, y: NaN }]),
          showLine: true,
          pointRadius: 0,
          pointHitRadius: 0,
          pointHoverRadius: 0,
          borderColor: colour("yours"),
          borderWidth: 1.25,
          borderDash: [2, 4],
        },
      );
    }
    const { options } = this.#chart;
    Object.assign(options.plugins.tooltip, {
      backgroundColor: colour("ink"),
      bodyColor: colour("surface"),
      bodyFont: { family: getComputedStyle(document.body).fontFamily, size: 14 },
      padding: 8,
    });
    this.#colours = { ink: colour("ink"), muted: colour("muted"), surface: colour("surface"), yours: colour("yours") };
    this.#chart.data.datasets = datasets;
    this.#chart.update("none");
  }

  #pointOf({ datasetIndex, index }) {
    return this.#chart.data.datasets[datasetIndex].data[index];
  }

  // Writes texts, the most important first, each beside its point where it covers no earlier text and, if possible, no
  // point. In a crowd, texts may cover points, and common texts keep a distance from each other.
  #write(chart) {
    const { ctx, chartArea, scales } = chart;
    const { danmaku = [], clusters = [] } = this.#map ?? {};
    const near = new Set(this.#yours?.near);
    const centres = new Set(clusters.map(({ centre }) => danmaku[centre]));
    const weight = (point) => (point === this.#yours ? 3 : near.has(point.id) ? 2 : centres.has(point) ? 1 : 0);
    const least = chart.width < NARROW ? (this.#yours ? 2 : 1) : 0;
    const seen = [...(this.#yours ? [this.#yours] : []), ...danmaku]
      .filter((point) => this.#cluster === null || point === this.#yours || point.cluster === this.#cluster)
      .map((point) => ({
        point,
        weight: weight(point),
        x: scales.x.getPixelForValue(point.x),
        y: scales.y.getPixelForValue(point.y),
      }))
      .filter(({ x, y }) => x > chartArea.left && x < chartArea.right && y > chartArea.top && y < chartArea.bottom)
      .sort((one, other) => other.weight - one.weight);
    const isCrowded = seen.length > CROWD;
    const points = isCrowded ? [] : seen.map(({ x, y }) => [x - 5, y - 5, x + 5, y + 5]);
    const taken = [];
    const family = getComputedStyle(document.body).fontFamily;
    ctx.save();
    Object.assign(ctx, { textBaseline: "middle", lineJoin: "round", lineWidth: 4, strokeStyle: this.#colours.surface });
    for (const { point, weight, x, y } of seen.slice(0, MOST_TEXTS)) {
      if (weight < least) break;
      ctx.font = `${weight > 1 ? 600 : 400} ${weight > 2 ? 15 : 13}px ${family}`;
      const text = short(point.text);
      const width = this.#width(ctx, text);
      const margin = isCrowded && !weight ? 16 : 1;
      const places = [[x + 11, y], [x - 11 - width, y], [x - width / 2, y - 17], [x - width / 2, y + 17]].map(([left, middle]) => ({
        left,
        middle,
        box: [left - margin, middle - 8 - margin, left + width + margin, middle + 8 + margin],
      }));
      const isFree = ({ left, middle, box }) =>
        left >= 0 && left + width <= chart.width && middle >= 9 && middle <= chart.height - 9 && !taken.some((other) => meets(box, other));
      const free = places.filter(isFree);
      const place =
        free.find(({ box }) => !points.some((point) => meets(box, point))) ??
        (weight || isCrowded ? free[0] : null) ??
        (weight > 2 ? places[0] : null);
      if (!place) continue;
      taken.push(place.box);
      ctx.strokeText(text, place.left, place.middle);
      ctx.fillStyle = [this.#colours.muted, this.#colours.ink, this.#colours.ink, this.#colours.yours][weight];
      ctx.fillText(text, place.left, place.middle);
    }
    ctx.restore();
  }

  #width(ctx, text) {
    const key = `${ctx.font}\n${text}`;
    if (!this.#widths.has(key)) this.#widths.set(key, ctx.measureText(text).width);
    return this.#widths.get(key);
  }

  #onKey(event) {
    const moves = {
      ArrowLeft: () => this.#chart.pan({ x: STEP }, undefined, "none"),
      ArrowRight: () => this.#chart.pan({ x: -STEP }, undefined, "none"),
      ArrowUp: () => this.#chart.pan({ y: STEP }, undefined, "none"),
      ArrowDown: () => this.#chart.pan({ y: -STEP }, undefined, "none"),
      "+": () => this.zoom(ZOOM),
      "=": () => this.zoom(ZOOM),
      "-": () => this.zoom(1 / ZOOM),
      0: () => this.reset(),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }
}

const meets = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

// Resolves a CSS variable, which a canvas does not understand.
function resolved(element, colour) {
  const probe = element.querySelector(".probe") ?? element.appendChild(document.createElement("i"));
  probe.className = "probe";
  probe.style.color = colour;
  return getComputedStyle(probe).color;
}

// The image of a field: channels in color, contrast, zoom, and the map of a location.
import { getBlob } from "./api.js";

const COLORS = { microtubules: "#ff0000", protein: "#00ff00", nucleus: "#0000ff", er: "#808000" };
const OTHER_COLORS = ["#00ffff", "#ff00ff", "#ff8000", "#ffffff"];
const MAP_STOPS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Return the gray values of a PNG image. */
async function readGray(path) {
  const bitmap = await createImageBitmap(await getBlob(path));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const values = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i];
  return { values, width: bitmap.width, height: bitmap.height };
}

/** Return the smallest value that a share of all pixels do not exceed, and at least 16. */
function whiteOf(values, share = 0.998) {
  const counts = new Uint32Array(256);
  for (const value of values) counts[value]++;
  let seen = 0;
  for (let value = 0; value < 256; value++) {
    seen += counts[value];
    if (seen >= share * values.length) return Math.max(value, 16);
  }
  return 255;
}

export class Viewer {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.channels = [];
    this.map = null;
    this.opacity = 0.6;
    this.pixelUm = null;
    this.reset();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Show the channels of a field: an object of names and addresses. */
  async show(channels, pixelUm) {
    const token = this.token = {};
    const other = [...OTHER_COLORS];
    const before = new Map(this.channels.map((channel) => [channel.name, channel]));
    const found = await Promise.all(Object.entries(channels).map(async ([name, path]) => {
      const gray = await readGray(path);
      const own = COLORS[name] || other.shift() || "#ffffff";
      const kept = before.get(name);
      return { name, ...gray, low: 0, high: whiteOf(gray.values), color: kept?.color ?? own, visible: kept?.visible ?? true };
    }));
    if (token !== this.token) return;
    this.channels = found;
    this.pixelUm = pixelUm;
    this.map = null;
    this.composite = null;
    this.reset();
    this.draw();
  }

  /** Show the map of a location over the image; null for none. */
  async showMap(path) {
    const wanted = this.mapPath = path;
    const map = path ? await readGray(path) : null;
    if (wanted !== this.mapPath) return;
    this.map = map ? this.colored(map) : null;
    this.draw();
  }

  colored({ values, width, height }) {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    // A few pixels often have most of the evidence, so weak evidence is shown too.
    const white = whiteOf(values, 0.99);
    for (let i = 0; i < values.length; i++) {
      const strength = Math.sqrt(Math.min(values[i] / white, 1));
      const place = strength * (MAP_STOPS.length - 1);
      const stop = Math.min(Math.floor(place), MAP_STOPS.length - 2);
      for (let c = 0; c < 3; c++) {
        image.data[4 * i + c] = MAP_STOPS[stop][c] + (place - stop) * (MAP_STOPS[stop + 1][c] - MAP_STOPS[stop][c]);
      }
      image.data[4 * i + 3] = 255 * strength;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  reset() {
    this.scale = 1;
    this.left = 0;
    this.top = 0;
  }

  /** Mix the visible channels: at each pixel the brightest of their colors. */
  mix() {
    const [first] = this.channels;
    const canvas = new OffscreenCanvas(first.width, first.height);
    const context = canvas.getContext("2d");
    const image = context.createImageData(first.width, first.height);
    const out = image.data;
    for (let i = 3; i < out.length; i += 4) out[i] = 255;
    for (const channel of this.channels.filter((each) => each.visible)) {
      const rgb = [1, 3, 5].map((start) => parseInt(channel.color.slice(start, start + 2), 16));
      const span = Math.max(channel.high - channel.low, 1);
      const tables = rgb.map((level) => Uint8ClampedArray.from({ length: 256 }, (_, value) => (level * (value - channel.low)) / span));
      for (let i = 0; i < channel.values.length; i++) {
        for (let c = 0; c < 3; c++) {
          const value = Math.min(tables[c][channel.values[i]], rgb[c]);
          if (value > out[4 * i + c]) out[4 * i + c] = value;
        }
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  changed() {
    this.composite = null;
    this.draw();
  }

  draw() {
    if (!this.channels.length) return;
    const ratio = window.devicePixelRatio || 1;
    const edge = Math.max(Math.round(this.canvas.clientWidth * ratio), 1);
    if (this.canvas.width !== edge) this.canvas.width = this.canvas.height = edge;
    this.paint(this.canvas.getContext("2d"), edge);
    this.onChange?.();
  }

  /** Paint the visible part of the image into a square. */
  paint(context, edge) {
    this.composite ??= this.mix();
    const source = this.composite;
    const shown = 1 / this.scale;
    this.left = Math.min(Math.max(this.left, 0), 1 - shown);
    this.top = Math.min(Math.max(this.top, 0), 1 - shown);
    const part = (image) => [this.left * image.width, this.top * image.height, shown * image.width, shown * image.height];
    context.imageSmoothingEnabled = shown * source.width > edge / 3;
    context.drawImage(source, ...part(source), 0, 0, edge, edge);
    if (this.map) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = this.opacity;
      context.drawImage(this.map, ...part(this.map), 0, 0, edge, edge);
      context.globalAlpha = 1;
    }
    this.paintScaleBar(context, edge);
  }

  /** The length of the scale bar: in micrometers, and as a share of the edge; null if the pixel size is unknown. */
  scaleBar() {
    if (!this.pixelUm) return null;
    const shownUm = (this.composite.width * this.pixelUm) / this.scale;
    const um = [500, 200, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2].find((length) => length <= shownUm / 4);
    return um ? { um, share: um / shownUm } : null;
  }

  paintScaleBar(context, edge) {
    const bar = this.scaleBar();
    if (!bar) return;
    const margin = edge * 0.03;
    context.fillStyle = "#ffffff";
    context.fillRect(edge - margin - bar.share * edge, edge - margin - edge * 0.01, bar.share * edge, edge * 0.01);
    context.font = `${Math.round(edge * 0.03)}px sans-serif`;
    context.textAlign = "right";
    context.fillText(`${bar.um} µm`, edge - margin, edge - margin - edge * 0.02);
  }

  /** Zoom by a factor, so that a point stays where it is. The point is given as shares of the edge. */
  zoom(factor, x = 0.5, y = 0.5) {
    const scale = Math.min(Math.max(this.scale * factor, 1), 32);
    this.left += x / this.scale - x / scale;
    this.top += y / this.scale - y / scale;
    this.scale = scale;
    this.draw();
  }

  move(x, y) {
    this.left -= x / this.scale;
    this.top -= y / this.scale;
    this.draw();
  }

  listen() {
    const { canvas } = this;
    const pointers = new Map();
    const share = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), ...share(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, share(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = share(event);
      if (pointers.size === 1) {
        this.move(now[0] - before[0], now[1] - before[1]);
      } else {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const span = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1e-3;
        this.zoom(span(now) / span(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      pointers.set(event.pointerId, now);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("keydown", (event) => {
      const step = 0.1;
      const actions = {
        "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8),
        0: () => { this.reset(); this.draw(); },
        ArrowLeft: () => this.move(step, 0), ArrowRight: () => this.move(-step, 0),
        ArrowUp: () => this.move(0, step), ArrowDown: () => this.move(0, -step),
      };
      if (actions[event.key]) {
        event.preventDefault();
        actions[event.key]();
      }
    });
  }
}

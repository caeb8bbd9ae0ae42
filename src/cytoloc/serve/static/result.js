// One field with its predictions: image, bars, schematic cell, labels and neighbors.
import { download, getJson, showImage } from "./api.js";
import { drawCell } from "./cell.js";
import { Viewer } from "./viewer.js";

const FEW = 8;
const ON_REAL_IMAGES = {
  "transfers": "in tests on real images: good",
  "partly transfers": "in tests on real images: fair",
  "does not transfer": "in tests on real images: poor",
  "unknown": "not tested on real images",
};
const $ = (id) => document.getElementById(id);

/** Return a new element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class ResultView {
  constructor({ onError, onOpen, onSaved }) {
    this.onError = onError;
    this.onOpen = onOpen;
    this.onSaved = onSaved;
    this.viewer = new Viewer($("canvas"));
    this.chosen = null;
    this.showsAll = false;
    $("zoom-in").onclick = () => this.viewer.zoom(1.5);
    $("zoom-out").onclick = () => this.viewer.zoom(1 / 1.5);
    $("zoom-reset").onclick = () => { this.viewer.reset(); this.viewer.draw(); };
    $("opacity").oninput = (event) => { this.viewer.opacity = event.target.value / 100; this.viewer.draw(); };
    $("all-bars").onclick = () => { this.showsAll = !this.showsAll; this.showBars(); };
    $("save-png").onclick = async () => download(await this.figure(), `${this.field.id}.png`);
    $("save-svg").onclick = async () => download(await this.vectorFigure(), `${this.field.id}.svg`);
    $("save-csv").onclick = () => download(this.table(), `${this.field.id}.csv`);
    $("labels").onsubmit = (event) => { event.preventDefault(); this.save(); };
    $("unlabel").onclick = () => this.unlabel();
    $("find-neighbors").onclick = () => this.findNeighbors();
  }

  /** Show a field. `options.isDataset` says whether it is a field of the dataset. */
  async show(field, options) {
    this.field = field;
    this.options = options;
    this.chosen = null;
    $("result").hidden = false;
    $("result-title").textContent = field.id;
    $("result-caution").hidden = !field.caution;
    $("result-caution").textContent = field.caution ? `Unusual image: ${field.caution}. No location is decided.` : "";
    const facts = Object.entries(field.metadata).map(([name, value]) => `${name.replace("_", " ")} ${value}`);
    if (field.original_px) facts.push(`${field.original_px[1]} × ${field.original_px[0]} px`);
    facts.push(field.pixel_um ? `${field.pixel_um.toFixed(3)} µm per pixel` : "pixel size unknown");
    if (field.flags.length) facts.push(`flags: ${field.flags.join(", ")}`);
    $("result-facts").textContent = facts.join(" · ");
    $("opacity-label").hidden = true;
    this.showBars();
    this.showCell();
    this.showLabels();
    $("neighbors").hidden = !options.isDataset;
    $("find-neighbors").hidden = false;
    $("neighbor-grid").replaceChildren();
    $("result-title").focus();
    try {
      await this.viewer.show(field.channels, field.pixel_um);
      this.showChannels();
    } catch (error) {
      this.onError(error);
    }
  }

  showChannels() {
    $("channels").replaceChildren(...this.viewer.channels.map((channel) => {
      const slider = (bound) => {
        const input = make("input", { type: "range", min: 0, max: 255, value: channel[bound] });
        input.setAttribute("aria-label", `${channel.name}: ${bound === "low" ? "black" : "white"} level`);
        input.oninput = () => {
          channel[bound] = Number(input.value);
          this.viewer.changed();
        };
        return input;
      };
      const box = make("input", { type: "checkbox", checked: channel.visible, id: `visible-${channel.name}` });
      box.onchange = () => { channel.visible = box.checked; this.viewer.changed(); };
      const color = make("input", { type: "color", value: channel.color });
      color.setAttribute("aria-label", `Color of ${channel.name}`);
      color.oninput = () => { channel.color = color.value; this.viewer.changed(); };
      return make("div", { className: "channel" }, box, color, make("label", { htmlFor: box.id, textContent: channel.name }),
        make("div", { className: "sliders" }, "black", slider("low"), "white", slider("high")));
    }));
  }

  showBars() {
    const { locations } = this.field;
    $("threshold-note").hidden = !locations.some((each) => each.threshold !== null);
    const shown = this.showsAll ? locations : locations.filter((each, place) => place < FEW || each.predicted);
    $("bars").replaceChildren(...shown.map((location) => this.bar(location)));
    if (!locations.length) $("bars").append(make("li", { textContent: "This field is not predicted yet." }));
    $("all-bars").hidden = locations.length <= FEW;
    $("all-bars").textContent = this.showsAll ? "Show the most probable only" : `Show all ${locations.length} locations`;
    $("all-bars").setAttribute("aria-expanded", String(this.showsAll));
  }

  bar(location) {
    const button = make("button", { type: "button" });
    button.setAttribute("aria-pressed", String(this.chosen === location.key));
    const threshold = location.threshold === null ? "" : `<line x1="${100 * location.threshold}" x2="${100 * location.threshold}" y1="0" y2="10" stroke="var(--ink)" stroke-width="2" vector-effect="non-scaling-stroke"/>`;
    const track = make("span", { className: "track" });
    track.innerHTML = `<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="${100 * location.probability}" height="10" fill="var(${location.predicted ? "--bar" : "--bar-off"})"/>${threshold}</svg>`;
    const name = make("span", { className: `name${location.predicted ? " is-predicted" : ""}`, textContent: `${location.predicted ? "✓ " : ""}${location.name}` });
    if (location.knowledge) name.append(make("span", { className: "note", textContent: ON_REAL_IMAGES[location.knowledge] ?? location.knowledge }));
    button.append(name, track, make("span", { className: "value", textContent: location.probability.toFixed(2) }));
    button.onclick = () => this.choose(location);
    return make("li", {}, button);
  }

  /** Show the map of a location, or hide it if it is shown. */
  async choose(location) {
    this.chosen = this.chosen === location.key ? null : location.key;
    this.showBars();
    const path = this.chosen === null ? null : location.map;
    $("opacity-label").hidden = !path;
    try {
      await this.viewer.showMap(path);
    } catch (error) {
      this.onError(error);
    }
  }

  showCell() {
    const { locations } = this.field;
    $("cell-figure").hidden = !locations.length;
    const missing = drawCell($("cell"), locations);
    $("cell-note").textContent = missing.length
      ? `A schematic cell; green: predicted. Not drawn: ${missing.join(", ")}.`
      : "A schematic cell; green: predicted.";
  }

  showLabels() {
    const { field, options } = this;
    $("labels").hidden = !(options.isDataset && options.model.can_correct);
    if ($("labels").hidden) return;
    const names = (keys) => keys.map((key) => options.model.locations.find((each) => each.key === key)?.name ?? key).join(", ");
    const known = [];
    if (field.labels) known.push(`Labels of the dataset: ${names(field.labels)}.`);
    known.push(field.corrected ? `You saved: ${names(field.corrected)}.` : "You saved no labels for this field.");
    $("labels-state").textContent = known.join(" ");
    $("unlabel").hidden = !field.corrected;
    const checked = new Set(field.corrected ?? field.labels ?? field.locations.filter((each) => each.predicted).map((each) => each.key));
    $("label-rows").replaceChildren(...options.model.locations.map((location) => make("label", {},
      make("input", { type: "checkbox", value: location.key, checked: checked.has(location.key) }), location.name)));
  }

  get address() {
    return `/v1/dataset/labels?id=${encodeURIComponent(this.field.id)}`;
  }

  async save() {
    const locations = [...$("label-rows").querySelectorAll("input:checked")].map((input) => input.value);
    if (!locations.length) {
      $("labels-state").textContent = "Choose at least one location.";
      return;
    }
    await this.replaceLabels({ method: "PUT", body: JSON.stringify({ locations }), headers: { "Content-Type": "application/json" } });
  }

  async unlabel() {
    await this.replaceLabels({ method: "DELETE" });
  }

  async replaceLabels(options) {
    try {
      this.field = await getJson(this.address, options);
      this.showLabels();
      this.onSaved();
    } catch (error) {
      this.onError(error);
    }
  }

  async findNeighbors() {
    $("find-neighbors").disabled = true;
    $("find-neighbors").textContent = "Comparing with all fields…";
    try {
      const found = await getJson(`/v1/dataset/neighbors?id=${encodeURIComponent(this.field.id)}`);
      $("neighbor-grid").replaceChildren(...found.map((each) => {
        const image = make("img", { alt: "" });
        showImage(image, each.thumbnail).catch(this.onError);
        const button = make("button", { type: "button" }, image, make("span", { className: "name", textContent: each.id }),
          make("span", { textContent: each.labels ? `labels: ${each.labels.join(", ")}` : each.locations.join(", ") || "no location" }),
          make("span", { className: "quiet", textContent: `distance ${each.distance.toFixed(3)}` }));
        button.onclick = () => this.onOpen(each.id);
        return make("li", {}, button);
      }));
      $("find-neighbors").hidden = true;
    } catch (error) {
      this.onError(error);
    } finally {
      $("find-neighbors").disabled = false;
      $("find-neighbors").textContent = "Find them";
    }
  }

  /** The lines below the image in a figure. */
  captions() {
    const { field, viewer } = this;
    const found = field.locations.filter((each) => each.predicted ?? each.probability >= 0.5);
    const lines = [field.id, found.map((each) => `${each.name} ${each.probability.toFixed(2)}`).join(", ") || "no location"];
    const map = field.locations.find((each) => each.key === this.chosen);
    if (map) lines.push(`Map: ${map.name}`);
    return { lines, key: viewer.channels.filter((each) => each.visible) };
  }

  imageCanvas(edge) {
    const canvas = new OffscreenCanvas(edge, edge);
    this.viewer.paint(canvas.getContext("2d"), edge);
    return canvas;
  }

  /** Return the figure as a PNG image: the image as shown, the locations, and the colors of the channels. */
  async figure() {
    const edge = 1024;
    const { lines, key } = this.captions();
    const canvas = new OffscreenCanvas(edge, edge + 40 * (lines.length + 1) + 20);
    const context = canvas.getContext("2d");
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.imageCanvas(edge), 0, 0);
    context.font = "28px sans-serif";
    context.fillStyle = "#000000";
    lines.forEach((line, place) => context.fillText(line, 10, edge + 36 + 40 * place, edge - 20));
    let left = 10;
    for (const channel of key) {
      const top = edge + 36 + 40 * lines.length;
      context.fillStyle = channel.color;
      context.fillRect(left, top - 22, 24, 24);
      context.strokeRect(left, top - 22, 24, 24);
      context.fillStyle = "#000000";
      context.fillText(channel.name, left + 32, top);
      left += 60 + context.measureText(channel.name).width;
    }
    return canvas.convertToBlob({ type: "image/png" });
  }

  /** Return the figure as SVG: text and colors as vectors, the image inside as PNG. */
  async vectorFigure() {
    const edge = 1024;
    const { lines, key } = this.captions();
    const bytes = new Uint8Array(await (await this.imageCanvas(edge).convertToBlob()).arrayBuffer());
    let text = "";
    for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
    const safe = (word) => word.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
    const height = edge + 40 * (lines.length + 1) + 20;
    let left = 10;
    const squares = key.map((channel) => {
      const top = edge + 36 + 40 * lines.length;
      const part = `<rect x="${left}" y="${top - 22}" width="24" height="24" fill="${channel.color}" stroke="black"/><text x="${left + 32}" y="${top}">${safe(channel.name)}</text>`;
      left += 70 + 15 * channel.name.length;
      return part;
    });
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${edge} ${height}" font-family="sans-serif" font-size="28"><rect width="${edge}" height="${height}" fill="white"/><image width="${edge}" height="${edge}" href="data:image/png;base64,${btoa(text)}"/>${lines.map((line, place) => `<text x="10" y="${edge + 36 + 40 * place}">${safe(line)}</text>`).join("")}${squares.join("")}</svg>`;
    return new Blob([svg], { type: "image/svg+xml" });
  }

  table() {
    const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const rows = this.field.locations.map((each) => [this.field.id, each.name, each.go_id, each.probability, each.threshold, each.predicted].map(cell).join(","));
    return new Blob([["id,location,go_id,probability,threshold,predicted", ...rows, ""].join("\n")], { type: "text/csv" });
  }
}


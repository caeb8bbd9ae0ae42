// The fields of the dataset, with filters.
import { download, getBlob, getJson, showImage } from "./api.js";
import { make } from "./result.js";

const PAGE = 48;
const POLL_MS = 2000;
const $ = (id) => document.getElementById(id);

export class GalleryView {
  constructor({ model, onError, onOpen }) {
    this.onError = onError;
    this.onOpen = onOpen;
    this.offset = 0;
    const form = $("filter");
    form.location.append(...model.locations.map((each) => make("option", { value: each.key, textContent: each.name })));
    let waiting;
    form.oninput = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.load(), 250);
    };
    form.onsubmit = (event) => { event.preventDefault(); this.load(); };
    $("more").onclick = () => this.load(this.offset + PAGE);
    for (const kind of ["csv", "xlsx"]) {
      $(`table-${kind}`).onclick = async (event) => {
        event.preventDefault();
        try {
          download(await getBlob(`/v1/dataset/table?format=${kind}`), `predictions.${kind}`);
        } catch (error) {
          this.onError(error);
        }
      };
    }
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        this.seen.unobserve(entry.target);
        showImage(entry.target, entry.target.dataset.path).catch(this.onError);
      }
    }, { rootMargin: "300px" });
  }

  /** Show how many fields are predicted, until all are. */
  async watch() {
    let before = -1;
    for (;;) {
      let state;
      try {
        state = await getJson("/v1/dataset");
      } catch (error) {
        this.onError(error);
        return;
      }
      if (before < 0) this.fillChoices(state);
      const done = state.predicted < state.fields ? `${state.predicted} of ${state.fields} fields are predicted so far` : `${state.fields} fields`;
      $("dataset-state").textContent = `${state.name}: ${done}, ${state.labeled} labeled, ${state.corrected} with labels saved here. ${state.error}`;
      if (state.predicted !== before && this.offset === 0) await this.load();
      before = state.predicted;
      if (state.predicted >= state.fields || state.error) return;
      await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
    }
  }

  fillChoices(state) {
    for (const name of ["plate", "well"]) {
      $("filter")[name].append(...state[`${name}s`].map((value) => make("option", { value, textContent: value })));
      $("filter")[name].parentElement.hidden = !state[`${name}s`].length;
    }
  }

  query() {
    const form = new FormData($("filter"));
    const [sort, direction] = form.get("sort").split(":");
    form.set("sort", sort);
    form.set("descending", String(direction === "descending"));
    if (!form.get("min_probability")) form.set("min_probability", "0");
    return new URLSearchParams(form);
  }

  async load(offset = 0) {
    const query = this.query();
    query.set("offset", offset);
    query.set("limit", PAGE);
    const token = this.token = {};
    try {
      const found = await getJson(`/v1/dataset/fields?${query}`);
      if (token !== this.token) return;
      this.offset = offset;
      const items = found.fields.map((field) => this.item(field));
      if (offset) $("grid").append(...items);
      else $("grid").replaceChildren(...items);
      $("count").textContent = `${found.total} field${found.total === 1 ? "" : "s"}`;
      $("more").hidden = offset + PAGE >= found.total;
    } catch (error) {
      this.onError(error);
    }
  }

  item(field) {
    const image = make("img", { alt: "" });
    image.dataset.path = field.thumbnail;
    this.seen.observe(image);
    const lines = [make("span", { className: "name", textContent: field.id })];
    const add = (text, className = "") => lines.push(make("span", { textContent: text, className }));
    add(field.probability === null ? "not predicted yet" : field.locations.join(", ") || "no location");
    if (field.labels) add(`labels: ${field.labels.join(", ")}`, "quiet");
    if (field.corrected) add(`saved: ${field.corrected.join(", ")}`, "quiet");
    if (field.caution) add("unusual image", "quiet");
    if (field.probability !== null) add(`probability ${field.probability.toFixed(2)} · uncertainty ${field.uncertainty.toFixed(2)}`, "quiet");
    const button = make("button", { type: "button" }, image, ...lines);
    button.onclick = () => this.onOpen(field.id);
    return make("li", {}, button);
  }
}

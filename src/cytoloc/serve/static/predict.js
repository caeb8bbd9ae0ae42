// Image files of the user: which channel is where, and the request for predictions.
import { getJson, ServiceError } from "./api.js";
import { make } from "./result.js";

const WORDS = {
  microtubules: /red|tub|mt\b/i, protein: /green|gfp|protein|488/i, nucleus: /blue|dapi|hoechst|nucle|dna/i, er: /yellow|\ber\b|_er|calnexin/i,
};
const $ = (id) => document.getElementById(id);

export class PredictView {
  constructor({ model, onError, onResult, busy }) {
    this.model = model;
    this.onError = onError;
    this.onResult = onResult;
    this.busy = busy;
    this.files = [];
    $("needs").textContent = `The model needs ${model.channels.join(", ")}, at least ${model.size_px} × ${model.size_px} pixels. Kinds of files: ${model.suffixes.join(" ")}. At most ${model.max_upload_mb} MB.`;
    const drop = $("drop");
    for (const kind of ["dragenter", "dragover"]) {
      drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => { event.preventDefault(); this.choose([...event.dataTransfer.files]); });
    $("files").onchange = (event) => { this.choose([...event.target.files]); event.target.value = ""; };
    $("assign").onsubmit = (event) => { event.preventDefault(); this.predict(); };
    $("cancel").onclick = () => { $("assign").hidden = true; };
    $("examples").hidden = !model.examples.length;
    $("example-list").append(...model.examples.map((example) => {
      const button = make("button", { type: "button", textContent: example.title });
      button.onclick = () => this.run(`Predicting ${example.title}`, () => getJson(`/v1/examples/${example.id}`));
      return make("li", {}, button);
    }));
  }

  /** Ask which channel is in which file, or where in the only file. */
  choose(files) {
    if (!files.length) return;
    this.files = files;
    $("absent").hidden = true;
    $("absent-rows").replaceChildren();
    const rows = files.length === 1 ? this.rowsOfOneFile(files[0]) : this.rowsOfFiles(files);
    $("assign-rows").replaceChildren(...rows);
    $("assign").hidden = false;
    $("assign").querySelector("select, input")?.focus();
  }

  rowsOfOneFile(file) {
    const intro = make("p", { textContent: `${file.name} contains all channels. Give the number of each channel in the file, counted from 0, or its name. Leave a field empty if the channel was not imaged.` });
    return [intro, ...this.model.channels.map((name, number) => make("label", { className: "row" }, name,
      make("input", { type: "text", name, value: String(number), autocomplete: "off" })))];
  }

  rowsOfFiles(files) {
    const taken = new Set();
    return files.map((file, number) => {
      const guess = this.model.channels.find((name) => !taken.has(name) && (file.name.toLowerCase().includes(name) || WORDS[name]?.test(file.name)));
      if (guess) taken.add(guess);
      const select = make("select", { name: `file-${number}` }, make("option", { value: "", textContent: "do not use" }),
        ...this.model.channels.map((name) => make("option", { value: name, textContent: name, selected: name === guess })));
      return make("label", { className: "row" }, file.name, select);
    });
  }

  /** The form of the request. */
  form() {
    const form = new FormData();
    const chosen = new FormData($("assign"));
    if (this.files.length === 1) {
      form.append("image", this.files[0]);
      const picks = this.model.channels.map((name) => [name, (chosen.get(name) ?? "").trim()]).filter(([, text]) => text);
      form.append("channels", JSON.stringify(Object.fromEntries(picks.map(([name, text]) => [name, /^\d+$/.test(text) ? Number(text) : text]))));
    } else {
      const used = this.files.map((file, number) => [chosen.get(`file-${number}`), file]).filter(([name]) => name);
      const twice = used.map(([name]) => name).find((name, place, all) => all.indexOf(name) !== place);
      if (twice) throw new ServiceError(0, { error: `Two files are given for ${twice}.`, hint: "Choose another channel for one of them. For several fields, use a batch job or cytoloc predict." });
      if (!used.length) throw new ServiceError(0, { error: "No file has a channel.", hint: "Choose a channel for each file." });
      used.forEach(([name, file]) => form.append(name, file));
    }
    const absent = [...$("absent-rows").querySelectorAll("select")].map((select) => `${select.name}=${select.value}`);
    if (absent.length) form.append("absent", absent.join(","));
    if ($("pixel-um").value) form.append("pixel_um", $("pixel-um").value);
    return form;
  }

  async predict() {
    await this.run("Predicting", async () => getJson("/v1/predict", { method: "POST", body: this.form() }));
  }

  async run(text, ask) {
    try {
      const answer = await this.busy(text, ask);
      $("assign").hidden = true;
      this.onResult(answer);
    } catch (error) {
      if (error.missing?.length && this.files.length && !$("assign").hidden) this.askSubstitutes(error.missing);
      else this.onError(error);
    }
  }

  /** Ask what to do about channels that were not imaged. */
  askSubstitutes(missing) {
    const given = this.model.channels.filter((name) => !missing.includes(name));
    $("absent-rows").replaceChildren(...missing.map((name) => make("label", { className: "row" }, name,
      make("select", { name }, make("option", { value: "zero", textContent: "black image" }),
        ...given.map((other) => make("option", { value: other, textContent: `copy of ${other}` }))))));
    $("absent").hidden = false;
    $("absent-rows").querySelector("select").focus();
  }
}

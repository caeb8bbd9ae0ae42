// The page of the service.
import { getJson } from "./api.js";
import { GalleryView } from "./gallery.js";
import { PredictView } from "./predict.js";
import { make, ResultView } from "./result.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["predict", "gallery", "model"];

function showError(error) {
  const missing = error.missing?.length ? `\nMissing: ${error.missing.join(", ")}.` : "";
  $("message").textContent = `${error.message}${error.hint ? `\n${error.hint}` : ""}${missing}`;
  $("message").hidden = false;
  $("message").scrollIntoView({ block: "nearest" });
}

const hideError = () => { $("message").hidden = true; };

/** Show that work is in progress, and do it. */
async function busy(text, work) {
  hideError();
  $("busy").firstElementChild.textContent = `${text}…`;
  $("busy").hidden = false;
  try {
    return await work();
  } finally {
    $("busy").hidden = true;
  }
}

function showView(name) {
  hideError();
  $("result").hidden = true;
  for (const view of VIEWS) $(`view-${view}`).hidden = view !== name;
  for (const button of document.querySelectorAll("nav button")) {
    if (button.dataset.view === name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
}

function showModel(model) {
  const facts = {
    Name: model.name, "Label set": model.label_set, Channels: model.channels.join(", "), "Image size": `${model.size_px} px`,
    Engine: model.engine, "Test-time augmentation": `${model.tta} view${model.tta === 1 ? "" : "s"}`,
    Thresholds: model.thresholds ? "from a decision that was fitted" : "none: probabilities only", Fingerprint: model.fingerprint,
    Version: `cytoloc ${model.version}`,
  };
  $("model-facts").append(...Object.entries(facts).flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  $("card").textContent = model.card || "This model has no card.";
  const files = model.channels.map((name) => `-F ${name}=@${name}.png`).join(" ");
  $("curl").textContent = `curl ${files} ${location.origin}/v1/predict`;
  $("caution").textContent = model.caution;
  $("caution").hidden = !model.caution;
}

function setTheme() {
  const root = document.documentElement;
  const saved = localStorage.getItem("theme");
  if (saved) root.dataset.theme = saved;
  $("theme").onclick = () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  };
}

async function start() {
  setTheme();
  const model = await getJson("/v1/model");
  showModel(model);
  let gallery = null;

  const open = async (id) => {
    try {
      const field = await busy("Reading", () => getJson(`/v1/dataset/field?id=${encodeURIComponent(id)}`));
      $("view-gallery").hidden = true;
      $("result-choice-label").hidden = true;
      $("close").hidden = false;
      await result.show(field, { isDataset: true, model });
    } catch (error) {
      showError(error);
    }
  };
  const result = new ResultView({ onError: showError, onOpen: open, onSaved: () => gallery?.load() });

  new PredictView({
    model,
    busy,
    onError: showError,
    onResult: (answer) => {
      $("close").hidden = true;
      $("result-choice-label").hidden = answer.fields.length < 2;
      $("result-choice").replaceChildren(...answer.fields.map((field, place) => make("option", { value: place, textContent: field.id })));
      $("result-choice").onchange = (event) => result.show(answer.fields[event.target.value], { isDataset: false, model });
      if (answer.rejected.length) showError(new Error(answer.rejected.map((each) => `${each.id} ${each.reason}`).join("\n")));
      if (answer.fields.length) result.show(answer.fields[0], { isDataset: false, model });
    },
  });
  for (const button of document.querySelectorAll("nav button")) button.onclick = () => showView(button.dataset.view);
  $("close").onclick = () => showView("gallery");
  if (model.has_dataset) {
    gallery = new GalleryView({ model, onError: showError, onOpen: open });
    document.querySelector("[data-view=gallery]").hidden = false;
    showView("gallery");
    gallery.watch();
  }
  // Until here, a choice of the user would be undone.
  for (const button of document.querySelectorAll("nav button")) button.disabled = false;
}

start().catch(showError);

// Pulling images ahead of time, with progress.

import { Failed, lines } from "./api.js";
import { $, h, say } from "./dom.js";
import { plural, size } from "./format.js";
import { attempt } from "./session.js";

/** `after` is called when a run has ended. */
export function warm(after) {
  $("warm-open").addEventListener("click", () => open("", after));
  document.addEventListener("warm", (event) => open(event.detail, after));
}

function open(image, after) {
  const dialog = $("warm");
  const leaving = new AbortController();
  const names = h("textarea", { id: "warm-images", rows: 5, spellcheck: "false", required: true, autofocus: true,
    placeholder: "docker.io/library/nginx:1.27\nghcr.io/org/app:2.1" });
  names.value = image;
  const platforms = h("input", { id: "warm-platforms", placeholder: "all", spellcheck: "false", autocomplete: "off" });
  const rows = h("ul", { class: "flights plain" });
  const result = h("p", { class: "lead", role: "status" });
  const start = h("button", { type: "submit", class: "strong" }, "Warm");
  const form = h("form", {},
    h("h2", { id: "warm-title" }, "Warm images"),
    h("p", { class: "fine" }, "Pulled now at low priority, so that nodes find them here. What is here already is not fetched again."),
    h("label", { for: "warm-images" }, "Images, one a line"), names,
    h("label", { for: "warm-platforms" }, "Platforms, such as linux/amd64, linux/arm64"), platforms,
    h("div", { class: "actions" }, start, h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close")),
    result, rows);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = (text) => text.split(/[\s,]+/).filter(Boolean);
    const chosen = words(platforms.value).filter((each) => each !== "all");
    const body = { images: words(names.value), platforms: chosen.length ? chosen : "all" };
    start.disabled = true;
    await attempt("Warm images", () => run(body, rows, result, leaving.signal));
    start.disabled = false;
    after();
  });
  dialog.addEventListener("close", () => {
    leaving.abort();
    dialog.replaceChildren();
  }, { once: true });
  dialog.replaceChildren(form);
  dialog.showModal();
}

async function run(body, rows, result, signal) {
  const known = new Map();
  rows.replaceChildren();
  result.textContent = "";
  let summary = null;
  try {
    for await (const row of lines("warm", body, signal)) {
      if (row.error) throw new Failed(row.error, 200);
      if (row.summary) summary = row.summary;
      else progress(row, rows, known);
    }
  } catch (error) {
    if (error.name === "AbortError") return "Warming was left; what has come stays.";
    throw error;
  }
  if (!summary) throw new Failed("The stream ended early. What has come stays; warm again to go on.", 0);
  const text = `${plural(summary.done, "image")} here, ${size(summary.bytes)} fetched${summary.failed ? `, ${summary.failed} failed` : ""}.`;
  result.textContent = text;
  return text;
}

function progress(row, rows, known) {
  if (!known.has(row.image)) {
    const [bar, words] = [h("progress", { max: 1, value: 0, "aria-label": row.image }), h("span", { class: "done" })];
    const element = h("li", {}, h("span", { class: "name" }, row.image), bar, words);
    rows.append(element);
    known.set(row.image, { element, bar, words });
  }
  const { element, bar, words } = known.get(row.image);
  element.dataset.state = row.state === "failed" ? "stalled" : "moving";
  bar.value = row.state === "done" ? 1 : row.bytes_total ? row.bytes_done / row.bytes_total : 0;
  const moving = `${size(row.bytes_done ?? 0)}${row.bytes_total ? ` of ${size(row.bytes_total)}` : ""}`;
  say(words, { waiting: "waiting", pulling: moving, done: `done, ${size(row.bytes_total ?? 0)}`, failed: row.reason }[row.state] ?? row.state);
}

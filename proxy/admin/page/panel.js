// One image as a panel: why it is as it is, what it is, where it is held, and what can be done to it.
// It has an address (#image=…), so that one engineer can send it to another.

import { get, post } from "./api.js";
import { $, empty, h, show, table, terms } from "./dom.js";
import { ago, brief, plural, short, size } from "./format.js";
import { attempt } from "./session.js";

const SHOWN = 40; // blobs of one image; more are only counted

/** Attributes of a link to an image's panel; a name alone may mean many images, and leads to the search for them. */
export const opens = (image) => ({
  href: `#${/[:@][^/]*$/.test(image) ? "image" : "find"}=${encodeURIComponent(image)}`,
});

let shown = null; // the image whose panel is open
let changed = () => {};

/** `after` is called when something was changed from the panel. */
export function panels(after) {
  changed = after;
  const dialog = $("panel");
  dialog.addEventListener("close", () => {
    shown = null;
    history.replaceState(null, "", location.pathname + location.search);
  });
  // The dialog's own box is the panel; what is outside it is the page behind.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  window.addEventListener("hashchange", follow);
  follow();
}

function follow() {
  const [, what, rest] = /^#(image|find)=(.+)$/.exec(location.hash) ?? [];
  if (!what) return;
  let name;
  try {
    name = decodeURIComponent(rest);
  } catch {
    return; // no address of ours
  }
  if (what === "image") open(name);
  else document.dispatchEvent(new CustomEvent("find", { detail: name }));
}

function open(image) {
  shown = image;
  const dialog = $("panel");
  show(dialog, top(image), h("p", { class: "lead", role: "status" }, "Looking"));
  if (!dialog.open) dialog.showModal();
  load(image);
}

async function load(image) {
  const failing = (error) => ({ failed: error });
  const [explained, detail] = await Promise.all([
    get("explain", { image }).catch(failing),
    get("image", { name: image }).catch((error) => (error.status === 404 ? null : failing(error))),
  ]);
  if (shown !== image) return; // another one was opened meanwhile
  show($("panel"), top(image), why(explained), actions(image, detail), about(detail), steps(explained), parts(detail));
}

const top = (image) => h("header", { class: "head" },
  h("h2", { id: "panel-title", tabindex: -1, autofocus: true, "data-key": "title" }, image),
  h("button", { type: "button", class: "quiet", "data-key": "close", onclick: () => $("panel").close() }, "Close"));

const why = (explained) => (explained.failed
  ? h("p", { class: "why", role: "status" }, explained.failed.message)
  : h("div", { class: "lead", role: "status" }, h("p", { title: explained.cause }, brief(explained.cause)),
    h("p", { class: "next", title: explained.next }, brief(explained.next))));

function actions(image, detail) {
  const held = detail && !detail.failed;
  const act = (verb, path, done) => h("button", { type: "button", "data-key": path, onclick: () => change(image, verb, path, done) }, verb);
  return h("div", { class: "actions" },
    held && (detail.pinned
      ? act("Unpin", "unpin", () => "Unpinned. It may be evicted when the disk is full.")
      : act("Pin", "pin", (answer) => `Pinned: ${size(answer.bytes)} will not be evicted.`)),
    held && act("Refresh", "refresh", refreshed),
    !(held && detail.held.disk === "whole") && h("button", { type: "button", "data-key": "warm",
      onclick: () => document.dispatchEvent(new CustomEvent("warm", { detail: image })) }, held ? "Complete it" : "Pull it now"),
    held && h("button", { type: "button", class: "grave", "data-key": "purge", onclick: (event) => confirmed(event.currentTarget, () =>
      change(image, "Purge", "purge", (answer) => `Purged: ${size(answer.bytes)} freed.`)) }, "Purge"));
}

function refreshed(answer) {
  const [source, doubt] = answer.confirmed ? ["Upstream", ""] : ["ECR", " Upstream does not answer."];
  return `${answer.changed ? `${source} has a newer one; that is served now.` : `${source} has the same.`}${doubt}`;
}

/** A second press, on a button that says what it does, is the question and the answer. */
function confirmed(button, act) {
  if (button.dataset.sure) return act();
  button.dataset.sure = "yes";
  button.textContent = "Purge it from disk?";
  const calm = () => {
    delete button.dataset.sure;
    button.textContent = "Purge";
  };
  return button.addEventListener("blur", calm, { once: true });
}

async function change(image, verb, path, done) {
  const worked = await attempt(`${verb} ${image}`, async () => done(await post(path, { image })));
  if (worked) changed();
  if (shown === image) await load(image);
}

function about(detail) {
  if (!detail) return empty("Nothing of it is on disk.");
  if (detail.failed) return h("p", { class: "why" }, detail.failed.message);
  return terms([
    ["Digest", h("code", { class: "whole" }, detail.digest)],
    ["On disk", detail.present >= detail.size ? `all of ${size(detail.size)}` : `${size(detail.present)} of ${size(detail.size)}`],
    detail.platforms.length && ["Platforms", detail.platforms.join(", ")],
    detail.tags?.length > 1 && ["Tags", detail.tags.join(", ")],
    detail.checked && ["Compared with upstream", ago(detail.checked)],
    detail.used && ["Last used", ago(detail.used)],
    ["Pinned", detail.pinned ? "yes, never evicted" : "no"],
    ...Object.entries(detail.held).map(([where, how]) => [where === "disk" ? "Held on disk" : `Held in ECR ${where}`, heldIn(how)]),
    ["Type", detail.media_type],
  ], "terms tall");
}

const heldIn = (how) => ({ whole: "whole", part: "in part", yes: "yes", no: "no", unknown: "not known" })[how] ?? how;

function steps(explained) {
  if (explained.failed || !explained.steps.length) return null;
  return h("section", {}, h("h3", {}, "How that comes about"),
    h("ol", { class: "steps" }, explained.steps.map((step) =>
      h("li", {}, h("span", { class: "what", title: step.what }, step.what.replace(/sha\d+:\w+/, short)), h("span", {}, step.answer), step.detail && h("p", { class: "fine" }, step.detail)))));
}

function parts(detail) {
  if (!detail || detail.failed) return null;
  const { children = [], blobs = [] } = detail;
  const rest = blobs.length - SHOWN;
  return h("section", {},
    children.length > 0 && [h("h3", {}, "Platforms"), table("Platforms of this image", [
      ["Platform", "main", (each) => each.platform || "other"],
      ["On disk", "num", (each) => size(each.present)],
      ["Size", "num", (each) => size(each.size)],
      ["Digest", "wide", (each) => h("code", {}, short(each.digest))],
    ], children)],
    blobs.length > 0 && [h("h3", {}, plural(blobs.length, "blob")), table("Blobs of this image", [
      ["Digest", "main", (each) => h("code", {}, short(each.digest))],
      ["Size", "num", (each) => size(each.size)],
      ["On disk", "", (each) => (each.on_disk ? "yes" : "no")],
    ], blobs.slice(0, SHOWN))],
    rest > 0 && h("p", { class: "fine" }, `and ${plural(rest, "more blob")}`));
}

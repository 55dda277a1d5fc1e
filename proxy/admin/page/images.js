// Search over what is cached.

import { get } from "./api.js";
import { $, empty, h, say, show, table } from "./dom.js";
import { ago, count, plural, short, size } from "./format.js";
import { opens } from "./panel.js";

const PAGE = 50;
const PAUSE = 200; // ms after the last key

let found = [];
let next = null;
let asked = 0;

export function images() {
  const [form, field] = [$("search"), $("q")];
  let timer;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    load();
  });
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(load, PAUSE);
  });
  $("ask").addEventListener("click", () => {
    location.hash = `#image=${encodeURIComponent(field.value.trim())}`;
  });
  document.addEventListener("find", (event) => {
    field.value = event.detail;
    load();
    field.focus();
    field.scrollIntoView({ block: "start" });
    history.replaceState(null, "", location.pathname + location.search);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, textarea")) return;
    event.preventDefault();
    field.focus();
  });
  load();
}

/** Ask again, for the first page or for what follows the last one shown. */
export async function load(after) {
  const query = $("q").value.trim();
  const mine = (asked += 1);
  const cursor = typeof after === "string" ? after : null;
  let answer;
  try {
    answer = await get("images", { q: query, limit: PAGE, after: cursor });
  } catch (error) {
    if (mine === asked) say($("images-count"), error.message);
    return;
  }
  if (mine !== asked) return; // an answer to what nobody asks any more
  found = cursor ? [...found, ...answer.images] : answer.images;
  next = answer.next;
  draw(query, answer.total);
}

/** The first page anew, unless somebody has gone further: what they look at shall not jump. */
export const refresh = () => (found.length > PAGE ? undefined : load());

function draw(query, total) {
  say($("images-count"), total || query ? plural(total, query ? "match" : "image", query ? "matches" : "images") : "");
  $("ask").hidden = !query;
  if (!found.length) {
    show($("images"), query
      ? empty("Nothing cached has that in its name, tag or digest. Explain says what a pull of it would do.")
      : empty("No image is cached yet. The first pull brings one."));
    return;
  }
  show($("images"),
    table("Cached images", [
      ["Image", "main", (image) => [
        h("a", { ...opens(nameOf(image)), "data-key": `${image.name}:${image.tag}@${image.digest}` },
          image.name, image.tag && h("span", { class: "tag" }, `:${image.tag}`)),
        image.pinned && h("span", { class: "pin" }, "pinned"),
        h("p", { class: "fine" }, h("code", {}, short(image.digest)))]],
      ["Platforms", "wide fine", (image) => platforms(image.platforms)],
      ["Size", "num", (image) => size(image.size)],
      ["On disk", "num", (image) => (image.held.disk === "whole" ? "all" : size(image.present))],
      ["In ECR", "wide fine", (image) => inEcr(image.held)],
      ["Used", "num wide", (image) => (image.used ? ago(image.used) : "never")],
    ], found),
    next && h("button", { type: "button", class: "quiet more", "data-key": "more", onclick: () => load(next) },
      `Show more (${count(total - found.length)} left)`));
}

const nameOf = (image) => `${image.name}${image.tag ? `:${image.tag}` : `@${image.digest}`}`;

const platforms = (names) => (names.length > 3 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(", "));

function inEcr(held) {
  const targets = Object.entries(held).filter(([where]) => where !== "disk");
  const there = targets.filter(([, how]) => how === "yes").map(([where]) => where);
  if (!targets.length) return "";
  if (there.length) return there.join(", ");
  return targets.every(([, how]) => how === "no") ? "none" : "not known";
}

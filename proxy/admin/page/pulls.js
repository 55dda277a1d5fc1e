// Recent pulls: where each came from, and why it was not here where it was not.

import { $, empty, h, show, table } from "./dom.js";
import { brief, capital, clock, size, span, when } from "./format.js";
import { opens } from "./panel.js";

const KEPT = 100;
const FEW = 10; // enough for a look; the rest on demand
const SOURCES = { hit: "disk", joined: "joined", ecr: "ECR", upstream: "upstream", stale: "stale tag" };
const HINTS = {
  hit: "All of it was on disk", joined: "Joined a download that was running", ecr: "Came from Amazon ECR",
  upstream: "Came from upstream", stale: "Upstream failed; a cached tag within its policy",
};

let pulls = [];
let all = false;

export function setPulls(list) {
  pulls = list.sort((one, other) => other.at - one.at).slice(0, KEPT);
  draw();
}

export function addPull(pull) {
  setPulls([pull, ...pulls.filter((each) => each.id !== pull.id)]);
}

const failed = (pull) => pull.outcome === "failed" || pull.outcome === "aborted";

function source(pull) {
  if (failed(pull)) return h("span", { class: "source failed" }, pull.status >= 400 ? `failed, ${pull.status}` : pull.outcome);
  const from = SOURCES[pull.source];
  const rest = pull.outcome === "complete" ? "" : pull.outcome;
  return h("span", { class: `source ${pull.source ?? "none"}`, title: HINTS[pull.source] }, [from, rest].filter(Boolean).join(", "));
}

function draw() {
  if (!pulls.length) {
    show($("pulls"), empty("No pulls yet. Each one appears here with where it came from, and why that was not the disk."));
    return;
  }
  show($("pulls"),
    table("Recent pulls, newest first", [
      ["When", "num", (pull) => h("time", { datetime: new Date(pull.at * 1000).toISOString(), title: when(pull.at) }, clock(pull.at))],
      ["Image", "main", (pull) => [
        h("a", { ...opens(pull.image), "data-key": `pull ${pull.id}` }, pull.image),
        pull.why && h("p", { class: failed(pull) ? "why" : "fine", title: pull.why }, capital(brief(pull.why)))]],
      ["From", "", source],
      ["Size", "num", (pull) => size(pull.bytes)],
      ["Time", "num wide", (pull) => span(pull.seconds)],
      ["Client", "wide", (pull) => h("span", {}, pull.client, pull.user && h("span", { class: "fine" }, ` ${pull.user}`))],
    ], all ? pulls : pulls.slice(0, FEW)),
    pulls.length > FEW && h("button", { type: "button", class: "quiet more", "data-key": "more",
      onclick: () => ((all = !all), draw()) }, all ? "Show fewer" : `Show all ${pulls.length}`));
}

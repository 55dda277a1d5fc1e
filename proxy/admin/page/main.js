// The page: asks for what changes slowly, listens to what lives, and hands each part what it shows.

import { Failed, get, post } from "./api.js";
import { $, h, say, show } from "./dom.js";
import { count, percent, plural, rate, setNow, span, when } from "./format.js";
import { showFlights } from "./flights.js";
import { judge } from "./health.js";
import { images, load as loadImages, refresh as refreshImages } from "./images.js";
import { listen } from "./live.js";
import { panels } from "./panel.js";
import { plots, WINDOW } from "./plot.js";
import { addPull, setPulls } from "./pulls.js";
import { attempt, session } from "./session.js";
import { showCache, showEcr, showSavings, showUpstreams } from "./tiers.js";
import { warm } from "./warm.js";

const HURRY = 5_000; // ms; a server that cannot say how it is within that is not well
const SLOW = 10_000; // ms between looks at what events do not tell
const SOON = 2_000; // ms, the same while something is on its way to ECR
const RARE = 30_000; // ms; savings and candidates for eviction
const SETTLED = 3_000; // ms from a pull that brought something to a look at what is cached: more of it may come
const RECENT = 10; // seconds over which the hit ratio in figures is taken, so that it can be read

let status = null;
let jobs = []; // of ECR
let asked = 0;
let looked = 0; // when
let flights = [];
let ticks = [];
let evictions = [];
let draw = () => {};

async function refresh() {
  const mine = (asked += 1);
  looked = Date.now();
  try {
    const answer = await get("status", {}, HURRY);
    const pushes = answer.ecr.length ? (await get("ecr").catch(() => ({ jobs: [] }))).jobs : [];
    if (mine !== asked) return; // there is a newer answer, or will be
    [status, jobs] = [answer, pushes];
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    if (mine !== asked) return;
    $("health").dataset.level = "ill";
    say($("headline"), error.status ? `Millpond cannot say how it is: ${error.message}` : "No answer from Millpond");
    show($("notices"));
    return;
  }
  setNow(status.now);
  showHealth();
  showUpstreams(status);
  showCache(status, evictions);
  showEcr(status.ecr, jobs, refresh);
}

async function refreshRare() {
  const [savings, next] = await Promise.all([
    get("savings", { days: 30 }).catch(() => ({ days: [], images: [], since: null })),
    get("evictions", { limit: 50 }).catch(() => ({ next: [] })),
  ]);
  evictions = next.next;
  if (!status) return; // it does not answer; the headline says so
  showSavings(status, savings);
  showCache(status, evictions);
}

function showHealth() {
  const { level, headline, notices } = judge(status, flights, jobs);
  $("health").dataset.level = level;
  say($("headline"), headline);
  const rows = notices.map((each) => h("li", { "data-level": each.level }, each.text && h("strong", {}, each.text), h("span", {}, each.detail)));
  if ($("notices").textContent !== rows.map((row) => row.textContent).join("")) show($("notices"), rows);
  document.title = level === "well" ? "Millpond" : `${level === "ill" ? "✕" : "!"} ${headline} · Millpond`;
  say($("about"), `${status.version}, up ${span(status.now - status.started)}`);
  const { file, loaded } = status.config;
  say($("config"), file ? `Configuration ${file}, read ${when(loaded)}.` : "No configuration file; every setting is its default.");
}

function showFigures() {
  const last = ticks.at(-1);
  const recent = ticks.filter((tick) => tick.now > last.now - RECENT && tick.hit_ratio !== null);
  const asked = recent.reduce((sum, tick) => sum + tick.requests_rate, 0);
  const hits = recent.reduce((sum, tick) => sum + tick.requests_rate * tick.hit_ratio, 0);
  const figures = [
    ["served", "Served to nodes", rate(last.served_rate)],
    ["fetched", "Fetched from upstream", rate(last.fetched_rate)],
    ["", "Hits", asked ? percent(hits / asked) : "–"],
    ["", "Requests", `${last.requests_rate < 9.95 ? last.requests_rate.toFixed(1) : count(last.requests_rate)}/s`],
  ];
  const box = $("figures");
  if (!box.children.length) box.append(...figures.map(([kind, name]) => h("div", { class: kind }, h("dt", {}, name), h("dd", {}))));
  figures.forEach(([, , value], index) => say(box.children[index].lastChild, value));
}

function onTick(tick) {
  ticks = [...ticks.filter((each) => each.now > tick.now - WINDOW - 5), tick];
  flights = tick.flights;
  setNow(tick.now);
  draw(ticks);
  showFigures();
  showFlights(flights, tick.flights_total, tick.now);
  if (!status) return;
  Object.assign(status, { now: tick.now, active: tick.active, lag: tick.lag });
  status.cache.bytes = tick.cache_bytes;
  showHealth();
}

function onPull(pull) {
  addPull(pull);
  if (pull.source === "hit" || onPull.timer) return;
  onPull.timer = setTimeout(() => {
    onPull.timer = undefined;
    refreshImages();
  }, SETTLED);
}

async function start() {
  draw = plots($("plot"), $("ratio"));
  draw(ticks);
  const changed = () => {
    refresh();
    loadImages();
  };
  session();
  warm(changed);
  panels(changed);
  images();
  setInterval(() => document.hidden || refreshRare(), RARE);
  // What was before somebody looked. A tick is worth more: it may have come meanwhile.
  const loadRates = () => get("rates").then(({ rates }) => {
    const first = ticks[0]?.now ?? Infinity;
    ticks = [...rates.filter((each) => each.now < first - 0.5), ...ticks];
    draw(ticks);
  }, () => {});
  const loadPulls = () => get("pulls", { limit: 50 }).then((answer) => setPulls(answer.pulls), () => {});
  listen({
    tick: onTick,
    pull: onPull,
    state: refresh, // the headline says what it is, and a screen reader reads that
    alive: (now) => {
      document.body.dataset.line = now ? "live" : "lost";
      refresh();
      if (now) loadPulls();
    },
  });
  loadPulls();
  loadRates();
  $("reload").addEventListener("click", () => attempt("Reload the configuration", async () => {
    const { changed: keys, restart } = await post("reload", {});
    await refresh();
    const rest = restart.length ? ` ${restart.join(", ")} ${restart.length === 1 ? "wants" : "want"} a restart.` : "";
    return (keys.length ? `${plural(keys.length, "key")} changed: ${keys.join(", ")}.` : "Nothing has changed.") + rest;
  }));
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => {
    const pause = jobs.some((job) => job.state === "pushing") ? 0 : SLOW;
    if (!document.hidden && Date.now() - looked >= pause) refresh();
  }, SOON);
  await refresh();
  await refreshRare();
}

start();

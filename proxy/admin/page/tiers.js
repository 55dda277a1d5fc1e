// Where content comes from and where it stays: upstreams, the disk, ECR, and what that saves.

import { $, empty, gauge, h, show, terms } from "./dom.js";
import { ago, brief, capital, clock, count, percent, plural, sentence, serverNow, short, size, span } from "./format.js";
import { behind } from "./health.js";
import { bars } from "./plot.js";
import { opens } from "./panel.js";
import { attempt } from "./session.js";
import { post } from "./api.js";

const SHOWN = 4; // failures and candidates for eviction; the whole lists are the command line's
const STATES = { ok: "answers", idle: "not asked yet", failing: "failing", limited: "limits us", refused: "refuses us" };
const LEVELS = { ok: "well", idle: "idle", failing: "ill", limited: "look", refused: "look" };
const WHY = { ok: "fine", failing: "why" };

const mark = (level, text) => h("span", { class: "mark", "data-level": level }, text);

export function showUpstreams({ upstreams }) {
  if (!upstreams.length) return show($("upstreams"), empty("No upstream is configured."));
  return show($("upstreams"), h("ul", { class: "rows" }, upstreams.map(upstream)));
}

function upstream(each) {
  const limit = each.rate_limit;
  const wait = each.until > serverNow() ? `${each.state === "limited" ? " until" : ", next try"} ${clock(each.until)}` : "";
  const numbers = [plural(each.requests, "request"), each.failures ? `${count(each.failures)} failed` : null,
    `${size(each.fetched_bytes)} fetched`].filter(Boolean).join(", ");
  return h("li", {},
    h("div", { class: "pair" }, h("strong", { title: each.url }, each.name),
      mark(LEVELS[each.state] ?? "idle", (STATES[each.state] ?? each.state) + wait)),
    each.why && h("p", { class: WHY[each.state] ?? "why look" }, capital(each.why)),
    limit && limit.limit > 0 && h("div", { class: "pair fine" },
      gauge(limit.remaining, limit.limit, `Pulls left at ${each.name}`, limit.remaining / limit.limit < 0.15 ? "low" : ""),
      h("span", {}, `${count(limit.remaining)} of ${count(limit.limit)} pulls left${limit.window ? ` in ${span(limit.window)}` : ""}`)),
    h("p", { class: "fine" }, each.state === "idle" && !each.requests ? new URL(each.url).host : numbers));
}

export function showCache({ cache }, evictions) {
  const full = cache.max_size > 0 ? cache.bytes / cache.max_size : 0;
  show($("cache"),
    h("p", { class: "big" }, size(cache.bytes), h("small", {}, ` of ${size(cache.max_size)}`)),
    gauge(cache.bytes, cache.max_size, "Disk cache filled"),
    cache.state !== "ok" && h("p", { class: "why" }, capital(cache.state)),
    terms([
      ["Filled", percent(full)],
      ["Blobs", count(cache.blobs)],
      cache.pinned_bytes > 0 && ["Pinned", size(cache.pinned_bytes)],
      cache.free !== null && ["Free on the file system", size(cache.free)],
    ]),
    evictions.length > 0 && h("h3", {}, full > 0.9 ? "Goes next" : "Would go next"),
    evictions.length > 0 && h("ul", { class: "fine list" }, byImage(evictions).slice(0, SHOWN).map((each) =>
      h("li", {}, h("span", {}, each.image ? h("a", opens(each.image), brief(each.image)) : h("code", {}, short(each.digest))),
        h("span", {}, `${size(each.size)}, used ${ago(each.used)}`)))));
}

/** Blobs of one image in a row are one thing that goes. */
function byImage(blobs) {
  const rows = new Map();
  for (const blob of blobs) {
    const key = blob.image ?? blob.digest;
    const row = rows.get(key) ?? { ...blob, size: 0 };
    rows.set(key, { ...row, size: row.size + blob.size });
  }
  return [...rows.values()];
}

export function showEcr(targets, jobs, refresh) {
  if (!targets.length) {
    show($("ecr"), empty("No target is configured. With ecr.targets, what nodes pull is kept in your own accounts too."));
    return;
  }
  const failed = jobs.filter((job) => job.reason && job.state !== "done");
  const retry = (target, image) => attempt("Retry the push", async () => {
    const { retried } = await post("ecr/retry", { ...(target && { target }), ...(image && { image }) });
    await refresh();
    return `${plural(retried, "push", "pushes")} begun again.`;
  });
  show($("ecr"),
    h("ul", { class: "rows" }, targets.map((target) => h("li", {},
      h("div", { class: "pair" }, h("strong", { title: target.registry }, target.name),
        takes(target, jobs)),
      target.state !== "ok" && h("p", { class: "why look" }, target.state),
      h("p", { class: "fine" }, [`${count(target.queued)} waiting`, target.pushing ? `${count(target.pushing)} pushing` : null,
        `${count(target.done)} done`, target.rejected ? `${count(target.rejected)} rejected` : null].filter(Boolean).join(", "))))),
    failed.length > 0 && h("div", { class: "pair" }, h("h3", {}, "Not pushed"),
      h("button", { type: "button", class: "quiet", "data-key": "retry-all", onclick: () => retry() }, "Retry all")),
    failed.length > 0 && h("ul", { class: "rows fine" }, failed.slice(0, SHOWN).map((job) => {
      const image = `${job.repository}${job.tags.length ? `:${job.tags[0]}` : `@${job.digest}`}`;
      const next = job.next_try ? ` Tried again in ${span(Math.ceil(job.next_try))}.` : "";
      return h("li", {},
        h("div", { class: "pair" }, h("a", opens(image), `${job.repository}${job.tags.length ? `:${job.tags[0]}` : ""}`),
          h("button", { type: "button", class: "quiet", "data-key": `retry ${job.target} ${image}`,
            "aria-label": `Retry ${image} to ${job.target}`, onclick: () => retry(job.target, `${job.repository}@${job.digest}`) }, "Retry")),
        h("p", { class: job.state === "rejected" ? "why" : "why look" }, `${job.target}: ${sentence(job.reason)}${next}`));
    })));
}

function takes(target, jobs) {
  if (target.state !== "ok") return mark("look", "takes none");
  return behind(target, jobs).length ? mark("look", "behind") : mark("well", "takes pushes");
}

export function showSavings({ totals }, { days, images, since }) {
  const byDay = new Map();
  for (const each of days) {
    const day = byDay.get(each.day) ?? { served: 0, fetched: 0 };
    byDay.set(each.day, { served: day.served + each.served_bytes, fetched: day.fetched + each.fetched_bytes });
  }
  const ordered = [...byDay].sort(([one], [other]) => (one < other ? -1 : 1)).map(([day, sums]) => ({ day, ...sums }));
  const served = ordered.reduce((sum, each) => sum + each.served, 0);
  const fetched = ordered.reduce((sum, each) => sum + each.fetched, 0);
  if (!served && !totals.served_bytes) {
    show($("savings"), empty("Nothing yet. What nodes get from here without a download is counted from the first pull on."));
    return;
  }
  show($("savings"),
    h("p", { class: "big" }, size(Math.max(0, served - fetched)), h("small", {}, ` in ${plural(Math.max(1, ordered.length), "day")}`)),
    ordered.length > 1 && bars(ordered),
    terms([
      ["Served to nodes", size(served)],
      ["Fetched from upstreams", size(fetched)],
      ["Docker Hub pulls saved", count(totals.saved_pulls)],
    ]),
    images.length > 0 && h("h3", {}, since ? `Most saved since ${new Date(since).toLocaleDateString("en-GB", { day: "numeric", month: "long" })}` : "Most saved"),
    images.length > 0 && h("ul", { class: "fine list" }, images.slice(0, SHOWN).map((each) =>
      h("li", {}, h("a", opens(each.name), each.name), h("span", {}, `${size(each.saved_bytes)} in ${plural(each.pulls, "pull")}`)))));
}

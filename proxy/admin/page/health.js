// One sentence on how it is, and one for each thing that is not well.

import { capital, clock, count, plural, span } from "./format.js";

const STALL = 0.5; // seconds that the loop may hang; clients begin to notice
const LOW = 0.15; // of a rate limit; what is left may go within one deployment
const SILENT = 15; // seconds without a byte before a download counts as stalled
const IN_VAIN = 6; // tries of a push, a minute or two, after which ECR's reason may be one that does not pass

const RANKS = ["ill", "look", "note"];

/** How it is by GET status, the downloads, and the jobs of GET ecr.
 *  → {level: "well"|"look"|"ill", headline, notices: [{level, text, detail}]}. A note is worth a line, not an alarm. */
export function judge(status, flights, jobs) {
  const notices = [...ending(status), ...disk(status), ...config(status), ...upstreams(status), ...slow(status, flights),
    ...ecr(status, jobs), ...lag(status)];
  // The worst comes first, and is the sentence: whoever reads no further has read that.
  notices.sort((one, other) => RANKS.indexOf(one.level) - RANKS.indexOf(other.level));
  const [worst, ...more] = notices.filter((each) => each.level !== "note");
  if (!worst) return { level: "well", headline: well(status), notices };
  const headline = more.length ? `${worst.text}, and ${plural(more.length, "more thing")} to look at` : worst.text;
  return { level: worst.level, headline, notices: [{ ...worst, text: "" }, ...notices.slice(1)] };
}

function well(status) {
  if (!status.totals.requests) return "Healthy, and waiting for its first pull";
  if (status.active) return `Healthy, serving ${plural(status.active, "response")} now`;
  return "Healthy, nothing to do right now";
}

function ending(status) {
  if (status.draining) {
    return [{ level: "ill", text: "Shutting down",
      detail: `New pulls are not taken; ${plural(status.active, "response")} still to finish.` }];
  }
  return status.ready ? [] : [{ level: "ill", text: "Not ready for pulls", detail: "It has just started, or is about to end." }];
}

function disk({ cache }) {
  return cache.state === "ok" ? []
    : [{ level: "ill", text: "The disk takes nothing new, pulls pass through", detail: capital(cache.state) }];
}

function config({ config: { error } }) {
  return error ? [{ level: "look", text: "The new configuration was refused, the old one stays", detail: error }] : [];
}

function upstreams(status) {
  return status.upstreams.flatMap((each) => {
    const until = each.until && each.until > status.now ? ` until ${clock(each.until)}` : "";
    const detail = `${each.since ? `Since ${clock(each.since)}: ` : ""}${each.why || "no reason given"}`;
    if (each.state === "failing") return [{ level: "ill", text: `${each.name} is failing`, detail }];
    if (each.state === "refused") return [{ level: "look", text: `${each.name} refuses us`, detail }];
    if (each.state === "limited") return [{ level: "look", text: `${each.name} limits us${until}`, detail }];
    const limit = each.rate_limit;
    if (limit && limit.limit > 0 && limit.remaining / limit.limit < LOW) {
      return [{ level: "look", text: `${each.name} leaves us ${count(limit.remaining)} of ${count(limit.limit)} pulls`,
        detail: "Pulls that miss will be refused when they are used up. Credentials raise the limit." }];
    }
    return [];
  });
}

export const stalled = (flight, now) => flight.rate <= 0 && now - flight.started > SILENT;

function slow(status, flights) {
  const silent = flights.filter((flight) => stalled(flight, status.now));
  return [...new Set(silent.map((flight) => flight.upstream))].map((name) => {
    const own = silent.filter((flight) => flight.upstream === name);
    const followers = own.reduce((sum, flight) => sum + flight.followers, 0);
    return { level: "look", text: `${name} sends nothing`,
      detail: `${plural(own.length, "download")} without a byte; ${plural(followers, "client")} waiting.` };
  });
}

/** Pushes to a target that have failed, and are tried again. */
export const behind = (target, jobs) => jobs.filter((job) =>
  job.target === target.name && job.reason && (job.state === "queued" || job.state === "pushing"));

function ecr(status, jobs) {
  return status.ecr.flatMap((target) => {
    const late = target.state === "ok" ? behind(target, jobs) : [];
    return [
      ...(target.state === "ok" ? [] : [{ level: "look", text: `ECR ${target.name} takes no pushes`, detail: target.state }]),
      ...(late.length ? [{ level: late.some((job) => job.attempts >= IN_VAIN) ? "look" : "note",
        text: `ECR ${target.name} is behind by ${plural(late.length, "image")}`, detail: late[0].reason }] : []),
      ...(target.rejected ? [{ level: "look", text: `ECR ${target.name} rejected ${plural(target.rejected, "image")}`,
        detail: "Nodes still pull them from here. The reasons are below." }] : []),
    ];
  });
}

function lag({ lag: seconds }) {
  return seconds < STALL ? [] : [{ level: "note", text: "Millpond itself is slow",
    detail: `It stood still for ${span(seconds)} within the last minute: too little processor time.` }];
}

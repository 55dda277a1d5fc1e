// Plots, as SVG that is drawn anew each second.
//
// What nodes get rises above the line; what it costs upstream lies below it, to the same scale, as a reflection in
// water does. The smaller the reflection, the more the cache is worth.

import { h, say, svg } from "./dom.js";
import { clock, percent, rate } from "./format.js";

export const WINDOW = 300; // seconds
const GAP = 3; // seconds without a tick: the line is broken, rather than drawn over what nobody knows
const SURFACE = 0.64; // of the height; where the water's line is, always
const TOPS = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 500, 600, 800];

/** Two plots of the last minutes over one time axis, in `flow` and `ratio`; returns what draws them from the ticks. */
export function plots(flow, ratio) {
  const main = frame(flow, "flow");
  const below = frame(ratio, "ratio");
  let ticks = [];
  let pointed = null; // 0 … 1 of the width, while a pointer is over a plot

  const draw = () => {
    const now = ticks.at(-1)?.now ?? Date.now() / 1000;
    drawFlow(main, ticks, now);
    drawRatio(below, ticks, now);
    const at = pointed === null || !ticks.length ? null : nearest(ticks, now - WINDOW * (1 - pointed));
    for (const each of [main, below]) {
      each.hair.hidden = at === null;
      if (at) each.hair.style.left = `${(1 - (now - at.now) / WINDOW) * 100}%`;
    }
    main.read.hidden = at === null;
    if (at) {
      say(main.read, `${clock(at.now)}  ${rate(at.served_rate)} served, ${rate(at.fetched_rate)} fetched` +
        (at.hit_ratio === null ? "" : `, ${percent(at.hit_ratio)} hits`));
      main.read.dataset.side = pointed > 0.5 ? "left" : "right";
    }
  };
  for (const { box } of [main, below]) {
    box.addEventListener("pointermove", (event) => {
      pointed = (event.clientX - box.getBoundingClientRect().left) / box.clientWidth;
      draw();
    });
    box.addEventListener("pointerleave", () => {
      pointed = null;
      draw();
    });
  }
  new ResizeObserver(draw).observe(flow);
  return (next) => {
    ticks = next;
    draw();
  };
}

function frame(box, name) {
  const picture = svg("svg", { role: "img", class: name, preserveAspectRatio: "none" });
  const marks = h("div", { class: "marks", "aria-hidden": "true" });
  const hair = h("div", { class: "hair", hidden: true });
  const read = h("p", { class: "read", hidden: true, "aria-hidden": "true" });
  box.replaceChildren(picture, marks, hair, read);
  return { box, picture, marks, hair, read };
}

function drawFlow({ box, picture, marks }, ticks, now) {
  const [width, height] = [box.clientWidth, box.clientHeight];
  const surface = Math.round(height * SURFACE);
  const most = peak(ticks, "served_rate");
  const top = nice(Math.max(most, (peak(ticks, "fetched_rate") * SURFACE) / (1 - SURFACE)));
  const scale = (surface - 8) / top;
  const x = (tick) => width * (1 - (now - tick.now) / WINDOW);
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("aria-label", summary(ticks, most));
  const runs = unbroken(ticks.filter((tick) => tick.now > now - WINDOW));
  picture.replaceChildren(
    ...[1, 0.5, -0.5].map((each) => line(width, surface - each * top * scale, "grid")),
    ...runs.flatMap((run) => area(run, x, (tick) => surface + tick.fetched_rate * scale, surface, "fetched")),
    ...runs.flatMap((run) => area(run, x, (tick) => surface - tick.served_rate * scale, surface, "served")),
    line(width, surface, "surface"),
  );
  const label = (text, y, kind = "") => {
    const made = h("span", { class: kind }, text);
    made.style.top = `${y}px`;
    return made;
  };
  const idle = most || peak(ticks, "fetched_rate") ? null
    : ticks.length ? "Nothing served in these five minutes" : "The last five minutes appear here as they pass";
  marks.replaceChildren(...(idle ? [label(idle, surface, "wait")]
    : [1, 0.5, -0.5].map((each) => label(rate(Math.abs(each) * top), surface - each * top * scale))));
}

function drawRatio({ box, picture, marks }, ticks, now) {
  const [width, height] = [box.clientWidth, box.clientHeight];
  const known = ticks.filter((tick) => tick.now > now - WINDOW && tick.hit_ratio !== null);
  const [top, bottom] = [3, height - 3];
  const x = (tick) => width * (1 - (now - tick.now) / WINDOW);
  const y = (tick) => bottom - (bottom - top) * tick.hit_ratio;
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("aria-label",
    known.length ? `Hit ratio, now ${percent(known.at(-1).hit_ratio)}` : "Hit ratio, no requests yet");
  picture.replaceChildren(line(width, top, "grid"), line(width, bottom, "grid"),
    ...unbroken(known).map((run) => svg("path", { class: "line", d: path(run, x, y) })));
  marks.replaceChildren(h("span", { class: "at-top" }, "100 %"), h("span", { class: "at-bottom" }, "0 %"),
    h("span", { class: "from" }, "5 min ago"), h("span", { class: "name" }, "hit ratio"), h("span", { class: "to" }, "now"));
}

const line = (width, y, kind) => svg("line", { class: kind, x1: 0, x2: width, y1: round(y), y2: round(y) });

function area(run, x, y, surface, kind) {
  const edge = path(run, x, y);
  const closed = `${edge}L${round(x(run.at(-1)))} ${surface}L${round(x(run[0]))} ${surface}Z`;
  return [svg("path", { class: `${kind} fill`, d: closed }), svg("path", { class: `${kind} edge`, d: edge })];
}

const path = (run, x, y) => run.map((tick, index) => `${index ? "L" : "M"}${round(x(tick))} ${round(y(tick))}`).join("");

const round = (value) => Math.round(value * 10) / 10;

function unbroken(ticks) {
  const runs = [];
  for (const tick of ticks) {
    const last = runs.at(-1)?.at(-1);
    if (last && tick.now - last.now < GAP) runs.at(-1).push(tick);
    else runs.push([tick]);
  }
  return runs;
}

const peak = (ticks, key) => ticks.reduce((most, tick) => Math.max(most, tick[key]), 0);

/** The next round number of bytes a second, from 100 KiB/s on, so that the scale stays for a while. */
function nice(value) {
  const wanted = Math.max(value, 100 * 1024);
  const unit = 1024 ** Math.floor(Math.log2(wanted) / 10);
  const top = TOPS.find((each) => each * unit >= wanted);
  return top ? top * unit : 1024 * unit;
}

const nearest = (ticks, moment) =>
  ticks.reduce((best, tick) => (Math.abs(tick.now - moment) < Math.abs(best.now - moment) ? tick : best));

function summary(ticks, most) {
  const last = ticks.at(-1);
  return last
    ? `Throughput of the last five minutes: now ${rate(last.served_rate)} served and ${rate(last.fetched_rate)} fetched, at most ${rate(most)} served`
    : "Throughput: nothing known yet";
}

/** Bars of days, mirrored in the same way. `days`: [{day, served, fetched}], oldest first. */
export function bars(days, width = 300, height = 72) {
  const top = Math.max(1, ...days.map((each) => each.served));
  const surface = Math.round(height * SURFACE);
  const low = Math.max(1, ...days.map((each) => each.fetched));
  const scale = Math.min((surface - 2) / top, (height - surface - 2) / low);
  const slot = width / days.length;
  const bar = (index, y, tall, kind) =>
    svg("rect", { class: kind, x: round(index * slot + slot * 0.14), width: round(slot * 0.72), y: round(y), height: round(tall) });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "bars", "aria-hidden": "true", preserveAspectRatio: "none" },
    days.flatMap((each, index) => [
      bar(index, surface - each.served * scale, each.served * scale, "served"),
      bar(index, surface + 1, each.fetched * scale, "fetched"),
    ]), line(width, surface + 0.5, "surface"));
}

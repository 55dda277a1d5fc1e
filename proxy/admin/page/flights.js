// Downloads in progress, with who waits for them.

import { $, empty, h, say, show } from "./dom.js";
import { percent, plural, rate, short, size, span } from "./format.js";
import { stalled } from "./health.js";
import { opens } from "./panel.js";

const known = new Map(); // digest → the row that shows it, so that a screen reader's place in the list stays

export function showFlights(flights, total, now) {
  say($("flights-count"), total > flights.length ? `${flights.length} of ${total}` : total ? String(total) : "");
  if (!flights.length) {
    known.clear();
    show($("flights"), empty("Nothing is being downloaded. Each blob comes from upstream once, and appears here while it does."));
    return;
  }
  let list = $("flights").querySelector("ul");
  if (!list) show($("flights"), (list = h("ul", { class: "flights" })));
  const wanted = new Set(flights.map((flight) => flight.digest));
  for (const [digest, row] of known) if (!wanted.has(digest)) (row.element.remove(), known.delete(digest));
  for (const flight of flights) {
    if (!known.has(flight.digest)) {
      const row = made(flight);
      known.set(flight.digest, row);
      list.append(row.element);
    }
    known.get(flight.digest).update(flight, now);
  }
}

function made(flight) {
  const [done, bar, speed, left, who] = [h("span", { class: "done" }), h("progress", { "aria-label": `Download of ${flight.repository}` }),
    h("span", { class: "speed" }), h("span", { class: "left" }), h("span", { class: "who" })];
  const name = h("span", { class: "name" },
    h("a", { ...opens(flight.repository), title: "Look for it among the images" }, flight.repository), h("code", {}, short(flight.digest)));
  const element = h("li", {}, name, who, bar, done, speed, left);
  return { element, update: (next, now) => update(next, now, { element, bar, done, speed, left, who }) };
}

function update(flight, now, { element, bar, done, speed, left, who }) {
  const whole = flight.size > 0;
  if (whole) (bar.max = flight.size), (bar.value = flight.landed);
  else bar.removeAttribute("value");
  const still = stalled(flight, now);
  element.dataset.state = still ? "stalled" : flight.spare ? "spare" : "moving";
  say(done, whole ? `${percent(flight.landed / flight.size)} of ${size(flight.size)}` : size(flight.landed));
  say(speed, still ? "nothing comes" : rate(flight.rate));
  say(left, whole && flight.rate > 0 ? `${span(Math.ceil((flight.size - flight.landed) / flight.rate))} left` : "");
  const from = flight.tier === "ecr" ? "from ECR" : `from ${flight.upstream}`;
  const waiting = flight.spare ? "ahead of time" : `for ${plural(flight.followers, "client")}`;
  say(who, `${waiting}, ${from}`);
  who.title = plural(flight.connections, "connection");
}

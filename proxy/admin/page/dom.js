// Elements. Text only ever becomes text: names of images are strangers' words.

export const $ = (id) => document.getElementById(id);

/** h("p", {class: "x", onclick: f}, "text", child): null and false among children and attributes are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Text that is already there is not written again: a screen reader would read it again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Put new children into `parent`, and the focus back on the one with the same data-key. */
export function show(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children.flat().filter(Boolean));
  if (key !== undefined) [...parent.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus();
}

/** A list of terms: [[name, value], …]; a value may be an element. */
export const terms = (pairs, name = "terms") =>
  h("dl", { class: name }, pairs.filter(Boolean).map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));

export const empty = (text, ...more) => h("p", { class: "empty" }, text, ...more);

/** A gauge with its words beside it: colour alone says nothing. */
export function gauge(value, max, label, level = "") {
  return h("meter", { min: 0, max: Math.max(max, 1), value: Math.min(value, max), "aria-label": label, class: level });
}

/** columns: [[title, class, cell of a row], …]. The roles are said, because a phone lays the rows out as boxes. */
export function table(caption, columns, rows) {
  return h(
    "table", { role: "table" },
    h("caption", { class: "hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      columns.map(([title, kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, title)))),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" },
      columns.map(([title, kind, cell]) => h("td", { role: "cell", class: kind, "data-title": title }, cell(row)))))),
  );
}

// How numbers and times read. Sizes are in powers of 1024, as the configuration has them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 12.3 GiB; two or three digits, so that a number that lives does not jump. */
export function size(bytes) {
  let value = Math.max(0, Number(bytes) || 0);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(unit === 0 || value >= 99.95 ? 0 : 1)} ${UNITS[unit]}`;
}

export const rate = (bytes) => `${size(bytes)}/s`;

export const count = (value) => Math.round(Number(value) || 0).toLocaleString("en");

/** 0.5 -> 50 %. Only all is 100 %, and only nothing is 0 %. */
export function percent(part) {
  const value = part * 100;
  if (value > 0 && value < 1) return "< 1 %";
  return `${value < 100 ? Math.min(99, Math.round(value)) : 100} %`;
}

/** 45 s, 3 min, 5 h, 12 d. */
export function span(seconds) {
  const value = Math.max(0, seconds);
  if (value < 9.95) return `${value.toFixed(Number.isInteger(value) ? 0 : value < 0.995 ? 2 : 1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 90 * 60) return `${Math.round(value / 60)} min`;
  if (value < 36 * 3600) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

let skew = 0; // seconds by which the server's clock is ahead of this machine's, which may be wrong

export const setNow = (now) => (skew = now - Date.now() / 1000);

export const serverNow = () => Date.now() / 1000 + skew;

/** "3 min ago", by the server's clock. */
export function ago(moment) {
  const seconds = Math.round(serverNow() - moment);
  return seconds < 1 ? "just now" : `${span(seconds)} ago`;
}

export const clock = (moment) =>
  new Date(moment * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The time, with the day before it where that is not today. */
export function when(moment) {
  const date = new Date(moment * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock(moment) : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${clock(moment)}`;
}

/** With a full stop, where something is to follow. */
export const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

export const short = (digest) => {
  const [algorithm, hex = ""] = String(digest).split(":");
  return `${algorithm}:${hex.slice(0, 12)}`;
};

/** With a capital, unless it begins with a name. */
export const capital = (text) => text.replace(/^[a-z]+(?=[ ,])/, (word) => word[0].toUpperCase() + word.slice(1));

/** A sentence with its digests cut short: in full they hide the words. */
export const brief = (text) => text.replace(/(\bsha\d+:[0-9a-f]{12})[0-9a-f]{20,}/g, "$1…");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

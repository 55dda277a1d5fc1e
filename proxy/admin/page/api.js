// The JSON API. The token lives in this tab only, and ends with it.

const BASE = "api/v1/";
const KEY = "millpond.token";
const PATIENCE = 15_000; // ms; what takes longer than this answers by a stream

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/** What went wrong, in the server's words where it has some; `status` is 0 when there was no answer. */
export class Failed extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function get(path, query = {}, patience = PATIENCE) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const parameters = new URLSearchParams(given).toString();
  const response = await ask(BASE + path + (parameters && `?${parameters}`),
    { headers: signed(), signal: AbortSignal.timeout(patience) });
  return response.json();
}

export async function post(path, body) {
  return (await ask(BASE + path, { ...change(body), signal: AbortSignal.timeout(4 * PATIENCE) })).json();
}

/** Whether changes are let through with this token, or without any: nothing, or Failed. */
export async function allowed(secret) {
  await ask("sign-in", { ...change({}, secret), signal: AbortSignal.timeout(PATIENCE) });
}

/** The rows of an answer that is JSON lines, as they come. */
export async function* lines(path, body, signal) {
  const response = await ask(BASE + path, { ...change(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Failed("The connection broke off. What has come stays; ask again when Millpond answers.", 0);
    });
    if (done) return;
    const found = (rest + value).split("\n");
    rest = found.pop();
    for (const line of found) if (line.trim()) yield JSON.parse(line);
  }
}

const signed = (secret = token.get()) => (secret ? { Authorization: `Bearer ${secret}` } : {});

function change(body, secret = token.get()) {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...signed(secret) } };
}

async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed("Millpond did not answer.", 0);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Failed(said.error ?? `Millpond answered ${response.status}.`, response.status);
}

// Signing in, and changes that may ask for it.

import { allowed, Failed, token } from "./api.js";
import { $, h, say } from "./dom.js";

/** Do a change; ask for the token where it is wanted, and say how it ended. `change` returns what to say. */
export async function attempt(what, change) {
  try {
    tell(await change());
    return true;
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    if (error.status === 401 && (await signIn(`${what}: this wants the admin token.`))) return attempt(what, change);
    if (error.status !== 401) tell(error.message, true);
    return false;
  }
}

export function tell(text, failed = false) {
  const said = $("said");
  said.dataset.level = failed ? "ill" : "well";
  said.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (said.textContent = ""), 5000 + 60 * text.length);
}

/** The button in the bar: in, out, or not needed. */
export function session() {
  const button = $("sign-in");
  draw();
  button.addEventListener("click", async () => {
    if (token.get()) {
      token.clear();
      draw();
      return tell("Signed out.");
    }
    try {
      await allowed(null);
      return tell("Nothing to sign in to: this port takes changes from this machine without a token.");
    } catch (error) {
      return error.status === 401 ? signIn("") : tell(error.message, true);
    }
  });
}

const draw = () => say($("sign-in"), token.get() ? "Sign out" : "Sign in");

/** Resolves to whether there is a token now that is right. */
function signIn(why) {
  token.clear();
  draw();
  return new Promise((resolve) => {
    const dialog = $("session");
    const field = h("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false", autofocus: true });
    const wrong = h("p", { class: "why", role: "alert" });
    const form = h("form", {},
      h("h2", { id: "session-title" }, "Sign in"),
      why && h("p", {}, why),
      h("label", { for: "token" }, "Admin token"), field, wrong,
      h("p", { class: "fine" }, "What admin.token_file holds. It stays in this tab, and ends with it."),
      h("div", { class: "actions" },
        h("button", { type: "submit", class: "strong" }, "Sign in"),
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await allowed(field.value.trim());
      } catch (error) {
        wrong.textContent = error.status === 401 ? "That is not the token of this server." : error.message;
        field.select();
        return;
      }
      token.set(field.value.trim());
      dialog.close();
      tell("Signed in.");
    });
    dialog.addEventListener("close", () => {
      dialog.replaceChildren(); // with what was typed
      draw();
      resolve(Boolean(token.get()));
    }, { once: true });
    dialog.replaceChildren(form);
    dialog.showModal();
  });
}

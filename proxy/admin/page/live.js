// The stream of events. A browser gives up when the server answers an error (too many readers), so we do not.

import { $, say } from "./dom.js";
import { clock } from "./format.js";

const SILENCE = 6_000; // ms; a tick comes each second
const AGAIN = 3_000; // ms between tries

/** `on` has a function for each event: tick, pull, state; and `alive`, told when the line comes or goes. */
export function listen(on) {
  let source;
  let heard = 0;
  let alive = null;

  const connect = () => {
    source?.close();
    source = new EventSource("api/v1/events");
    for (const name of ["tick", "pull", "state"]) {
      source.addEventListener(name, (event) => {
        heard = Date.now();
        change(true);
        on[name](JSON.parse(event.data));
      });
    }
  };
  const change = (now) => {
    if (alive === now) return;
    alive = now;
    $("link").dataset.state = now ? "live" : "lost";
    say($("link"), now ? "Live" : heard ? `No word since ${clock(heard / 1000)}` : "Not connected");
    on.alive(now);
  };
  connect();
  const began = Date.now();
  let tried = began;
  setInterval(() => {
    const now = Date.now();
    const silent = now - Math.max(heard, began);
    if (silent < SILENCE) return;
    change(false);
    // A connection that only seems to be there is given up as well, but later: a browser is told of most that break.
    const pause = source.readyState === EventSource.CLOSED ? AGAIN : 3 * SILENCE;
    if (now - Math.max(heard, tried) < pause) return;
    tried = now;
    connect();
  }, 1000);
}

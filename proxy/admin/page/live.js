// The stream of events. A browser gives up when the server answers an error (too many readers), so we do not; and it
// is never told of a peer that has vanished (a frozen host, a firewall that forgot us), so we listen for the heartbeat.

import { $, say } from "./dom.js";
import { clock } from "./format.js";

const MISSED = 6; // ticks in a row without which nobody is there any more: a busy machine may be late with a few
const AGAIN = 3_000; // ms between tries, where the server has said no

/** `on` has a function for each event: tick, pull, state; and `alive`, told when the line comes or goes. */
export function listen(on) {
  const opened = Date.now();
  let source;
  let began; // when this connection was
  let heard = 0;
  let beat = 1_000; // ms to the next tick; each one says it
  let alive = null;

  const connect = () => {
    source?.close();
    began = Date.now();
    source = new EventSource("api/v1/events");
    for (const name of ["tick", "pull", "state"]) {
      source.addEventListener(name, (event) => {
        const row = JSON.parse(event.data);
        beat = row.period * 1000 || beat;
        heard = Date.now();
        change(true);
        on[name](row);
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
  const watch = () => {
    const [now, silence] = [Date.now(), MISSED * beat];
    if (now - Math.max(heard, opened) >= silence) {
      change(false);
      if (now - began >= (source.readyState === EventSource.CLOSED ? AGAIN : silence)) connect();
    }
    setTimeout(watch, beat);
  };
  connect();
  watch();
}

"""What a span costs the smallest answers there are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.bench.cases.manifests import CLIENTS
from tests.bench.load import requests
from tests.bench.measure import MIB, Effort, Measurement, metered, table
from tests.bench.stage import Stage, millpond, resolve


def traced(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Manifests a second with a span for each, sent to a collector that takes them all, and without."""
    image = stage.image(20 * MIB, layers=20)
    (manifest,) = image.manifest.children
    path = image.manifest_path(manifest.digest)
    found = table(f"warm manifest by digest, {CLIENTS} clients, traced", "requests/s", ["no traces", "a span each"])
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(stage.emptied())
        traces: dict[str, dict[str, Any]] = {"no traces": {}, "a span each": {"endpoint": stack.enter_context(_sink())}}
        peers = {
            name: stack.enter_context(millpond(directory / name, stage.upstream.port, traces=section))
            for name, section in traces.items()
        }
        for peer in peers.values():
            resolve(peer, image)
        for number in range(effort.rounds):
            for name, measured in found.items():
                effort.say(f"{measured.case} · {name} · {number + 1}")
                with metered(peers[name].pid) as meter:
                    rate = requests(peers[name].at(path), CLIENTS, effort.seconds)
                if rate is None:
                    effort.say("traced: left out, because wrk is not installed (apt-get install wrk)")
                    return
                measured.values.append(rate.rate)
                measured.cost(meter, rate.count / 1000)
    yield from found.values()


@contextlib.contextmanager
def _sink() -> Iterator[str]:
    """The URL of a collector that reads what it gets, and forgets it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

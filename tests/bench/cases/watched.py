"""What it costs clients that somebody looks: Prometheus, and an operator's page."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Final

from tests.bench.load import pulls, throughput
from tests.bench.measure import GIB, Effort, Measurement, metered, table
from tests.bench.stage import Stage, millpond, resolve

CLIENTS: Final = 16
ROUNDS: Final = 7
"""Always: the bar is narrow, and rounds differ by more than it."""
EVERY: Final = 1.0
"""Seconds between two scrapes, and two looks of the page at what it has no event for: far more than anybody does."""


def watched(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Bytes a second of a warm blob, with a page that listens to every event and a scrape a second, and without."""
    image = stage.image()
    found = table(f"warm blob, {CLIENTS} clients, looked at", "GB/s", ["nobody looks", "page and scrapes"])
    with stage.emptied() as directory, millpond(directory, stage.upstream.port) as peer:
        resolve(peer, image)
        target = peer.at(image.path)
        pulls(target, 1)
        for number in range(ROUNDS):
            for name, measured in found.items():
                effort.say(f"warm blob, {name} · {number + 1}")
                looking = _watching(peer.admin) if name != "nobody looks" else contextlib.nullcontext()
                with looking, metered(peer.pid) as meter:
                    flow = throughput(target, CLIENTS, effort.seconds)
                measured.values.append(flow.rate / 1e9)
                measured.cost(meter, flow.size / GIB)
    yield from found.values()


@contextlib.contextmanager
def _watching(port: int) -> Iterator[None]:
    over = threading.Event()

    def listen() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/api/v1/events")
        answer = connection.getresponse()
        while not over.is_set():
            assert answer.readline(), "the events have ended"
        connection.close()

    def look() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        while not over.wait(EVERY):
            for path in ("/metrics", "/api/v1/status", "/api/v1/pulls?limit=50"):
                connection.request("GET", path)
                answer = connection.getresponse()
                assert answer.read(), path
                assert answer.status == 200, path
        connection.close()

    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(listen), pool.submit(look)]
        try:
            yield
        finally:
            over.set()
    for each in looks:
        each.result()

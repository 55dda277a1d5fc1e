"""How late timers are: those of a server, by its own metric, and those of a process that does nothing beside it.

The second is what the machine takes: where processors are short, a timer waits for one of them in any program.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.support.pulls import get

Buckets = dict[float, float]
"""Upper bound in seconds -> timers that were at most so late."""

PERIOD: Final = 0.05
"""Seconds between two looks, as the server takes them."""


@dataclass(slots=True)
class Lags:
    """Seconds within which 99 of 100 timers were on time, once the block has ended."""

    server: float = 0.0
    beside: float = 0.0


@contextlib.contextmanager
def lags(admin: int) -> Iterator[Lags]:
    """Watch the server whose admin port on 127.0.0.1 this is."""
    found = Lags()
    before = _buckets(admin)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_watch, args=(theirs,), daemon=True)
    process.start()
    try:
        yield found
        after = _buckets(admin)
        ours.send("enough")
        found.beside = ours.recv() if ours.poll(10) else float("nan")
    finally:
        process.kill()
        process.join()
    found.server = quantile({bound: after[bound] - before[bound] for bound in after}, 0.99)


def quantile(buckets: Buckets, share: float) -> float:
    """As Prometheus reads it from a histogram: by straight lines between the bounds."""
    wanted = share * buckets[float("inf")]
    low, below = 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                break
            return low + (bound - low) * (wanted - below) / max(1.0, buckets[bound] - below)
        low, below = bound, buckets[bound]
    return low


def _buckets(admin: int) -> Buckets:
    text = get(f"http://127.0.0.1:{admin}/metrics").text
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "millpond_event_loop_lag_seconds_bucket"
    }


def _watch(pipe: Connection) -> None:
    found: list[float] = []
    enough = threading.Event()

    async def look() -> None:
        loop = asyncio.get_running_loop()
        while not enough.is_set():
            due = loop.time() + PERIOD
            await asyncio.sleep(PERIOD)
            found.append(max(0.0, loop.time() - due))

    def listen() -> None:
        pipe.recv()
        enough.set()

    threading.Thread(target=listen, daemon=True).start()
    asyncio.run(look())
    pipe.send(sorted(found)[math.ceil(0.99 * len(found)) - 1])

"""How much is going on right now: totals that only grow, and what two looks at them say a second.

Whoever wants rates keeps a look of its own, so that any number of readers may look, each as often as it likes. The last
minutes are kept for whoever comes later, to see why somebody was called.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.observe.events import Served
from proxy.observe.metrics import Metrics

HITS: Final = frozenset({"hit", "joined", "stale"})
"""Origins of answers for which nothing was fetched: from disk, or from a fetch that somebody else had begun."""


# One a second: the five minutes that the page shows.
KEPT: Final = 300


@dataclass(frozen=True, slots=True)
class Look:
    """Totals since the start. `at` is monotonic seconds; bytes are of bodies."""

    at: float
    requests: int
    sourced: int  # answers that came from somewhere: manifests, blobs and lists, without errors and pings
    hits: int  # … those of `HITS`
    served_bytes: int  # as they leave: those of responses in progress are counted too
    fetched_bytes: int  # from upstreams, as they arrive


@dataclass(frozen=True, slots=True)
class Rate:
    """A second, between two looks. `hit_ratio` is from 0 to 1, None where nothing was asked for."""

    requests: float
    served: float
    fetched: float
    hit_ratio: float | None


class Rates:
    """`observe` is told of each request; `sent` says how many bytes of bodies have left the registry port."""

    def __init__(self, metrics: Metrics, sent: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetched = metrics.fetched_bytes
        self._sent = sent
        self._clock = clock
        self._requests = self._sourced = self._hits = 0
        self._past: deque[tuple[float, Rate]] = deque(maxlen=KEPT)

    def observe(self, served: Served) -> None:
        """An `Observer`. Plain numbers: this runs for each request."""
        self._requests += 1
        if served.origin:
            self._sourced += 1
            self._hits += served.origin in HITS

    def look(self) -> Look:
        """The totals now: microseconds, whatever has happened."""
        return Look(self._clock(), self._requests, self._sourced, self._hits, self._sent(), self._fetched_bytes())

    def past(self) -> list[tuple[float, Rate]]:
        """The rates of the last KEPT seconds, each with the wall time at which it was taken, oldest first."""
        return list(self._past)

    async def run(self) -> None:
        """Keep the rate of each second, until cancelled."""
        before = self.look()
        while True:
            await asyncio.sleep(1.0)
            now = self.look()
            self._past.append((time.time(), between(before, now)))
            before = now

    def _fetched_bytes(self) -> int:
        samples = (sample for family in self._fetched.collect() for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


def between(before: Look, after: Look) -> Rate:
    """What happened a second from one look to a later one."""
    seconds = max(after.at - before.at, 1e-3)  # two looks in the same moment are no reason to divide by nothing
    sourced = after.sourced - before.sourced
    return Rate(
        requests=(after.requests - before.requests) / seconds,
        served=(after.served_bytes - before.served_bytes) / seconds,
        fetched=(after.fetched_bytes - before.fetched_bytes) / seconds,
        hit_ratio=(after.hits - before.hits) / sourced if sourced else None,
    )

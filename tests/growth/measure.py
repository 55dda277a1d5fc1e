"""What `python -m tests.growth` measures: a start, hits and evictions, over a directory of any size."""

from __future__ import annotations

import asyncio
import http.client
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.cache.disk import DiskCache
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from tests.growth.directory import UPSTREAM, repository
from tests.support.millpond import Millpond
from tests.support.waiting import wait_until

_NOWHERE: Final = "http://127.0.0.1:9"  # the upstream, which no hit needs
_HITS: Final = 2000
_EVICTED: Final = 2000


@dataclass(frozen=True, slots=True)
class Latency:
    """Of hits, in seconds."""

    p50: float
    p99: float


@contextmanager
def running(directory: Path, cache: Path) -> Iterator[tuple[Millpond, float]]:
    """Millpond on `cache`, and the seconds from its process's start until it was ready."""
    made = Millpond(
        {
            "cache": {"directory": str(cache)},
            "upstreams": {UPSTREAM: {"url": _NOWHERE, "tag_ttl": "1d"}},
            "default_upstream": UPSTREAM,
        },
        directory,
    )
    try:
        began = time.monotonic()
        made.start(wait=False)
        wait_until(made.ready, "ready")
        yield made, time.monotonic() - began
    finally:
        made.stop()


def swept(millpond: Millpond) -> None:
    """Wait until the sweep that follows a start is over."""
    wait_until(lambda: millpond.log_lines(event="cache swept"), "the sweep is over", deadline=300)


def blob_hits(millpond: Millpond, digest: Digest) -> Latency:
    return _hits(millpond, f"/v2/{repository(0).path}/blobs/{digest}")


def manifest_hits(millpond: Millpond) -> Latency:
    return _hits(millpond, f"/v2/{repository(0).path}/manifests/v0")


def lag(millpond: Millpond) -> tuple[float, float]:
    """The upper bound of the bucket that holds the p99 of the loop's lag since the start, and the last minute's max."""
    found = millpond.metrics()
    name = "millpond_event_loop_lag_seconds"
    buckets = {
        float(key.partition('le="')[2].rstrip('"}')): count
        for key, count in found.items()
        if key.startswith(f"{name}_bucket")
    }
    enough = 0.99 * found[f"{name}_count"]
    return min(bound for bound, count in buckets.items() if count >= enough), found[f"{name}_max"]


def evictions_a_second(cache: Path) -> float:
    """Through the store itself, of the least recently used, each for an arrival of its own; removes them."""
    return asyncio.run(_evictions(cache))


def _hits(millpond: Millpond, path: str) -> Latency:
    connection = http.client.HTTPConnection("127.0.0.1", millpond.port, timeout=30)
    took = []
    for _ in range(_HITS):
        began = time.perf_counter()
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        took.append(time.perf_counter() - began)
        assert (response.status, response.headers["X-Millpond"]) == (200, "hit"), response.status
    connection.close()
    cuts = statistics.quantiles(took, n=100)
    return Latency(cuts[49], cuts[98])


async def _evictions(directory: Path) -> float:
    metrics = Metrics()
    cache = DiskCache(directory, max_size=lambda _: 1 << 40, min_free=lambda _: 0, metrics=metrics, clock=time.time)
    store = cache.blobs
    count = min(_EVICTED, len(store.digests()) - 1)
    victims = store.digests()[:count]
    began = time.perf_counter()
    for digest in victims:
        await store.evict(digest)
    took = time.perf_counter() - began
    await cache.close()
    return count / took

"""How everything is, at one look: for the page, `millpond status`, and whoever is on call.

GET /api/v1/status     the program, its cache, upstreams, ECR targets, and totals since the start
GET /api/v1/flights    blobs that are being fetched: how far, how fast, for how many
GET /api/v1/rates      the last five minutes, second by second
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy import __version__
from proxy.admin.answers import Row
from proxy.admin.ecr import EcrDesk
from proxy.observe.metrics import Metrics
from proxy.observe.rates import Look, Rate, Rates
from proxy.oci.figures import sized
from proxy.pull.blobs import Blobs
from proxy.upstream.client import Registry

# In one answer: as many as somebody reads. Their number is told beside them.
MAX_FLIGHTS: Final = 200

# The part of cache.max_size below which what the file system leaves holds no image: others have filled it.
_SCARCE: Final = 0.01

# Answers to requests of ours that are a failure of upstream's; `none` is none at all. A 404 is an answer like another.
_FAILED: Final = ("5", "429", "none")


@dataclass(frozen=True, slots=True)
class Saved:
    """What need not be fetched again: bytes, and pulls that Docker Hub did not count."""

    bytes: int
    pulls: int


@dataclass(frozen=True, slots=True)
class Sights:
    """What a status is made of; each is looked at anew. `cache` has the keys of `status.cache`, `config` those of
    `status.config`."""

    started: float
    config: Callable[[], Row]
    cache: Callable[[], Awaitable[Row]]
    upstreams: Callable[[], Mapping[str, Registry]]
    blobs: Blobs
    metrics: Metrics
    rates: Rates
    active: Callable[[], int]
    draining: Callable[[], bool]
    ecr: EcrDesk | None
    saved: Callable[[], Saved]


class Status:
    """Rows for the API and the stream. None of them costs more with more blobs or clients."""

    def __init__(self, sights: Sights) -> None:
        self._sights = sights

    async def row(self) -> dict[str, Any]:
        """All of `GET status`."""
        sights = self._sights
        draining = sights.draining()
        return {
            "version": __version__,
            "now": time.time(),
            "started": sights.started,
            "ready": not draining,
            "draining": draining,
            "config": sights.config(),
            "cache": await self.cache(),
            "flights": sights.blobs.flying,
            "active": sights.active(),
            "lag": self.lag(),
            "upstreams": self.upstreams(),
            "ecr": self.ecr(),
            "totals": self._totals(sights.rates.look()),
        }

    def flights(self, limit: int) -> list[dict[str, Any]]:
        return [asdict(progress) for progress in self._sights.blobs.flights(limit)]

    @property
    def flying(self) -> int:
        return self._sights.blobs.flying

    @property
    def active(self) -> int:
        """Responses in progress."""
        return self._sights.active()

    async def cache(self) -> Row:
        """`state` also tells of a file system that is full. The cache does not mind that: it only keeps less."""
        row = await self._sights.cache()
        return {**row, "state": _cramped(row) or "ok"} if row["state"] == "ok" else row

    def config(self) -> Row:
        return self._sights.config()

    def look(self) -> Look:
        return self._sights.rates.look()

    def rates(self) -> list[Row]:
        """Of the last minutes, a row a second, oldest first: a tick's own keys."""
        return [rate_row(now, rate) for now, rate in self._sights.rates.past()]

    def lag(self) -> float:
        """The longest of the last minute, in seconds."""
        (family,) = self._sights.metrics.loop_lag_max.collect()
        return float(family.samples[0].value)

    def upstreams(self) -> list[dict[str, Any]]:
        requests, failures, fetched = self._counts()
        return [
            {
                "name": name,
                "url": registry.url,
                **asdict(registry.health),
                "rate_limit": _quota(registry),
                "requests": requests[name],
                "failures": failures[name],
                "fetched_bytes": fetched[name],
            }
            for name, registry in self._sights.upstreams().items()
        ]

    def ecr(self) -> list[Row]:
        return [] if self._sights.ecr is None else list(self._sights.ecr.targets())

    def _counts(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """By upstream: requests, those that failed, bytes."""
        requests: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        fetched: Counter[str] = Counter()
        for labels, value in _samples(self._sights.metrics.upstream_requests):
            requests[labels["upstream"]] += value
            if labels["status"].startswith(_FAILED):
                failures[labels["upstream"]] += value
        for labels, value in _samples(self._sights.metrics.fetched_bytes):
            fetched[labels["upstream"]] += value
        return requests, failures, fetched

    def _totals(self, look: Look) -> Row:
        saved = self._sights.saved()
        return {
            "requests": look.requests,
            "hits": look.hits,
            "served_bytes": look.served_bytes,
            "fetched_bytes": look.fetched_bytes,
            "saved_bytes": saved.bytes,
            "saved_pulls": saved.pulls,
        }


def status_routes(status: Status) -> list[Route]:
    async def whole(_: Request) -> Response:
        return JSONResponse(await status.row())

    async def flights(_: Request) -> Response:
        return JSONResponse({"flights": status.flights(MAX_FLIGHTS), "total": status.flying})

    async def rates(_: Request) -> Response:
        return JSONResponse({"rates": status.rates()})

    return [Route("/api/v1/status", whole), Route("/api/v1/flights", flights), Route("/api/v1/rates", rates)]


def rate_row(now: float, rate: Rate) -> Row:
    """What was going on, a second, at the wall time `now`."""
    return {
        "now": now,
        "served_rate": rate.served,
        "fetched_rate": rate.fetched,
        "requests_rate": rate.requests,
        "hit_ratio": rate.hit_ratio,
    }


def _cramped(cache: Row) -> str:
    """Why next to nothing can be kept; empty where there is room, or the file system does not say. No number in it
    changes by itself: a state that is another each second would be told each second."""
    free, max_size, min_free = cache["free"], cache["max_size"], cache["min_free"]
    if free is None or free - min_free + cache["bytes"] - cache["pinned_bytes"] >= max_size * _SCARCE:
        return ""
    beside = f" beside the {sized(min_free)} of cache.min_free" if min_free else ""
    return (
        f"the file system is full: of cache.max_size ({sized(max_size)}) it has next to nothing to give{beside}; "
        "remove what else fills it"
    )


def _quota(registry: Registry) -> Row | None:
    limit = registry.rate_limit
    if limit is None:
        return None
    return {
        "limit": limit.limit,
        "remaining": limit.remaining,
        "window": limit.window,
        "seen": registry.rate_limit_seen,
    }


def _samples(metric: Any) -> list[tuple[dict[str, str], int]]:
    """The counts of a counter, by their labels."""
    return [
        (sample.labels, int(sample.value))
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    ]

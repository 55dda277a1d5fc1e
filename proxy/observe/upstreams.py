"""What the clients of upstreams report, as metrics.

Of an upstream that is not configured any more the counts stay until the next start, since a sum that vanishes would be
missing in every rate. How it is, and what it allows, is told of configured ones only: an alert on it would never end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.observe.metrics import Metrics

# Upstream may answer any number: those that mean nothing to HTTP share a series, a class each.
_STATUSES: Final = frozenset(HTTPStatus)


class UpstreamMetrics:
    """Fulfils the observer's protocol of `proxy.upstream`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request(self, upstream: str, noun: str, status: int) -> None:
        self._metrics.upstream_requests.labels(upstream, noun, _named(status)).inc()

    def token(self, upstream: str, outcome: str) -> None:
        self._metrics.token_fetches.labels(upstream, outcome).inc()


def _named(status: int) -> str:
    if status in _STATUSES:
        return str(status)
    return f"{status // 100}xx" if status else "none"


class _Health(Protocol):
    """How an upstream has answered lately."""

    @property
    def state(self) -> str: ...
    @property
    def until(self) -> float | None: ...


class _Quota(Protocol):
    """A rate limit as upstream reported it."""

    @property
    def limit(self) -> int | None: ...
    @property
    def remaining(self) -> int | None: ...


class _Watched(Protocol):
    @property
    def health(self) -> _Health: ...
    @property
    def rate_limit(self) -> _Quota | None: ...


class UpstreamStates(Collector):
    """How each upstream is at the moment of a scrape: of those that there are then."""

    def __init__(self, upstreams: Callable[[], Mapping[str, _Watched]], states: Sequence[str]) -> None:
        """`states` are all that `health` may have."""
        self._upstreams = upstreams
        self._states = states

    def collect(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "millpond_upstream_state", "1 for the state that an upstream is in.", labels=("upstream", "state")
        )
        paused = GaugeMetricFamily(
            "millpond_upstream_breaker_open",
            "1 while an upstream is not asked, because it has failed or limits.",
            labels=("upstream",),
        )
        allowed = GaugeMetricFamily(
            "millpond_upstream_rate_limit",
            "Pulls that upstream says it allows in its window.",
            labels=("upstream",),
        )
        left = GaugeMetricFamily(
            "millpond_upstream_rate_limit_remaining",
            "Pulls that upstream says are left in its window.",
            labels=("upstream",),
        )
        for name, upstream in self._upstreams().items():
            health, quota = upstream.health, upstream.rate_limit
            for each in self._states:
                state.add_metric((name, each), health.state == each)
            paused.add_metric((name,), health.until is not None)
            if quota is not None and quota.limit is not None:
                allowed.add_metric((name,), quota.limit)
            if quota is not None and quota.remaining is not None:
                left.add_metric((name,), quota.remaining)
        yield from (state, paused, allowed, left)

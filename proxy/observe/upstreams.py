"""What the clients of upstreams report, as metrics."""

from __future__ import annotations

from typing import Protocol

from proxy.observe.metrics import Metrics


class _Quota(Protocol):
    """A rate limit as upstream reported it."""

    @property
    def remaining(self) -> int | None: ...


class UpstreamMetrics:
    """Fulfils the observer's protocol of `proxy.upstream`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request(self, upstream: str, noun: str, status: int) -> None:
        self._metrics.upstream_requests.labels(upstream, noun, str(status) if status else "none").inc()

    def token(self, upstream: str, outcome: str) -> None:
        self._metrics.token_fetches.labels(upstream, outcome).inc()

    def rate_limit(self, upstream: str, limit: _Quota) -> None:
        if limit.remaining is not None:
            self._metrics.rate_limit_remaining.labels(upstream).set(limit.remaining)

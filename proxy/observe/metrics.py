"""Every metric that Millpond exports, in one object that the composition root makes and hands out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from proxy import __version__

# From a manifest out of memory to a large layer over a slow line.
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Around the 20 ms within which nearly every lag has to be.
_LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1)


class Metrics:
    """The metric objects, in a registry of their own. Label values come from configuration or fixed sets only."""

    def __init__(self) -> None:
        # When each series began is a third of what a scrape would carry, and nobody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = self._counter(
            "requests", "Requests on the registry port.", "upstream", "kind", "source", "status"
        )
        self.served_bytes = self._counter(
            "served_bytes", "Bytes sent to clients, told at the end of each response.", "upstream", "source"
        )
        self.request_seconds = Histogram(
            "millpond_request_seconds",
            "Seconds from a request to its last byte.",
            ["kind"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.first_byte_seconds = Histogram(
            "millpond_first_byte_seconds",
            "Seconds from a request to the first of its answer.",
            ["kind", "source"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.active = self._gauge("requests_in_progress", "Responses of the registry port that have not ended.")
        self.fetched_bytes = self._counter("fetched_bytes", "Bytes received from upstreams.", "upstream")
        self.upstream_requests = self._counter(
            "upstream_requests", "Requests made to upstreams.", "upstream", "noun", "status"
        )
        self.token_fetches = self._counter("token_fetches", "Bearer tokens asked for.", "upstream", "outcome")
        self.flights = self._gauge("flights", "Blobs that are being fetched now.")
        self.flight_joins = self._counter("flight_joins", "Requests that joined a fetch already under way.")
        self.flight_failures = self._counter("flight_failures", "Fetches of blobs that failed.", "upstream", "reason")
        self.resumes = self._counter("flight_resumes", "Broken downloads continued where they stopped.", "upstream")
        self.unverified = self._counter(
            "verification_failures", "Content whose bytes did not match its digest. Alarm on any increase.", "where"
        )
        self.cache_bytes = self._gauge("cache_bytes", "Bytes accounted for on disk, arriving ones included.")
        self.cache_blobs = self._gauge("cache_blobs", "Blobs and manifests on disk.")
        self.cache_up = self._gauge("cache_up", "1 while the disk cache accepts new content, else 0.")
        self.cache_max_bytes = self._gauge("cache_max_bytes", "Bytes that the disk cache may have (cache.max_size).")
        self.cache_pinned_bytes = self._gauge("cache_pinned_bytes", "Bytes on disk that are pinned.")
        self.cache_min_free_bytes = self._gauge(
            "cache_min_free_bytes", "Bytes that the disk cache leaves free on its file system (cache.min_free)."
        )
        self.cache_free_bytes = self._gauge(
            "cache_free_bytes", "Bytes that the cache's file system has left; NaN without a disk that says so."
        )
        self.cache_free_bytes.set(math.nan)  # 0 would say that it is full
        self.evictions = self._counter("cache_evictions", "Blobs evicted to make room.")
        self.scrubbed_bytes = self._counter("scrubbed_bytes", "Bytes on disk hashed again, by scrub or verify.")
        self.scrubbed_blobs = self._counter(
            "scrubbed_blobs", "Blobs hashed again, by scrub or verify: intact, damaged, missing, unreadable.", "verdict"
        )
        self.scrub_passed = self._gauge(
            "scrub_pass_timestamp_seconds", "When every blob had last been hashed again (Unix time); 0 before."
        )
        self.dropped = self._counter("cache_dropped", "Verified blobs that could not be kept on disk.")
        self.ecr_calls = self._counter("ecr_calls", "Calls to ECR, each attempt.", "target", "operation", "outcome")
        self.ecr_pushed_bytes = self._counter("ecr_pushed_bytes", "Bytes of layers pushed to ECR.", "target")
        self.ecr_images = self._counter("ecr_images", "Images that a push has ended for.", "target", "outcome")
        self.ecr_failures = self._counter(
            "ecr_push_failures", "Attempts to push an image that failed, by what went wrong.", "target", "reason"
        )
        self.ecr_queue = self._gauge("ecr_queue", "Images by how far their push is.", "target", "state")
        self.ecr_tag_clashes = self._counter(
            "ecr_tag_clashes", "Moved tags that an immutable repository kept where they were. Alarm on any.", "target"
        )
        self.ecr_reads = self._counter("ecr_reads", "Reads from ECR on a miss.", "target", "noun", "outcome")
        self.ecr_read_bytes = self._counter("ecr_read_bytes", "Bytes received from ECR.", "target")
        self.policy_decisions = self._counter(
            "policy_decisions", "What rules of the policy have decided about pulls.", "rule", "outcome"
        )
        self.connections = self._gauge("connections", "Open connections of the registry port.")
        self.connections_refused = self._counter(
            "connections_refused", "Connections of the registry port that were one too many."
        )
        self.config_up = self._gauge(
            "config_up", "1 while the configuration in force is the last that was read, 0 once a reload was refused."
        )
        self.loop_lag = Histogram(
            "millpond_event_loop_lag_seconds",
            "How late the event loop was for a timer.",
            registry=self.registry,
            buckets=_LAG_SECONDS,
        )
        self.loop_lag_max = self._gauge("event_loop_lag_seconds_max", "The longest lag of the last minute.")
        self.tasks = self._gauge("tasks", "Tasks of the event loop.")
        build = self._gauge("build_info", "Always 1; the version is in the label.", "version")
        build.labels(__version__).set(1)

    def watch_sent(self, sent: Callable[[], int]) -> None:
        """`sent` says how many bytes have left the registry port so far."""
        self.registry.register(_Sent(sent))

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"millpond_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"millpond_{name}", text, labels, registry=self.registry)


class _Sent(Collector):
    """Looked up at each scrape: what is counted by source is known at the end of a response only, and a large layer
    to a slow client takes many scrapes."""

    def __init__(self, sent: Callable[[], int]) -> None:
        self._sent = sent

    def collect(self) -> Iterator[Metric]:
        text = "Bytes of bodies that have left the registry port, those of responses in progress included."
        yield CounterMetricFamily("millpond_sent_bytes", text, self._sent())

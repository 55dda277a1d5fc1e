"""Every metric that Millpond exports, in one object that the composition root makes and hands out."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from proxy import __version__

# From a manifest out of memory to a large layer over a slow line.
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Around the 20 ms within which nearly every lag has to be.
_LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1)


class Metrics:
    """The metric objects, in a registry of their own. Label values come from configuration or fixed sets only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = self._counter(
            "requests", "Requests on the registry port.", "upstream", "kind", "source", "status"
        )
        self.served_bytes = self._counter("served_bytes", "Bytes sent to clients.", "upstream", "source")
        self.request_seconds = Histogram(
            "millpond_request_seconds",
            "Seconds from a request to its last byte.",
            ["kind"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.fetched_bytes = self._counter("fetched_bytes", "Bytes received from upstreams.", "upstream")
        self.upstream_requests = self._counter(
            "upstream_requests", "Requests made to upstreams.", "upstream", "noun", "status"
        )
        self.token_fetches = self._counter("token_fetches", "Bearer tokens asked for.", "upstream", "outcome")
        self.rate_limit_remaining = self._gauge(
            "upstream_rate_limit_remaining", "Pulls that upstream says are left in its window.", "upstream"
        )
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

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"millpond_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"millpond_{name}", text, labels, registry=self.registry)

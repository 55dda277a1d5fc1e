"""What happened, as values. Whoever cares (the log, the metrics, a queue behind the response) is handed each one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import structlog
from prometheus_client import Counter, Histogram

from proxy.observe.metrics import Metrics


@dataclass
class Served:
    """One request on the registry port, after its last byte. Bytes are of the body; `seconds` until it ended."""

    id: str
    client: str
    method: str
    path: str
    user: str = ""  # as whom the client has been let in; empty when it was not asked
    kind: str = ""  # manifests, blobs, tags, referrers, catalog, ping; empty when the path has no meaning
    upstream: str = ""
    repository: str = ""
    item: str = ""  # tag or digest, as it was asked for
    digest: str = ""  # of what was served
    status: int = 0
    origin: str = ""  # as in X-Millpond
    confirmed: bool = True  # False: a tag of which others than upstream said where it points
    bytes: int = 0
    first_byte: float = 0.0  # seconds until the first of it
    seconds: float = 0.0
    outcome: str = "complete"  # or: client left, aborted
    reason: str = ""  # one sentence: why it did not simply come from the disk
    why: str = ""  # the error, when there was one


Observer = Callable[[Served], None]


# Kept, and so assembled once; a line is written for each request.
_log = structlog.get_logger()


def log_served(served: Served) -> None:
    """One structured line a request."""
    fields = {key: value for key, value in vars(served).items() if value != ""}
    fields["first_byte"], fields["seconds"] = round(served.first_byte, 6), round(served.seconds, 6)
    if served.confirmed:
        del fields["confirmed"]  # as nearly always
    (_log.warning if served.status >= 500 or served.outcome == "aborted" else _log.info)("served", **fields)


def count_served(metrics: Metrics) -> Observer:
    """An observer that keeps the request metrics."""

    # The label values are few (`Metrics`), and looking them up costs more than counting.
    @cache
    def of(upstream: str, kind: str, origin: str, status: int) -> tuple[Counter, Counter, Histogram, Histogram]:
        return (
            metrics.requests.labels(upstream, kind, origin, str(status)),
            metrics.served_bytes.labels(upstream, origin),
            metrics.first_byte_seconds.labels(kind, origin),
            metrics.request_seconds.labels(kind),
        )

    def count(served: Served) -> None:
        requests, sent, first_byte, seconds = of(served.upstream, served.kind, served.origin, served.status)
        requests.inc()
        sent.inc(served.bytes)
        if served.first_byte:
            first_byte.observe(served.first_byte)
        seconds.observe(served.seconds)

    return count

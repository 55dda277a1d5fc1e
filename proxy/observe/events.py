"""What happened, as values. Whoever cares (the log, the metrics, a queue behind the response) is handed each one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from proxy.observe.metrics import Metrics


@dataclass
class Served:
    """One request on the registry port, after its last byte. Bytes are of the body; `seconds` until it ended."""

    id: str
    client: str
    method: str
    path: str
    kind: str = ""  # manifests, blobs, tags, referrers, catalog, ping; empty when the path has no meaning
    upstream: str = ""
    repository: str = ""
    item: str = ""  # tag or digest, as it was asked for
    digest: str = ""  # of what was served
    status: int = 0
    origin: str = ""  # as in X-Millpond
    bytes: int = 0
    seconds: float = 0.0
    outcome: str = "complete"  # or: client left, aborted
    why: str = ""  # the error, when there was one


Observer = Callable[[Served], None]


def log_served(served: Served) -> None:
    """One structured line a request."""
    fields = {key: value for key, value in vars(served).items() if value != ""}
    fields["seconds"] = round(served.seconds, 4)
    log = structlog.get_logger()
    (log.warning if served.status >= 500 or served.outcome == "aborted" else log.info)("served", **fields)


def count_served(metrics: Metrics) -> Observer:
    """An observer that keeps the request metrics."""

    def count(served: Served) -> None:
        metrics.requests.labels(served.upstream, served.kind, served.origin, str(served.status)).inc()
        metrics.served_bytes.labels(served.upstream, served.origin).inc(served.bytes)
        metrics.request_seconds.labels(served.kind).observe(served.seconds)

    return count

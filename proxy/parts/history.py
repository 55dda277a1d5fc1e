"""What has been pulled, kept beside the cache."""

from __future__ import annotations

from collections.abc import Callable, Collection

from proxy.cache.disk import DiskCache
from proxy.observe.audit import Audit
from proxy.observe.history import History
from proxy.observe.metrics import Metrics
from proxy.observe.pulled import log_pull
from proxy.oci.digest import Digest
from proxy.oci.names import Repository


def make_history(cache: DiskCache, metrics: Metrics, clock: Callable[[], float], audit: Audit) -> History:
    """`clock` is wall time that never jumps. Log and audit are told of each pull. Blocks while what is kept is read."""

    def names(upstream: str, path: str, digest: str) -> Collection[str]:
        return cache.catalog.names(Repository(upstream, path), Digest(digest))

    def fetched() -> dict[str, float]:
        (family,) = metrics.fetched_bytes.collect()
        return {one.labels["upstream"]: one.value for one in family.samples if one.name.endswith("_total")}

    history = History(cache.register("history"), names=names, fetched=fetched, clock=clock)
    history.listen(log_pull)
    history.listen(audit.pull)
    return history

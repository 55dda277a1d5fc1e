"""Everybody who may have a blob: each upstream, the ECR targets that are read, and how many connections each bears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.names import Repository
from proxy.oci.source import Source
from proxy.pull.delivery import Delivery
from proxy.pull.lanes import Lanes
from proxy.pull.near import Near
from proxy.pull.relay import Relay
from proxy.pull.tiers import Tiers


class Givers:
    """Of every repository."""

    def __init__(
        self, sources: Mapping[str, Source], near: Sequence[Near], connections: Mapping[str, int], metrics: Metrics
    ) -> None:
        """`sources` has the remote registry for each upstream's name, `connections` how many may bring one blob;
        `near` are the targets, nearest first."""
        self._sources = sources
        self._near = near
        self._lanes = {name: Lanes(count) for name, count in connections.items()}
        self._metrics = metrics

    def set_connections(self, upstream: str, count: int) -> None:
        """From now on so many may bring one blob of this upstream, which may be a new one."""
        self._lanes[upstream] = Lanes(count)

    def tiers(self, repository: Repository) -> Tiers:
        """Whom to ask about what the repository holds."""
        return Tiers(repository, self._sources[repository.upstream], self._near)

    def delivery(self, repository: Repository, digest: Digest, size: int | None) -> Delivery:
        """Of a blob to the disk. `size` in bytes; None where the repository was not seen to hold it."""
        return self.tiers(repository).delivery(digest, size, self._lanes[repository.upstream], self._metrics)

    def relay(self, repository: Repository, digest: Digest, size: int) -> Relay:
        """Of a blob past the disk."""
        return Relay(self.delivery(repository, digest, size), size, self._metrics)

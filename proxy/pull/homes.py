"""Several instances behind a balancer: what has its home on another one is read there, not fetched once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.names import Repository
from proxy.oci.source import Source
from proxy.pull.blob import Blob, Passing
from proxy.pull.delivery import Delivery, Giver
from proxy.pull.lanes import Lanes
from proxy.pull.relay import Relay

# A home serves clients first. One connection reads its disk as fast as pushes are allowed to go.
_CONNECTIONS: Final = 1


class Homes:
    """Blobs by way of the balancer, which knows the home of each. Nothing is kept here: its home does that."""

    def __init__(self, balancer: Source, upstreams: Mapping[str, Source], metrics: Metrics) -> None:
        """`balancer` is a registry whose repositories are called by upstream and name, as Millpond's are; `upstreams`
        are by name, for what a home stops giving in the middle."""
        self._balancer = balancer
        self._upstreams = upstreams
        self._metrics = metrics
        self._lanes = Lanes(_CONNECTIONS)

    async def open(self, repository: Repository, digest: Digest) -> Blob | None:
        """The blob; None where its home does not say that it can be had. The caller closes it."""
        path = str(repository)
        try:
            size = await self._balancer.blob_size(path, digest)
        except MillpondError as error:
            structlog.get_logger().warning("not read from its home behind the balancer", blob=digest, why=str(error))
            return None
        fetched = self._metrics.fetched_bytes.labels(repository.upstream).inc
        upstream = Giver(None, self._upstreams[repository.upstream], repository.path, self._lanes, fetched)
        home = Giver(None, self._balancer, path, self._lanes, _uncounted)  # upstream has not sent it once more
        return Passing(Relay(Delivery(repository, digest, size, [home, upstream]), size, self._metrics), size)


def _uncounted(_: float) -> None: ...

"""The story itself: manifests, blobs and lists, over the cache and the upstreams."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from proxy.cache.disk import DiskCache
from proxy.observe.metrics import Metrics
from proxy.pull.blobs import Blobs
from proxy.pull.freshness import TagPolicy
from proxy.pull.listings import Listings
from proxy.pull.manifests import Manifests
from proxy.pull.near import Near
from proxy.pull.policy import Policy
from proxy.pull.reasons import Reasons
from proxy.pull.scan_gate import ScanGate
from proxy.settings import Settings
from proxy.upstream.client import Registry


@dataclass(frozen=True, slots=True)
class Pulls:
    """What a client may have."""

    manifests: Manifests
    blobs: Blobs
    listings: Listings
    policies: dict[str, TagPolicy]

    def follow(self, settings: Settings, connections: Collection[str]) -> None:
        """From now on tags age as these settings say, and the upstreams named in `connections` have theirs."""
        self.policies.update(_policies(settings))
        for name in connections:
            self.blobs.set_connections(name, settings.upstreams[name].connections_per_blob)

    async def aclose(self) -> None:
        """From the clients' side inwards: what is told last is still written down."""
        for part in (self.listings, self.manifests, self.blobs):
            await part.close()


def make_pulls(
    settings: Settings,
    cache: DiskCache,
    sources: Mapping[str, Registry],
    near: Sequence[Near],
    *,
    policy: Policy | None,
    gate: ScanGate | None,
    metrics: Metrics,
    clock: Callable[[], float],
) -> Pulls:
    """`near` are the ECR targets that are read, nearest first; `clock` is wall time that never jumps."""
    store, catalog = cache.blobs, cache.catalog
    policies = _policies(settings)
    connections = {name: upstream.connections_per_blob for name, upstream in settings.upstreams.items()}
    reasons = Reasons(store, cache.departures)
    blobs = Blobs(
        store,
        catalog,
        sources,
        connections=connections,
        metrics=metrics,
        near=near,
        policy=policy,
        reasons=reasons,
    )
    manifests = Manifests(
        store,
        catalog,
        sources,
        policies=policies,
        metrics=metrics,
        clock=clock,
        near=near,
        policy=policy,
        gate=gate,
        reasons=reasons,
    )
    listings = Listings(manifests, catalog, sources, policies=policies, clock=clock)
    return Pulls(manifests, blobs, listings, policies)


def _policies(settings: Settings) -> dict[str, TagPolicy]:
    return {
        name: TagPolicy(upstream.tag_ttl, upstream.stale_for, upstream.on_deleted == "serve")
        for name, upstream in settings.upstreams.items()
    }

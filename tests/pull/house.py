"""The registry port over its real parts, in the test's own process: upstreams, a disk, ECR targets that are read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.cache.disk import DiskCache
from proxy.ecr.target import Target
from proxy.edge.app import RegistryPort
from proxy.edge.handlers import Handlers
from proxy.edge.routes import Namespace
from proxy.observe.events import Served
from proxy.observe.metrics import Metrics
from proxy.pull.blobs import Blobs
from proxy.pull.freshness import TagPolicy
from proxy.pull.listings import Listings
from proxy.pull.manifests import Manifests
from proxy.pull.near import Near
from proxy.pull.policy import Policy
from proxy.pull.rules import Rules
from proxy.pull.sightings import Sightings
from proxy.pull.supply import PullSupply
from proxy.server import Limits, Listener, Server
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Timeouts
from tests.support.pulls import Reply, get
from tests.support.reading import reading

UPSTREAM: Final = "docker.io"
_TIMEOUTS: Final = Timeouts(connect=2.0, read=2.0, pool=2.0, whole=4.0)


@dataclass(frozen=True, slots=True)
class House:
    port: int
    blobs: Blobs
    supply: PullSupply
    metrics: Metrics
    cache: DiskCache
    served: list[Served]  # each request, a moment after its last byte
    manifests: Manifests

    def base(self, repository: str, upstream: str = UPSTREAM) -> str:
        return f"http://127.0.0.1:{self.port}/v2/{upstream}/{repository}"

    async def get(self, repository: str, what: str, headers: Mapping[str, str] | None = None, **named: Any) -> Reply:
        """`what` is `manifests/…` or `blobs/…`."""
        return await asyncio.to_thread(get, f"{self.base(repository)}/{what}", headers, **named)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def house(
    directory: Path,
    urls: Mapping[str, str],
    *targets: Target,
    policy: TagPolicy = TagPolicy(),  # noqa: B008  frozen
    max_size: int = 1 << 30,
    connections: int = 8,
    clock: Callable[[], float] = time.time,
    ticks: Callable[[], float] = time.monotonic,
    rules: Rules | None = None,
) -> AsyncIterator[House]:
    """One with an upstream for each of `urls`, and `targets` nearest first. `clock` is for tags, `ticks` for quotas;
    `rules` are the operator's, but for the gate of scans."""
    metrics = Metrics()
    cache = DiskCache(directory, max_size=lambda _: max_size, min_free=lambda _: 0, metrics=metrics, clock=clock)
    policies = dict.fromkeys(urls, policy)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cache.close)
        registries = {name: Registry(Endpoint(name, url), timeouts=_TIMEOUTS) for name, url in urls.items()}
        for registry in registries.values():
            stack.push_async_callback(registry.aclose)
        near = [Near(await stack.enter_async_context(reading(target)), metrics=metrics) for target in targets]
        counts = dict.fromkeys(urls, connections)
        judge = Policy(rules, Sightings(cache.register("sightings")), metrics=metrics, clock=clock) if rules else None
        blobs = Blobs(
            cache.blobs, cache.catalog, registries, connections=counts, metrics=metrics, near=near, policy=judge
        )
        manifests = Manifests(
            cache.blobs,
            cache.catalog,
            registries,
            policies=policies,
            metrics=metrics,
            clock=clock,
            near=near,
            policy=judge,
        )
        listings = Listings(manifests, cache.catalog, registries, policies=policies, clock=clock)
        for part in (blobs, manifests, listings):
            stack.push_async_callback(part.close)
        supply = PullSupply(manifests, blobs, listings, registries, clock=ticks)
        namespace = Namespace({name: name for name in urls}, next(iter(urls)))
        served: list[Served] = []
        port = RegistryPort(namespace, Handlers(manifests, blobs, listings), (served.append,))
        server = Server(port, Listener("127.0.0.1", 0), Limits())
        server.bind()
        serving = asyncio.create_task(server.serve())
        try:
            yield House(server.port, blobs, supply, metrics, cache, served, manifests)
        finally:
            server.stop()
            await serving

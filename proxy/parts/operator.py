"""The operator's side of the house: what the admin port shows of all the others, and lets them be told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.admin.answers import Row
from proxy.admin.api import Api, api_routes
from proxy.admin.app import admin_port
from proxy.admin.status import Saved, Sights, Status
from proxy.admin.stream import Stream
from proxy.cache.blobs import BlobStore
from proxy.cache.disk import DiskCache
from proxy.cache.intake import Intake
from proxy.ecr.desk import Desk
from proxy.edge.app import RegistryPort
from proxy.edge.routes import Namespace
from proxy.edge.rules import Verdict
from proxy.observe.history import History
from proxy.observe.metrics import Metrics
from proxy.observe.rates import Rates
from proxy.oci.names import Repository, Tag, parse_image
from proxy.parts.images import make_images
from proxy.parts.pulls import Pulls
from proxy.parts.reload import Reloader
from proxy.parts.upstreams import configured
from proxy.pull import findings
from proxy.pull.explain import Explainer
from proxy.pull.homes import Homes
from proxy.pull.near import Near
from proxy.pull.policy import Policy
from proxy.pull.scan_gate import ScanGate
from proxy.pull.supply import PullSupply
from proxy.pull.warm import Warmer
from proxy.server import Server
from proxy.server.asgi import App
from proxy.settings import Settings, ecr_targets
from proxy.upstream.client import Registry


@dataclass(frozen=True, slots=True)
class Seen:
    """The parts of the house that the operator looks at. `desk` is there when there are ECR targets."""

    cache: DiskCache
    pulls: Pulls
    sources: Mapping[str, Registry]
    near: Sequence[Near]
    policy: Policy | None
    gate: ScanGate | None
    port: RegistryPort
    registry: Server
    supply: PullSupply
    homes: Homes | None
    desk: Desk | None
    history: History
    metrics: Metrics
    rates: Rates
    reloader: Reloader
    namespace: Namespace
    draining: Callable[[], bool]
    clock: Callable[[], float]


def make_operator(settings: Settings, seen: Seen) -> App:
    """What the admin port bears."""
    status = Status(
        Sights(
            started=time.time(),
            config=seen.reloader.status,
            cache=_room(settings, seen.cache.blobs),
            upstreams=configured(seen.sources, seen.namespace),
            blobs=seen.pulls.blobs,
            metrics=seen.metrics,
            rates=seen.rates,
            active=lambda: seen.registry.active,
            draining=seen.draining,
            ecr=seen.desk,
            saved=lambda: _saved(seen.history),
        )
    )
    stream = Stream(status, seen.draining)
    seen.history.listen(lambda pull: stream.pull(pull.row))
    images, keeping = make_images(
        seen.cache,
        seen.pulls.manifests,
        seen.namespace.named,
        ecr_targets(settings),
        seen.desk.tier if seen.desk else None,
    )
    api = Api(
        status=status,
        stream=stream,
        history=seen.history,
        explainer=_explainer(seen),
        images=images,
        keeping=keeping,
        warmer=_warmer(seen),
        intake=Intake(seen.cache.blobs, seen.cache.catalog, seen.clock),
        locate=seen.namespace.named,
        ecr=seen.desk,
        verify=seen.cache.scrubber.verify,
        reload=seen.reloader.reload,
    )
    routes = api_routes(api, seen.draining)
    return admin_port(seen.metrics, lambda: {"disk": seen.cache.blobs.trouble or "ok"}, seen.draining, routes)


def _room(settings: Settings, store: BlobStore) -> Callable[[], Awaitable[Row]]:
    """How full the cache is, in bytes; `free` is None where the file system does not say."""

    async def room() -> Row:
        max_size, min_free = store.budget
        return {
            "state": store.trouble or store.crowded or "ok",
            "directory": str(settings.cache.directory),
            "bytes": store.accounted,
            "blobs": store.count,
            "max_size": max_size,
            "min_free": min_free,
            "free": await store.free(),
            "pinned_bytes": store.pinned,
        }

    return room


def _saved(history: History) -> Saved:
    total = history.total()
    return Saved(total.saved_bytes, total.saved_pulls)


def _explainer(seen: Seen) -> Explainer:
    def verdict(user: str, repository: Repository, tag: Tag | None) -> Verdict | None:
        access = seen.port.access
        return access.rules.verdict(user, repository, tag) if access and access.rules else None

    def last(name: str) -> Row | None:
        image = parse_image(name, seen.namespace.named)
        pull = seen.history.last(image.repository.upstream, image.repository.path, image.reference)
        return pull.row() if pull else None

    return Explainer(
        findings.Sights(
            locate=seen.namespace.named,
            blobs=seen.pulls.blobs,
            store=seen.cache.blobs,
            catalog=seen.cache.catalog,
            departures=seen.cache.departures,
            policies=seen.pulls.policies,
            registries=seen.sources,
            clock=seen.clock,
            near=seen.near,
            policy=lambda: seen.policy,
            gate=seen.gate,
            ecr=seen.desk.tier if seen.desk else None,
            verdict=verdict,
            last=last,
        )
    )


def _warmer(seen: Seen) -> Warmer:
    return Warmer(
        seen.supply,
        seen.pulls.manifests,
        seen.pulls.blobs,
        seen.cache.blobs,
        seen.cache.catalog,
        locate=seen.namespace.named,
        busy=lambda: seen.registry.active > 0,
        homes=seen.homes,
    )

"""The composition root: the only place where things are built and wired together."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from proxy import __version__
from proxy.admin.app import admin_port
from proxy.cache.catalog import Catalog
from proxy.cache.disk import DiskCache
from proxy.cache.lock import DirectoryInUse
from proxy.ecr.api import Api
from proxy.ecr.calls import TRIES
from proxy.ecr.compare import Places
from proxy.ecr.desk import Desk
from proxy.ecr.login import Login
from proxy.ecr.queue import Queue
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Sessions
from proxy.ecr.source import EcrSource
from proxy.ecr.target import Target
from proxy.ecr.tier import EcrTier
from proxy.edge.app import RegistryPort
from proxy.edge.handlers import Handlers
from proxy.edge.routes import Namespace
from proxy.observe import logs
from proxy.observe.events import Served, count_served, log_served
from proxy.observe.lag import watch_loop
from proxy.observe.metrics import Metrics
from proxy.observe.upstreams import UpstreamMetrics
from proxy.oci.digest import Digest
from proxy.oci.manifest import INDEXES
from proxy.oci.names import Image, Repository, Tag
from proxy.pull.blobs import Blobs
from proxy.pull.freshness import TagPolicy
from proxy.pull.homes import Homes
from proxy.pull.listings import Listings
from proxy.pull.manifests import Manifests
from proxy.pull.near import Near
from proxy.pull.supply import PullSupply
from proxy.server import Limits, Listener, ListenError, Server
from proxy.server.notify import READY, STOPPING, notify
from proxy.settings import Settings, Upstream, ecr_targets
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Observer, Timeouts
from proxy.upstream.signed import SignedUrls


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. What prevents a start is said on standard error."""
    logs.configure(settings.log.format, settings.log.level)
    try:
        asyncio.run(_serve(settings))
    except (DirectoryInUse, ListenError) as error:
        print(f"millpond: {error}", file=sys.stderr)  # noqa: T201  the last words of a program that did not start
        return 1
    return 0


def registries(settings: Settings, sessions: Sessions, observer: Observer | None = None) -> dict[str, Registry]:
    """A client for each configured upstream, by name. Nothing is connected yet; the caller closes them."""
    return {
        name: Registry(
            _endpoint(name, upstream, sessions),
            timeouts=Timeouts(connect=upstream.connect_timeout, read=upstream.read_timeout),
            observer=observer,
        )
        for name, upstream in settings.upstreams.items()
    }


def _endpoint(name: str, upstream: Upstream, sessions: Sessions) -> Endpoint:
    login = None
    if upstream.auth == "ecr":
        assert upstream.region, "the settings have found one"
        service = "ecr-public" if upstream.is_ecr_public else "ecr"
        client = sessions.client(service, upstream.region, upstream.role_arn, upstream.endpoint_url)
        login = Login(client, public=upstream.is_ecr_public)
    return Endpoint(
        name=name,
        url=upstream.url,
        token_hosts=tuple(upstream.token_hosts),
        ca_file=upstream.ca_file,
        username=upstream.username,
        password=upstream.password.get_secret_value() if upstream.password else None,
        login=login.credentials if login else None,
        forget=login.forget if login else None,
    )


async def _serve(settings: Settings) -> None:
    clock = _steady_wall_clock()
    metrics = Metrics()
    cache = _cache(settings, metrics, clock)
    # Whoever reads has threads and connections of its own: no pull shall wait behind slow pushes.
    sessions, reading, signed = Sessions(), Sessions(), SignedUrls()
    sources = registries(settings, sessions, UpstreamMetrics(metrics))
    targets = ecr_targets(settings)
    apis = _apis(targets, sessions, metrics)
    near = _near(targets, reading, signed, metrics)
    balancer = Registry(Endpoint("balancer", settings.ecr.balancer)) if settings.ecr.balancer else None
    policies = {
        name: TagPolicy(upstream.tag_ttl, upstream.stale_for, upstream.on_deleted == "serve")
        for name, upstream in settings.upstreams.items()
    }
    connections = {name: upstream.connections_per_blob for name, upstream in settings.upstreams.items()}
    blobs = Blobs(cache.blobs, cache.catalog, sources, connections=connections, metrics=metrics, near=near)
    manifests = Manifests(
        cache.blobs, cache.catalog, sources, policies=policies, metrics=metrics, clock=clock, near=near
    )
    listings = Listings(manifests, cache.catalog, sources, policies=policies, clock=clock)
    namespace = Namespace(settings.names, settings.names[settings.default_upstream])
    observers: list[Callable[[Served], None]] = [log_served, count_served(metrics)]
    background: list[Callable[[], Coroutine[Any, Any, None]]] = [cache.tend, partial(watch_loop, metrics)]
    desk = None
    if apis:
        homes = Homes(balancer, sources, metrics) if balancer else None
        supply = PullSupply(manifests, blobs, listings, sources, homes=homes)
        tier = EcrTier(
            apis,
            supply,
            _queue(cache, clock),
            busy=lambda: registry.active > 0,
            metrics=metrics,
            clock=clock,
            pushed=_telling(near),
        )
        desk = Desk(
            tier,
            supply,
            _places(cache, sources, apis),
            locate=lambda name: namespace.locate(name, None, None),
            on_disk=lambda: _images(cache.catalog),
        )
        observers.append(tier.observe)
        background.append(tier.run)
    registry = Server(
        RegistryPort(namespace, Handlers(manifests, blobs, listings), observers),
        _registry_listener(settings),
        Limits(
            header_timeout=settings.registry.header_timeout,
            write_timeout=settings.registry.write_timeout,
            keep_alive=settings.registry.keep_alive,
            grace=settings.registry.grace_period,
        ),
    )
    draining = asyncio.Event()
    admin = Server(
        admin_port(metrics, lambda: {"disk": cache.blobs.trouble or "ok"}, draining.is_set, desk),
        Listener(settings.admin.listen.host, settings.admin.listen.port),
        name="admin",
    )
    try:
        registry.bind()
        admin.bind()
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(work()) for work in background]
            tasks.create_task(admin.serve())
            tasks.create_task(_drain_on_signal(draining, registry))
            _announce(settings, registry, admin)
            notify(READY)
            await registry.serve()
            admin.stop()
            for task in beside:
                task.cancel()
    finally:
        # From the clients' side inwards: what is told last is still written down.
        await listings.close()
        await manifests.close()
        await blobs.close()
        for source in (*sources.values(), balancer, signed, reading, sessions):
            if source:
                await source.aclose()
        await cache.close()
    structlog.get_logger().info("stopped")


def _cache(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> DiskCache:
    gc.disable()  # what a cache restores is no garbage: to look through it again and again would double the time
    try:
        return DiskCache(
            settings.cache.directory,
            max_size=settings.cache.max_size.resolve,
            min_free=settings.cache.min_free.resolve,
            metrics=metrics,
            clock=clock,
        )
    finally:
        gc.freeze()  # nor shall it ever be looked through: that stops the loop for a quarter of a second
        gc.enable()


async def _drain_on_signal(draining: asyncio.Event, registry: Server) -> None:
    def on_signal() -> None:
        if draining.is_set():  # asked twice: whoever asks cannot wait for the running responses
            registry.abort_now()
        draining.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await draining.wait()
    structlog.get_logger().info("draining", active=registry.active)
    notify(STOPPING)
    registry.stop()


def _apis(targets: Sequence[Target], sessions: Sessions, metrics: Metrics, tries: int = TRIES) -> list[Api]:
    quotas = Quotas()  # who reads has others, so as not to wait behind pushes: together both stay far below ECR's

    def api(target: Target) -> Api:
        client = sessions.client("ecr", target.region, target.role_arn, target.endpoint_url)
        count = metrics.ecr_calls.labels
        return Api(target, client, quotas, lambda call, how: count(target.name, call, how).inc(), tries)

    apis = [api(target) for target in targets]
    sessions.prepare()
    return apis


def _queue(cache: DiskCache, clock: Callable[[], float]) -> Queue:
    register = cache.register("queue")
    return Queue(dict(register.held), register, clock)


def _near(targets: Sequence[Target], sessions: Sessions, signed: SignedUrls, metrics: Metrics) -> list[Near]:
    """What is read, of Millpond's own region first, else in the order of the configuration."""
    here = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    apis = _apis(targets, sessions, metrics, tries=1)  # what fails is asked of the next tier
    nearest = sorted(apis, key=lambda api: api.target.region != here)
    return [Near(EcrSource(api, signed.blob), metrics=metrics) for api in nearest if api.target.read]


def _telling(near: Sequence[Near]) -> Callable[[str, Repository], None]:
    """Tells whoever reads a target of what has been pushed to it."""
    readers = {each.name: each for each in near}

    def tell(target: str, repository: Repository) -> None:
        if target in readers:
            readers[target].holds_more(repository)

    return tell


def _places(cache: DiskCache, sources: Mapping[str, Registry], apis: Sequence[Api]) -> Places:
    def on_disk(image: Image) -> Digest | None:
        record = cache.catalog.tag(image.repository, image.tag) if image.tag else None
        digest = image.digest or (record.digest if record else None)
        return digest if digest in cache.blobs else None

    def is_index(repository: Repository, digest: Digest) -> bool:
        return cache.catalog.media_type(repository, digest) in INDEXES

    return Places(on_disk, is_index, sources, apis)


def _images(catalog: Catalog) -> Iterator[Image]:
    """Every tag that is cached."""
    for repository in catalog.repositories():
        for tag in catalog.tags(repository):
            yield Image(repository, Tag(tag), None)


def _registry_listener(settings: Settings) -> Listener:
    listen, tls = settings.registry.listen, settings.registry.tls
    if tls is None:
        return Listener(listen.host, listen.port)
    return Listener(listen.host, listen.port, tls.cert_file, tls.key_file, tls.client_ca_file)


def _announce(settings: Settings, registry: Server, admin: Server) -> None:
    log = structlog.get_logger()
    log.info(
        "serving",
        version=__version__,
        registry=f"{settings.registry.listen.host}:{registry.port}",
        admin=f"{settings.admin.listen.host}:{admin.port}",
        cache=str(settings.cache.directory),
        upstreams=sorted(settings.upstreams),
        ecr=[target.name for target in settings.ecr.targets],
    )


def _steady_wall_clock() -> Callable[[], float]:
    """Wall time in seconds that does not follow later jumps of the machine's clock."""
    anchor = time.time() - time.monotonic()
    return lambda: anchor + time.monotonic()

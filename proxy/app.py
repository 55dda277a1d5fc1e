"""The composition root: the only place where things are built and wired together."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable

import structlog

from proxy import __version__
from proxy.admin.app import admin_port
from proxy.cache.disk import DiskCache
from proxy.cache.lock import DirectoryInUse
from proxy.edge.app import RegistryPort
from proxy.edge.handlers import Handlers
from proxy.edge.routes import Namespace
from proxy.observe import logs
from proxy.observe.events import count_served, log_served
from proxy.observe.lag import watch_loop
from proxy.observe.metrics import Metrics
from proxy.observe.upstreams import UpstreamMetrics
from proxy.pull.blobs import Blobs
from proxy.pull.freshness import TagPolicy
from proxy.pull.listings import Listings
from proxy.pull.manifests import Manifests
from proxy.server import Limits, Listener, ListenError, Server
from proxy.settings import Settings
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Observer, Timeouts


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. What prevents a start is said on standard error."""
    logs.configure(settings.log.format, settings.log.level)
    try:
        asyncio.run(_serve(settings))
    except (DirectoryInUse, ListenError) as error:
        print(f"millpond: {error}", file=sys.stderr)  # noqa: T201  the last words of a program that did not start
        return 1
    return 0


def registries(settings: Settings, observer: Observer | None = None) -> dict[str, Registry]:
    """A client for each configured upstream, by name. Nothing is connected yet; the caller closes them."""
    return {
        name: Registry(
            Endpoint(
                name=name,
                url=upstream.url,
                token_hosts=tuple(upstream.token_hosts),
                ca_file=upstream.ca_file,
                username=upstream.username,
                password=upstream.password.get_secret_value() if upstream.password else None,
            ),
            timeouts=Timeouts(connect=upstream.connect_timeout, read=upstream.read_timeout),
            observer=observer,
        )
        for name, upstream in settings.upstreams.items()
    }


async def _serve(settings: Settings) -> None:
    clock = _steady_wall_clock()
    metrics = Metrics()
    gc.disable()  # what a cache restores is no garbage: to look through it again and again would double the time
    cache = DiskCache(
        settings.cache.directory,
        max_size=settings.cache.max_size.resolve,
        min_free=settings.cache.min_free.resolve,
        metrics=metrics,
        clock=clock,
    )
    gc.freeze()  # nor shall it ever be looked through: that stops the loop for a quarter of a second
    gc.enable()
    sources = registries(settings, UpstreamMetrics(metrics))
    policies = {
        name: TagPolicy(upstream.tag_ttl, upstream.stale_for, upstream.on_deleted == "serve")
        for name, upstream in settings.upstreams.items()
    }
    connections = {name: upstream.connections_per_blob for name, upstream in settings.upstreams.items()}
    blobs = Blobs(cache.blobs, cache.catalog, sources, connections=connections, metrics=metrics)
    manifests = Manifests(cache.blobs, cache.catalog, sources, policies=policies, metrics=metrics, clock=clock)
    listings = Listings(manifests, cache.catalog, sources, policies=policies, clock=clock)
    observers = (log_served, count_served(metrics))
    registry = Server(
        RegistryPort(_namespace(settings), Handlers(manifests, blobs, listings), observers),
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
        admin_port(metrics, lambda: {"disk": cache.blobs.trouble or "ok"}, draining.is_set),
        Listener(settings.admin.listen.host, settings.admin.listen.port),
        name="admin",
    )
    try:
        registry.bind()
        admin.bind()
        async with asyncio.TaskGroup() as tasks:
            tending = tasks.create_task(cache.tend())
            watching = tasks.create_task(watch_loop(metrics))
            tasks.create_task(admin.serve())
            tasks.create_task(_drain_on_signal(draining, registry))
            _announce(settings, registry, admin)
            await registry.serve()
            admin.stop()
            tending.cancel()
            watching.cancel()
    finally:
        # From the clients' side inwards: what is told last is still written down.
        await listings.close()
        await manifests.close()
        await blobs.close()
        for source in sources.values():
            await source.aclose()
        await cache.close()
    structlog.get_logger().info("stopped")


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
    registry.stop()


def _namespace(settings: Settings) -> Namespace:
    names = {name: name for name in settings.upstreams}
    names |= {alias: name for name, upstream in settings.upstreams.items() for alias in upstream.aliases}
    return Namespace(names, names[settings.default_upstream])


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
    )
    if settings.ecr.targets:
        log.warning("ecr.targets are checked, but this version does not push to ECR yet")


def _steady_wall_clock() -> Callable[[], float]:
    """Wall time in seconds that does not follow later jumps of the machine's clock."""
    anchor = time.time() - time.monotonic()
    return lambda: anchor + time.monotonic()

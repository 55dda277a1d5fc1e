"""The composition root: the only place where the parts are put together."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from proxy import __version__
from proxy.admin.app import admin_port
from proxy.cache.disk import DiskCache
from proxy.cache.lock import DirectoryInUse
from proxy.ecr.session import Sessions
from proxy.edge.app import RegistryPort
from proxy.edge.handlers import Handlers
from proxy.edge.routes import Namespace
from proxy.observe import logs
from proxy.observe.events import Served, count_served, log_served
from proxy.observe.lag import watch_loop
from proxy.observe.metrics import Metrics
from proxy.observe.upstreams import UpstreamMetrics
from proxy.parts.ecr import make_apis, make_desk, make_near, make_places, make_tier
from proxy.parts.ports import make_admin_port, make_registry_port
from proxy.parts.pulls import make_pulls
from proxy.parts.rules import make_access, make_gate, make_policy
from proxy.parts.upstreams import balancer, registries
from proxy.pull.homes import Homes
from proxy.pull.supply import PullSupply
from proxy.server import ListenError, Server
from proxy.server.notify import READY, STOPPING, notify
from proxy.settings import Settings, ecr_targets, policy_rules
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


async def _serve(settings: Settings) -> None:
    clock = _steady_wall_clock()
    metrics = Metrics()
    cache = _cache(settings, metrics, clock)
    # Whoever reads has threads and connections of its own: no pull shall wait behind slow pushes.
    sessions, reading, signed = Sessions(), Sessions(), SignedUrls()
    sources = registries(settings, sessions, UpstreamMetrics(metrics))
    fleet = balancer(settings)
    targets, rules = ecr_targets(settings), policy_rules(settings)
    apis = make_apis(targets, sessions, metrics)
    near = make_near(targets, reading, signed, metrics)
    policy = make_policy(rules, cache, metrics, clock)
    gate = make_gate(rules, targets, reading, metrics, lambda *image: tier.push(*image))  # noqa: PLW0108  it comes later
    pulls = make_pulls(settings, cache, sources, near, policy=policy, gate=gate, metrics=metrics, clock=clock)
    namespace = Namespace(settings.names, settings.names[settings.default_upstream])
    access = make_access(settings)
    observers: list[Callable[[Served], None]] = [log_served, count_served(metrics)]
    background: list[Callable[[], Coroutine[Any, Any, None]]] = [cache.tend, partial(watch_loop, metrics)]
    desk = None
    if apis:
        homes = Homes(fleet, sources, metrics) if fleet else None
        supply = PullSupply(pulls.manifests, pulls.blobs, pulls.listings, sources, homes=homes)
        tier = make_tier(apis, supply, cache, near, busy=lambda: registry.active > 0, metrics=metrics, clock=clock)
        places = make_places(cache, sources, apis)
        desk = make_desk(tier, supply, places, cache.catalog, lambda name: namespace.locate(name, None, None))
        observers.append(tier.observe)
        background.append(tier.run)
    port = RegistryPort(namespace, Handlers(pulls.manifests, pulls.blobs, pulls.listings), observers, access)
    registry = make_registry_port(settings, port, metrics)
    draining = asyncio.Event()
    app = admin_port(
        metrics, lambda: {"disk": cache.blobs.trouble or "ok"}, draining.is_set, desk, cache.scrubber.verify
    )
    admin = make_admin_port(settings, app, cache.admin_pass())
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
        for part in (pulls, *sources.values(), fleet, signed, reading, sessions, access):
            if part:
                await part.aclose()
        await cache.close()
    structlog.get_logger().info("stopped")


def _cache(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> DiskCache:
    gc.disable()  # what a cache restores is no garbage: to look through it again and again would double the time
    try:
        return DiskCache(
            settings.cache.directory,
            max_size=settings.cache.max_size.resolve,
            min_free=settings.cache.min_free.resolve,
            scrub_rate=settings.cache.scrub_rate.bytes,
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

"""The composition root: the only place where the parts are put together."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from proxy import __version__
from proxy.cache.disk import DiskCache
from proxy.cache.lock import DirectoryInUse
from proxy.ecr.session import Sessions
from proxy.edge.app import RegistryPort
from proxy.edge.handlers import Handlers
from proxy.edge.routes import Namespace
from proxy.observe import logs
from proxy.observe.audit import Audit
from proxy.observe.events import Served, count_served, log_served
from proxy.observe.lag import watch_loop
from proxy.observe.metrics import Metrics
from proxy.observe.rates import Rates
from proxy.observe.upstreams import UpstreamMetrics
from proxy.parts.ecr import make_apis, make_desk, make_near, make_places, make_tier
from proxy.parts.history import make_history
from proxy.parts.operator import Seen, make_operator
from proxy.parts.ports import make_admin_port, make_registry_port
from proxy.parts.pulls import make_pulls
from proxy.parts.reload import Followers, Reloader
from proxy.parts.rules import make_access, make_gate, make_policy, make_users
from proxy.parts.traces import make_traces
from proxy.parts.upstreams import Upstreams, balancer, configured, registries, watch_upstreams
from proxy.pull.homes import Homes
from proxy.pull.supply import PullSupply
from proxy.server import ListenError, Server
from proxy.server.notify import READY, STOPPING, notify
from proxy.settings import Settings, ecr_targets, policy_rules
from proxy.upstream.signed import SignedUrls


def run(settings: Settings, config_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. What prevents a start is said on standard error. `config_file` is
    what `settings` were loaded from, and is read again on SIGHUP."""
    logs.configure(settings.log.format, settings.log.level)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as long as there is nothing yet that could be read again
    try:
        asyncio.run(_serve(settings, config_file))
    except (DirectoryInUse, ListenError) as error:
        print(f"millpond: {error}", file=sys.stderr)  # noqa: T201  the last words of a program that did not start
        return 1
    return 0


async def _serve(settings: Settings, config_file: Path | None) -> None:
    clock, metrics = _steady_wall_clock(), Metrics()
    audit, tracer = Audit(settings.log.audit), make_traces(settings)
    cache = _cache(settings, metrics, clock)
    # Whoever reads has threads and connections of its own: no pull shall wait behind slow pushes.
    sessions, reading, signed = Sessions(), Sessions(), SignedUrls()
    observer = UpstreamMetrics(metrics)
    sources = registries(settings, sessions, observer)
    fleet = balancer(settings)
    targets, rules = ecr_targets(settings), policy_rules(settings)
    apis = make_apis(targets, sessions, metrics)
    near = make_near(targets, reading, signed, metrics)
    policy = make_policy(rules, cache, metrics, clock, audit)
    gate = make_gate(
        rules,
        targets,
        reading,
        metrics=metrics,
        audit=audit,
        push=lambda *image: tier and tier.push(*image),  # it comes later
    )
    pulls = make_pulls(settings, cache, sources, near, policy=policy, gate=gate, metrics=metrics, clock=clock)
    namespace = Namespace(settings.names, settings.names[settings.default_upstream])
    watch_upstreams(configured(sources, namespace), metrics)
    users = make_users(settings)
    rates = Rates(metrics, lambda: registry.sent)
    history = make_history(cache, metrics, clock, audit)
    homes = Homes(fleet, sources, metrics) if fleet else None
    supply = PullSupply(pulls.manifests, pulls.blobs, pulls.listings, sources, homes=homes)
    tier = make_tier(apis, supply, cache, near, busy=lambda: registry.active > 0, metrics=metrics, clock=clock)
    desk = make_desk(tier, supply, make_places(cache, sources, apis), cache.catalog, namespace.named) if tier else None
    observers: list[Callable[[Served], None]] = [
        log_served,
        count_served(metrics),
        rates.observe,
        history.observe,
        audit.served,
        *([tracer.observe] if tracer else ()),
        *([tier.observe] if tier else ()),
    ]
    port = RegistryPort(
        namespace,
        Handlers(pulls.manifests, pulls.blobs, pulls.listings),
        observers,
        make_access(settings, users),
        [history.began, *([tracer.began] if tracer else ())],
    )
    registry = make_registry_port(settings, tracer.continued(port) if tracer else port, metrics)
    draining = asyncio.Event()
    followers = Followers(
        audit, cache, Upstreams(sources, sessions, observer), pulls, policy, gate, namespace, users, port, registry
    )
    reloader = Reloader(settings, config_file, followers)
    metrics.config_up.set_function(lambda: reloader.status()["error"] is None)
    seen = Seen(
        cache=cache,
        pulls=pulls,
        sources=sources,
        near=near,
        policy=policy,
        gate=gate,
        port=port,
        registry=registry,
        supply=supply,
        homes=homes,
        desk=desk,
        history=history,
        metrics=metrics,
        rates=rates,
        reloader=reloader,
        namespace=namespace,
        draining=draining.is_set,
        clock=clock,
    )
    background: list[Callable[[], Coroutine[Any, Any, None]]] = [
        cache.tend,
        partial(watch_loop, metrics),
        history.run,
        rates.run,
        reloader.run,
        *([tier.run] if tier else ()),
    ]
    admin = make_admin_port(settings, make_operator(settings, seen), cache.admin_pass(), audit)
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
        for part in (pulls, *sources.values(), fleet, signed, reading, sessions, users, history, audit, tracer):
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

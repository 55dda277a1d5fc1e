"""The configuration read again while the program serves: what can follow follows, what cannot is named.

A configuration that cannot be used changes nothing. What is under way goes on as it began; whoever comes next meets the
new one as a whole, since nobody is served between its first part and its last.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.admin.answers import BadRequest
from proxy.cache.disk import DiskCache
from proxy.edge.app import RegistryPort
from proxy.edge.routes import Namespace
from proxy.edge.users import Users
from proxy.observe.audit import Audit
from proxy.observe.surviving import surviving
from proxy.parts.ports import registry_listener
from proxy.parts.pulls import Pulls
from proxy.parts.rules import make_access
from proxy.parts.upstreams import Key, Upstreams
from proxy.pull.policy import Policy
from proxy.pull.scan_gate import ScanGate
from proxy.pull.sightings import Sightings
from proxy.server import ListenError, Server
from proxy.server.listener import tls_context
from proxy.settings import (
    CONFIG_VARIABLE,
    Credentials,
    Settings,
    SettingsError,
    changes,
    keyed,
    load,
    policy_rules,
    spelled,
    upstreams_of,
)
from proxy.settings.base import Misfit

_GATE: Final = ("policy", "scan_gate")


@dataclass(frozen=True, slots=True)
class Followers:
    """The parts of the house that follow the configuration."""

    audit: Audit
    cache: DiskCache
    upstreams: Upstreams
    pulls: Pulls
    policy: Policy
    gate: ScanGate | None
    namespace: Namespace
    users: Users
    port: RegistryPort
    registry: Server


@dataclass(frozen=True, slots=True)
class _Next:
    """All that can go wrong is behind it: made of a configuration, and not in force yet."""

    settings: Settings
    values: Mapping[Key, object] = field(repr=False)
    credentials: Credentials
    tls: ssl.SSLContext | None


class Reloader:
    """Reads the configuration again on SIGHUP, and when it is told to."""

    def __init__(self, settings: Settings, config_file: Path | None, followers: Followers) -> None:
        """`settings` are in force, read of `config_file` (else of the file that MILLPOND_CONFIG names). Blocks."""
        self._config_file = config_file
        self._started_with = settings
        self._running = keyed(settings)  # what is in force, key by key
        self._house = followers
        self._credentials = settings.access.credentials()
        self._has_sightings = len(settings.policy.cooldown) > 0
        self._hung_up = asyncio.Event()
        self._one = asyncio.Lock()
        self._loaded = time.time()
        self._error: str | None = None
        self._restart: list[str] = []

    def status(self) -> dict[str, Any]:
        """`file`, null without one; `loaded`, when what is in force was read, in seconds of wall time; `error`, why the
        last try was refused, null where it was not; `restart`, the keys whose new values wait for a restart."""
        file = self._config_file or os.environ.get(CONFIG_VARIABLE) or None
        return {
            "file": file and str(file),
            "loaded": self._loaded,
            "error": self._error,
            "restart": self._restart,
        }

    async def run(self) -> None:
        """Reload at each SIGHUP, until cancelled."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hung_up.set)
        await surviving(self._follow, "reload")

    async def reload(self) -> dict[str, list[str]]:
        """The keys that have `changed`, and those that differ but need a `restart`.

        Raises:
            BadRequest: the configuration cannot be used, and nothing has changed.
        """
        async with self._one:
            try:
                coming = await asyncio.to_thread(self._read)
                return await self._enforce(coming)
            except (SettingsError, ListenError, Misfit) as error:
                self._error = str(error)
                self._house.audit.reload({"refused": self._error})
                structlog.get_logger().error("configuration refused, the old one stays", why=self._error)
                raise BadRequest(f"{error}\nthe old configuration stays in force", 409) from None

    async def _follow(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            try:
                await self.reload()
            except BadRequest:
                continue  # it has been said

    def _read(self) -> _Next:
        """Blocks."""
        settings = load(self._config_file)
        tls = tls_context(registry_listener(settings)) if self._started_with.registry.tls else None
        return _Next(settings, keyed(settings), settings.access.credentials(), tls)

    async def _enforce(self, coming: _Next) -> dict[str, list[str]]:
        settings, house = coming.settings, self._house
        differ = changes(self._running, coming.values)
        moved = [key for key in differ if not _needs_restart(key, differ)]
        stays = [key for key in differ if key not in moved]
        stays += self._pushed_elsewhere(settings) if not any(key[0] == "ecr" for key in stays) else []
        rules, sightings = policy_rules(settings), None
        if rules.cooldown and not self._has_sightings:
            sightings = Sightings(await house.cache.register_late("sightings"))
            self._has_sightings = True

        retired = house.upstreams.follow(settings, moved)
        house.pulls.follow(settings, _with_new_connections(moved) & set(settings.upstreams))
        house.namespace.renew(settings.names, settings.names[settings.default_upstream])
        house.policy.renew(rules, sightings)
        if house.gate is not None and rules.scan_gate is not None and not any(key[:2] == _GATE for key in stays):
            house.gate.renew(rules.scan_gate)
        if coming.credentials != self._credentials:  # what has been found right need not be found again
            house.users.renew(coming.credentials.passwords, coming.credentials.tokens)
            self._credentials = coming.credentials
        house.port.access = make_access(settings, house.users, house.port.access)
        if coming.tls is not None:
            house.registry.certify(coming.tls)
        for registry in retired:
            await registry
        await asyncio.to_thread(house.audit.reopen, settings.log.audit)

        kept = {key: value for key, value in self._running.items() if _needs_restart(key, differ)}
        self._running = kept | {key: value for key, value in coming.values.items() if not _needs_restart(key, differ)}
        self._loaded, self._error = time.time(), None
        changed, self._restart = [spelled(key) for key in moved], [spelled(key) for key in stays]
        house.audit.reload({"changed": changed, "restart": self._restart})
        log = structlog.get_logger()
        log.info("configuration reloaded", changed=changed)
        if self._restart:
            log.warning("a restart is needed for some keys; until then their old values stay", keys=self._restart)
        return {"changed": changed, "restart": self._restart}

    def _pushed_elsewhere(self, settings: Settings) -> list[Key]:
        """The ECR targets that would get the images of other upstreams, though no key of theirs has changed."""
        found: list[Key] = []
        for number, target in enumerate(self._started_with.ecr.targets):
            now, then = (_logins(each) for each in (settings, self._started_with))
            if upstreams_of(target, now) != upstreams_of(target, then):
                found.append(("ecr", "targets", number, "upstreams"))
        return found


def _needs_restart(key: Key, differ: Collection[Key]) -> bool:
    """Whether what `key` says is built in. `differ` are all keys that have changed."""
    match key:
        case ("registry", "tls", _):
            return False  # another certificate; TLS or none is another port to its clients
        case ("policy", "scan_gate"):
            return True
        case ("policy", "scan_gate", _):
            return _GATE in differ or (*_GATE, "target") in differ  # it is another target's scans that count then
        case ("upstreams" | "default_upstream" | "access" | "policy", *_) | ("log", "audit"):
            return False
        case _:
            return True


def _with_new_connections(moved: Collection[Key]) -> set[str]:
    return {str(key[1]) for key in moved if key[0] == "upstreams" and key[2:] in ((), ("connections_per_blob",))}


def _logins(settings: Settings) -> dict[str, str | None]:
    return {name: upstream.auth for name, upstream in settings.upstreams.items()}

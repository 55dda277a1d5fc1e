"""What every test may ask for: real registries, the Millpond program, and a session that leaves nothing running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.support.certificates import Authority
from tests.support.millpond import Millpond
from tests.support.programs import leaked, require
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.tokens import TokenServer
from tests.support.waiting import wait_until


class StartMillpond(Protocol):
    """Starts one more Millpond; `upstreams` is the configuration's section, `config` are the other ones."""

    def __call__(
        self, upstreams: dict[str, Any], *, env: dict[str, str] | None = None, wait: bool = True, **config: Any
    ) -> Millpond: ...


def pytest_configure() -> None:
    """Examples of properties may take their time: a busy machine stands still for longer than any bound on them."""
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio's own loop, as the program uses it."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Fail when a program that a test started outlives the session."""
    yield
    try:
        wait_until(lambda: not leaked(), "every program that a test started has ended")
    except AssertionError as error:
        raise AssertionError(f"{error}; still running: {leaked()}") from None


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def images_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests make layers; the same seed and size are the same file."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="session")
def plain_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry over http that asks for nothing."""
    yield from _running(Registry(_for_registry(tmp_path_factory)))


@pytest.fixture(scope="session")
def password_registry(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Registry]:
    """A registry over TLS that wants basic authentication: USER and PASSWORD of `tests.support.registry`."""
    yield from _running(Registry(_for_registry(tmp_path_factory), authority, passwords=True))


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """One for all tests of a module. Folders whose tests would disturb each other have another of this name."""
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="session")
def token_server(authority: Authority) -> Iterator[TokenServer]:
    """Grants pulls to all; below `private/` to USER with PASSWORD of `tests.support.registry` only."""
    server = TokenServer(authority, users={USER: PASSWORD}).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def token_registry(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, token_server: TokenServer
) -> Iterator[Registry]:
    """A registry over TLS that wants tokens of `token_server`."""
    yield from _running(Registry(_for_registry(tmp_path_factory), authority, token_server))


@pytest.fixture
def start_millpond(tmp_path: Path) -> Iterator[StartMillpond]:
    """A factory of Millponds, each with an empty cache of its own; they end with the test.

    The test fails when one of them has said something that only a defect says, such as a traceback.
    """
    started: list[Millpond] = []

    def start(
        upstreams: dict[str, Any], *, env: dict[str, str] | None = None, wait: bool = True, **config: Any
    ) -> Millpond:
        made = Millpond({"upstreams": upstreams, **config}, tmp_path / f"millpond-{len(started)}", env)
        started.append(made)
        return made.start(wait=wait)

    yield start
    for made in started:
        made.stop()
    for made in started:
        assert not made.complaints(), "\n".join(made.complaints())


def _for_registry(factory: pytest.TempPathFactory) -> Path:
    require("docker-registry")
    return factory.mktemp("registry")


def _running(registry: Registry) -> Iterator[Registry]:
    registry.start()
    yield registry
    registry.stop()
    registry.clear()  # gigabytes would stay until pytest forgets this session

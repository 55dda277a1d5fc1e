"""One Millpond for each way in which an admin port may be open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.admin.watched import UPSTREAM, Watched
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get
from tests.support.scripted import ScriptedUpstream

TOKEN: Final = "0123456789abcdef-of-the-operator"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True, slots=True)
class Port:
    """The admin port of a Millpond that runs."""

    millpond: Millpond

    def read(self, path: str = "/readyz", headers: Mapping[str, str] | None = None) -> Reply:
        return get(self.millpond.admin_url + path, headers)

    def change(self, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for a change that does nothing where there are no targets: what gets to it is answered 404."""
        body = json.dumps({"target": "prod"}).encode()
        named = {"Content-Type": "application/json", **(headers or {})}
        return get(f"{self.millpond.admin_url}/api/v1/ecr/retry", named, method="POST", content=body)

    def error(self, headers: Mapping[str, str] | None = None, status: int = 403) -> str:
        """Why a change is refused."""
        reply = self.change(headers)
        assert reply.status == status, reply.text
        return str(reply.json()["error"])

    def may_change(self, headers: Mapping[str, str] | None = None) -> bool:
        reply = self.change(headers)
        if reply.status == 404:
            assert "no ecr.targets" in reply.text
        return reply.status == 404


def _running(directory: Path, host: str, **admin: Any) -> Iterator[Port]:
    made = Millpond({}, directory)
    made.configure({"admin": {"listen": f"{host}:{made.admin_port}", **admin}})
    made.start()
    yield Port(made)
    made.stop()
    assert not made.complaints(), "\n".join(made.complaints())


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secrets") / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """Of this machine alone, without a token: the default."""
    yield from _running(tmp_path_factory.mktemp("local"), "127.0.0.1")


@pytest.fixture(scope="module")
def local_with_token(tmp_path_factory: pytest.TempPathFactory, token_file: Path) -> Iterator[Port]:
    yield from _running(tmp_path_factory.mktemp("local-token"), "127.0.0.1", token_file=str(token_file))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """Open to other machines, without a token."""
    yield from _running(tmp_path_factory.mktemp("wide"), "0.0.0.0")


@pytest.fixture(scope="module")
def wide_with_token(tmp_path_factory: pytest.TempPathFactory, token_file: Path) -> Iterator[Port]:
    yield from _running(tmp_path_factory.mktemp("wide-token"), "0.0.0.0", token_file=str(token_file))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One that pulls from a scripted upstream, for a whole module."""
    with ScriptedUpstream() as upstream:
        config = {"upstreams": {UPSTREAM: upstream.upstream()}}
        made = Millpond(config, tmp_path_factory.mktemp("watched")).start()
        yield Watched(made, upstream)
        made.stop()
    assert not made.complaints(), "\n".join(made.complaints())


@pytest.fixture(autouse=True)
def upstream_behaves(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test's script outlives it."""
    yield
    if "watched" in request.fixturenames:
        request.getfixturevalue("watched").upstream.behave()

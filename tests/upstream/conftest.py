"""What the tests of upstreams share: clients that are closed, a clock that stands still, a scripted upstream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import pytest

from proxy.oci.secret import Secret
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Timeouts
from tests.support.faults import Answer, Fault, Request
from tests.support.scripted import ScriptedUpstream

REPOSITORY = "library/busybox"
FAST = Timeouts(connect=5.0, read=1.0, pool=5.0, whole=5.0)


class Connect(Protocol):
    """Makes a client; keywords are those of Endpoint, but for `timeouts`, `observer` and `clock`."""

    def __call__(self, url: str, **settings: Any) -> Registry: ...


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Notes:
    """An observer that writes everything down."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.tokens: list[str] = []

    def request(self, upstream: str, noun: str, status: int) -> None:
        self.requests.append((noun, status))

    def token(self, upstream: str, outcome: str) -> None:
        self.tokens.append(outcome)


@pytest.fixture(autouse=True)
def no_proxy_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    made: list[Registry] = []

    def make(url: str, **settings: Any) -> Registry:
        others = {key: settings.pop(key) for key in ("timeouts", "observer", "clock") if key in settings}
        if settings.get("password") is not None:
            settings["password"] = Secret(settings["password"])
        made.append(Registry(Endpoint(**{"name": "example.test", "url": url, **settings}), **others))
        return made[-1]

    yield make
    for registry in made:
        await registry.aclose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[ScriptedUpstream]:
    """Another origin: the same address, another port."""
    with ScriptedUpstream() as running:
        yield running


def wants_token(realm: str, valid: Callable[[], str], extra: str = "") -> Fault:
    """Answers 401 to every request but those with the bearer token that `valid()` names."""

    def fault(request: Request, answer: Answer) -> Answer:
        if request.headers.get("authorization") == f"Bearer {valid()}":
            return answer
        challenge = f'Bearer realm="{realm}",service="registry of the tests"{extra}'
        return Answer(401, b"", {"WWW-Authenticate": challenge}, ranged=False)

    return fault


def token(value: str, **fields: Any) -> Answer:
    body = json.dumps({"token": value, **fields}).encode()
    return Answer(200, body, {"Content-Type": "application/json"}, ranged=False)

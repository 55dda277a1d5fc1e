"""ECR as an upstream: its password is fetched once for many, refreshed before its end, and anew when it is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy.ecr.login import REFRESH_PAUSE, SHORTEST_LIFE, Login
from proxy.ecr.session import Sessions
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, UpstreamInvalid, UpstreamUnreachable
from proxy.oci.names import Tag
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint
from tests.support import images
from tests.support import registry as real
from tests.support.ecr import REGION, EcrDouble
from tests.support.faults import Answer, Request
from tests.support.registry import PASSWORD, USER
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

HOURS = 3600.0
LATEST = Tag("latest")
CALL = "GetAuthorizationToken"


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A GetAuthorizationToken that gives `pairs`, one after the other, and then the last one for ever."""

    def __init__(self, *pairs: str) -> None:
        self.pairs = list(pairs)
        self.asked = 0
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                desk.asked += 1
                pair = desk.pairs.pop(0) if len(desk.pairs) > 1 else desk.pairs[0]
                token = base64.b64encode(pair.encode()).decode()
                entry = {"authorizationToken": token, "expiresAt": time.time() + 12 * HOURS}
                body = json.dumps({"authorizationData": [entry]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sessions(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sessions]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    made = Sessions()
    yield made
    await made.aclose()


@pytest.fixture
def login(sessions: Sessions, clock: Clock) -> Login:
    return Login(sessions.client("ecr", REGION, None, None), clock=clock)


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    started: list[Desk] = []

    def start(*pairs: str) -> Desk:
        started.append(Desk(*pairs))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Registry]]:
    """Makes a registry that logs in by a Login."""
    made: list[Registry] = []

    def make(url: str, login: Login, ca_file: Path | None = None) -> Registry:
        made.append(Registry(Endpoint("ecr.test", url, ca_file=ca_file, login=login.credentials, forget=login.forget)))
        return made[-1]

    yield make
    for registry in made:
        await registry.aclose()


async def test_fifty_callers_at_once_cause_one_fetch(login: Login, cloud: EcrDouble) -> None:
    pairs = await asyncio.gather(*(login.credentials() for _ in range(50)))
    assert set(pairs) == {("AWS", cloud.passwords[0])}
    assert cloud.count(CALL) == 1


async def test_it_is_fetched_anew_when_four_fifths_of_its_life_are_over(
    login: Login, cloud: EcrDouble, clock: Clock
) -> None:
    await login.credentials()
    clock.now += 9.5 * HOURS
    await login.credentials()
    assert cloud.count(CALL) == 1
    clock.now += 0.2 * HOURS
    pairs = await asyncio.gather(*(login.credentials() for _ in range(5)))
    assert set(pairs) == {("AWS", cloud.passwords[1])}
    assert cloud.count(CALL) == 2


async def test_the_old_one_serves_while_a_refresh_fails_which_is_tried_now_and_then(
    login: Login, cloud: EcrDouble, clock: Clock
) -> None:
    old = await login.credentials()
    clock.now += 10 * HOURS
    with cloud.unavailable():
        assert await login.credentials() == old
        assert await login.credentials() == old
        assert cloud.count(CALL) == 2
        clock.now += REFRESH_PAUSE
        assert await login.credentials() == old
        assert cloud.count(CALL) == 3
        clock.now += 2 * HOURS
        with pytest.raises(UpstreamUnreachable):
            await login.credentials()
    assert await login.credentials() != old


async def test_an_end_in_the_past_causes_no_fetch_for_every_call(login: Login, cloud: EcrDouble, clock: Clock) -> None:
    cloud.password_seconds = -10 * 365 * 24 * HOURS
    await login.credentials()
    clock.now += SHORTEST_LIFE * 0.7
    await login.credentials()
    assert cloud.count(CALL) == 1
    clock.now += SHORTEST_LIFE * 0.2
    await login.credentials()
    assert cloud.count(CALL) == 2


async def test_a_caller_that_leaves_takes_nobodys_password_along(login: Login, cloud: EcrDouble) -> None:
    stall = cloud.stall(CALL)
    leaving = asyncio.create_task(login.credentials())
    await wait_until_async(stall.reached.is_set, "the password is being fetched")
    staying = asyncio.create_task(login.credentials())
    leaving.cancel()
    stall.release()
    assert await staying == ("AWS", cloud.passwords[0])
    assert cloud.count(CALL) == 1


async def test_what_aws_refuses_is_denied_with_the_remedy(login: Login, cloud: EcrDouble) -> None:
    cloud.deny(CALL)
    with pytest.raises(Denied, match=r"GetAuthorizationToken with AccessDenied.*allow it in the policy"):
        await login.credentials()
    cloud.behave()
    assert await login.credentials()


async def test_credentials_that_are_not_to_be_found_are_an_outage_and_no_refusal(
    login: Login, cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B: what is missing is Millpond's own. A refusal would have cached tags dropped."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UpstreamUnreachable, match="no credentials for ecr in us-east-1"):
        await login.credentials()


async def test_an_answer_without_a_token_is_invalid(sessions: Sessions, desk: Callable[..., Desk]) -> None:
    login = Login(sessions.client("ecr", REGION, None, desk("x").url), public=True)  # which would be no list
    with pytest.raises(UpstreamInvalid, match="without a token"):
        await login.credentials()


async def test_ecr_public_has_a_login_of_its_own(sessions: Sessions, cloud: EcrDouble) -> None:
    login = Login(sessions.client("ecr-public", "us-east-1", None, None), public=True)
    assert await login.credentials() == ("AWS", cloud.passwords[0])


async def test_no_password_is_ever_shown(login: Login, cloud: EcrDouble) -> None:
    _, password = await login.credentials()
    endpoint = Endpoint("ecr.test", "https://reg.example", login=login.credentials, forget=login.forget)
    assert password not in repr(vars(login)) + repr(endpoint)


async def test_a_real_registry_is_pulled_from_with_one_login_for_all(
    password_registry: real.Registry,
    sessions: Sessions,
    desk: Callable[..., Desk],
    connect: Callable[..., Registry],
    images_directory: Path,
) -> None:
    image = images.simple_image(images_directory, seed=60, layers=3)
    password_registry.push(image, "team/service", "latest")
    assert password_registry.authority
    aws = desk(f"{USER}:{PASSWORD}")
    login = Login(sessions.client("ecr", REGION, None, aws.url))
    registry = connect(password_registry.url, login, password_registry.authority.ca_file)

    async def blob(digest: str) -> bytes:
        async with registry.blob("team/service", Digest(digest)) as stream:
            return b"".join([chunk async for chunk in stream.chunks])

    manifests = await asyncio.gather(*(registry.manifest("team/service", LATEST) for _ in range(10)))
    assert {manifest.digest for manifest in manifests} == {image.digest}
    blobs = image.all_blobs()
    assert await asyncio.gather(*map(blob, blobs)) == [part.read() for part in blobs.values()]
    assert aws.asked == 1


async def test_a_wrong_password_is_denied_and_the_next_pull_fetches_another(
    password_registry: real.Registry, sessions: Sessions, desk: Callable[..., Desk], connect: Callable[..., Registry]
) -> None:
    password_registry.push(images.chart(), "team/chart", "latest")
    assert password_registry.authority
    aws = desk(f"{USER}:old", f"{USER}:older", f"{USER}:{PASSWORD}")
    login = Login(sessions.client("ecr", REGION, None, aws.url))
    registry = connect(password_registry.url, login, password_registry.authority.ca_file)
    for fetches in (1, 2):  # the second pull finds the first one's refused, and what it fetches is no better
        with pytest.raises(Denied):
            await registry.manifest("team/chart", LATEST)
        assert aws.asked == fetches
    assert (await registry.manifest("team/chart", LATEST)).digest == images.chart().digest
    assert aws.asked == 3


def wants(valid: Callable[[], str]) -> Callable[[Request, Answer], Answer]:
    """Answers 401 to every request but those with this user and password."""

    def fault(request: Request, answer: Answer) -> Answer:
        if request.headers.get("authorization") == f"Basic {base64.b64encode(valid().encode()).decode()}":
            return answer
        return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="ecr",service="ecr.amazonaws.com"'}, ranged=False)

    return fault


async def test_one_that_worked_and_is_refused_is_fetched_anew_once_for_all_who_meet_it(
    cloud: EcrDouble, login: Login, connect: Callable[..., Registry]
) -> None:
    with ScriptedUpstream() as upstream:
        upstream.add(images.chart(), "team/chart", LATEST)
        upstream.script("/v2/", then=wants(lambda: f"AWS:{cloud.passwords[-1]}" if cloud.passwords else ""))
        registry = connect(upstream.url, login)
        await registry.manifest("team/chart", LATEST)
        cloud.passwords.append("revoked: the one before is valid no longer")
        pulls = await asyncio.gather(*(registry.manifest("team/chart", LATEST) for _ in range(10)))
        assert {manifest.digest for manifest in pulls} == {images.chart().digest}
        assert cloud.count(CALL) == 2


async def test_a_refresh_reaches_requests_without_another_challenge(
    cloud: EcrDouble, login: Login, clock: Clock, connect: Callable[..., Registry]
) -> None:
    with ScriptedUpstream() as upstream:
        upstream.add(images.chart(), "team/chart", LATEST)
        upstream.script("/v2/", then=wants(lambda: f"AWS:{cloud.passwords[-1]}" if cloud.passwords else ""))
        registry = connect(upstream.url, login)
        await registry.manifest("team/chart", LATEST)
        clock.now += 10 * HOURS
        before = len(upstream.requests)
        await registry.manifest("team/chart", LATEST)
        assert len(cloud.passwords) == 2
        assert len(upstream.requests) == before + 1


async def test_a_token_server_that_refuses_the_login_gets_another_one_once(
    cloud: EcrDouble, sessions: Sessions, connect: Callable[..., Registry]
) -> None:
    login = Login(sessions.client("ecr-public", "us-east-1", None, None), public=True)
    with ScriptedUpstream() as upstream:
        accepted = wants(lambda: f"AWS:{cloud.passwords[1]}" if len(cloud.passwords) > 1 else "nobody")
        upstream.add(images.chart(), "team/chart", LATEST)
        upstream.serve("/token", Answer(200, b'{"token": "t"}', {"Content-Type": "application/json"}, ranged=False))
        upstream.script("/token", then=accepted)

        def guard(request: Request, answer: Answer) -> Answer:
            if request.headers.get("authorization") == "Bearer t":
                return answer
            return Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{upstream.url}/token"'}, ranged=False)

        upstream.script("/v2/", then=guard)
        registry = connect(upstream.url, login)
        assert (await registry.manifest("team/chart", LATEST)).digest == images.chart().digest
        assert len(cloud.passwords) == 2
        cloud.passwords[1] = "revoked"
        other = connect(upstream.url, login)
        with pytest.raises(Denied):
            await other.manifest("team/chart", LATEST)
        assert len(cloud.passwords) == 3

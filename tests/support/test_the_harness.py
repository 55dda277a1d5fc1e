"""What the tests count and measure with is right: the relay, the token server, the images."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.support import images
from tests.support.certificates import Authority
from tests.support.faults import Gate, change
from tests.support.pulls import get, opened, pull
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.relay import CountingRelay, Rate
from tests.support.scripted import ScriptedUpstream
from tests.support.tokens import SERVICE, TokenServer

SIZE = 4_000_000
CONTENT = b"".join(images.noise(SIZE, 2))


def test_a_relay_counts_what_passes() -> None:
    with ScriptedUpstream() as upstream:
        digest = upstream.add_blob("library/x", CONTENT)
        relay = CountingRelay(upstream.port).start()
        for _ in range(2):
            assert get(f"http://127.0.0.1:{relay.port}/v2/library/x/blobs/{digest}").body == CONTENT
        assert 2 * SIZE < relay.down < 2 * SIZE + 2000
        assert len(relay.connections) == 2
        relay.stop()


def test_a_rate_is_shared_and_never_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = 100.0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, waited
        now += seconds
        waited += seconds

    monkeypatch.setattr("tests.support.relay.time.monotonic", lambda: now)
    monkeypatch.setattr("tests.support.relay.time.sleep", sleep)
    rate = Rate(1_000_000)
    for _ in range(100):
        rate.spend(10_000)
    assert waited == pytest.approx(1, abs=0.02)


def test_a_relay_breaks_what_is_open() -> None:
    with ScriptedUpstream() as upstream:
        digest, gate = upstream.add_blob("library/x", CONTENT), Gate()
        upstream.script(digest, change(gates={1000: gate}))
        relay = CountingRelay(upstream.port).start()
        with opened(f"http://127.0.0.1:{relay.port}/v2/library/x/blobs/{digest}") as download:
            assert len(download.read(1000)) == 1000
            assert relay.break_connections() == 1
            assert download.read(1) == b""
        relay.stop()


def test_the_token_server_grants_private_pulls_to_known_users_only(authority: Authority) -> None:
    server = TokenServer(authority, users={USER: PASSWORD}).start()
    url = f"{server.url}?service={SERVICE.replace(' ', '%20')}&scope=repository:private/x:pull"

    def granted(password: str | None) -> tuple[int, list[str]]:
        basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"} if password else {}
        reply = get(url, headers, ca=authority.client_context())
        if reply.status != 200:
            return reply.status, []
        claims = reply.json()["token"].split(".")[1]
        access = json.loads(base64.urlsafe_b64decode(claims + "=="))["access"]
        return reply.status, [entry["name"] for entry in access]

    assert granted(None) == (200, [])
    assert granted("wrong") == (401, [])
    assert granted(PASSWORD) == (200, ["private/x"])
    assert [request.user for request in server.requests] == [None, USER, USER]
    assert server.requests[0].service == SERVICE
    server.stop()


def test_a_registry_with_tokens_refuses_who_has_none(token_registry: Registry, authority: Authority) -> None:
    token_registry.push(images.chart(), "private/chart", "1")
    reply = get(f"{token_registry.url}/v2/private/chart/manifests/1", ca=authority.client_context())
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer realm=")


def test_a_registry_keeps_its_content_when_it_is_killed(plain_registry: Registry) -> None:
    chart = images.chart(seed=99)
    plain_registry.push(chart, "charts/kept", "1")
    with plain_registry.down(), pytest.raises(ConnectionError):
        get(f"{plain_registry.url}/v2/")
    pull(f"{plain_registry.url}/v2/charts/kept", chart, "1")


def test_the_same_seed_makes_the_same_image(tmp_path: Path) -> None:
    first = images.simple_image(tmp_path / "a", seed=1, layers=2)
    again = images.simple_image(tmp_path / "b", seed=1, layers=2)
    other = images.simple_image(tmp_path / "c", seed=2, layers=2)
    assert first.digest == again.digest != other.digest
    assert first.blobs[1].read() == again.blobs[1].read()

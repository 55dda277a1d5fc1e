"""How many blobs one client may pull at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.conftest import StartMillpond
from tests.edge.access import ask_from, message
from tests.support.faults import Gate, change
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, head, opened
from tests.support.scripted import ScriptedUpstream

CONTENT = bytes(range(256)) * 1024


class Pond:
    """A Millpond and six blobs; upstream holds back the first two until `release`."""

    def __init__(self, millpond: Millpond, upstream: ScriptedUpstream) -> None:
        self.millpond = millpond
        self.digests = [upstream.add_blob("library/x", CONTENT + bytes([number])) for number in range(6)]
        self.gates = [Gate(), Gate()]
        for digest, gate in zip(self.digests, self.gates, strict=False):
            upstream.script(digest, then=change(gates={1000: gate}))

    def path(self, number: int) -> str:
        return f"/v2/library/x/blobs/{self.digests[number]}"

    def held_up(self, pool: ThreadPoolExecutor, count: int = 2) -> list[Future[Reply]]:
        """So many pulls that do not end, under way."""
        pulls = [pool.submit(get, self.millpond.url + self.path(number)) for number in range(count)]
        for gate in self.gates[:count]:
            assert gate.reached.wait(20)
        return pulls

    def release(self) -> None:
        for gate in self.gates:
            gate.open()


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


def test_a_further_pull_waits_for_its_turn(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    pond = Pond(
        start_millpond({"docker.io": upstream.upstream()}, access={"max_pulls": 2, "max_wait": "60s"}), upstream
    )
    url = pond.millpond.url
    with ThreadPoolExecutor(8) as pool:
        running = pond.held_up(pool)
        try:
            waiting = [pool.submit(get, url + pond.path(number)) for number in (2, 3, 4)]
            # Neither the size of a blob nor what is no blob has to wait, nor has another client.
            assert head(url + pond.path(5)).status == 200
            assert get(f"{url}/v2/").status == 200
            assert ask_from(pond.millpond, "127.0.0.2", pond.path(5)).status == 200
            assert not any(future.done() for future in waiting)
            assert not upstream.seen(pond.digests[2])
        finally:
            pond.release()
        assert [future.result().status for future in running + waiting] == [200] * 5
    # Every turn has been given back.
    assert [get(url + pond.path(number)).status for number in range(6)] == [200] * 6


def test_whoever_has_waited_too_long_is_told_to_come_back(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """H."""
    pond = Pond(
        start_millpond({"docker.io": upstream.upstream()}, access={"max_pulls": 2, "max_wait": "500ms"}), upstream
    )
    with ThreadPoolExecutor(8) as pool:
        running = pond.held_up(pool)
        try:
            reply = get(pond.millpond.url + pond.path(2))
            assert (reply.status, reply.error_code) == (429, "TOOMANYREQUESTS")
            assert int(reply.headers["retry-after"]) >= 1
            assert "2 pulls of this client run already" in message(reply)
            assert "access.max_pulls" in message(reply)
        finally:
            pond.release()
        assert [future.result().status for future in running] == [200] * 2
    assert get(pond.millpond.url + pond.path(2)).status == 200


def test_a_turn_is_given_back_when_the_client_leaves_and_when_the_blob_is_none(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """H."""
    pond = Pond(
        start_millpond({"docker.io": upstream.upstream()}, access={"max_pulls": 1, "max_wait": "20s"}), upstream
    )
    url = pond.millpond.url
    for _ in range(3):
        assert get(f"{url}/v2/library/x/blobs/sha256:{'0' * 64}").status == 404
        assert get(f"{url}/v2/library/x/blobs/sha256:0").status == 400
    large = upstream.add_blob("library/x", CONTENT * 64)
    with opened(f"{url}/v2/library/x/blobs/{large}") as download:
        assert download.read(1) == CONTENT[:1]
    assert get(url + pond.path(2)).status == 200

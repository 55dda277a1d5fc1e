"""Many clients of one cold blob, and those that leave or dawdle: one fetch, and nobody disturbs another."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartMillpond
from tests.faults.conftest import (
    LARGE,
    MIB,
    SMALL,
    UPSTREAM,
    Cold,
    MakeCold,
    await_gate,
    cold_blob,
    fetched,
    hurried,
    result,
)
from tests.support.faults import BEFORE_HEADERS, Answer, Fault, Gate, Request, change, corrupt, cut, refuse
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, opened
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import DEADLINE, wait_until

MANY: Final = 100


def joins(millpond: Millpond) -> float:
    return millpond.metric("millpond_flight_joins_total")


def many(cold: Cold, clients: ThreadPoolExecutor, gate: Gate) -> list[Future[Reply]]:
    """A hundred clients who all wait for one fetch, which `gate` holds back."""
    before, already = joins(cold.millpond), fetched(cold.millpond)
    asked = [clients.submit(cold.get, keep=False) for _ in range(MANY)]
    await_gate(gate)
    wait_until(lambda: joins(cold.millpond) == before + MANY - 1, "all clients but the first have joined")
    wait_until(lambda: fetched(cold.millpond) == already + cold.sent, "Millpond has all that was sent")
    return asked


# Row 15


def test_a_client_that_leaves_does_not_take_the_flight_along(cold: Cold) -> None:
    """Row 15, K A: upstream goes on sending to nobody, and the next client hits."""
    gate = Gate()
    cold.script(change(gates={cold.size // 2: gate}))
    with opened(cold.url) as leaving:
        assert len(leaving.read(cold.size // 100)) == cold.size // 100
    gate.open()
    cold.assert_kept()
    wait_until(lambda: cold.millpond.log_lines(item=cold.digest, outcome="client left"), "Millpond knows that it left")
    following = cold.get(keep=False)
    cold.assert_whole(following)
    assert following.headers["x-millpond"] == "hit"
    cold.assert_asked(None)
    assert cold.millpond.incoming() == []


def test_whoever_comes_after_a_client_that_left_joins_its_flight(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 15, K H: while it is still under way."""
    gate, before = Gate(), joins(cold.millpond)
    cold.script(change(gates={cold.size // 2: gate}))
    with opened(cold.url) as leaving:
        leaving.read(cold.size // 100)
    following = clients.submit(cold.get)
    wait_until(lambda: joins(cold.millpond) == before + 1, "the next client has joined")
    gate.open()
    cold.assert_whole(result(following))
    assert result(following).headers["x-millpond"] == "joined"
    cold.assert_asked(None)


def test_a_client_that_leaves_before_the_answer_begins_leaves_the_flight_too(make_cold: MakeCold) -> None:
    """Row 15, K A: upstream has not even sent its status line."""
    cold, gate = make_cold(SMALL), Gate()
    cold.script(change(gates={BEFORE_HEADERS: gate}))
    with socket.create_connection(("127.0.0.1", cold.millpond.port), timeout=DEADLINE) as leaving:
        leaving.sendall(request_for(cold))
        await_gate(gate)
    gate.open()
    cold.assert_kept()
    assert cold.get().headers["x-millpond"] == "hit"
    assert cold.ranges == [None]


# Row 16


class Dawdler:
    """A client with a tiny window that takes what it is told to, and not a byte more."""

    def __init__(self, cold: Cold) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(("127.0.0.1", cold.millpond.port))
        self._socket.sendall(request_for(cold))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(1)
        self.head = head.decode().lower()
        self.received = 0
        self.hasher = hashlib.sha256()

    def take(self, size: int) -> None:
        """Exactly `size` bytes, or fewer where the connection ends."""
        while size and (part := self._socket.recv(min(size, MIB))):
            size -= len(part)
            self.received += len(part)
            self.hasher.update(part)

    def close(self) -> None:
        self._socket.close()


def request_for(cold: Cold) -> bytes:
    path = cold.url.removeprefix(cold.millpond.url)
    return f"GET {path} HTTP/1.1\r\nHost: {cold.millpond.host}\r\n\r\n".encode()


def test_a_client_that_dawdles_delays_neither_the_flight_nor_anybody_else(make_cold: MakeCold) -> None:
    """Row 16, H A: a kilobyte at a time beside one that takes all; memory stays where it was."""
    cold = make_cold(128 * MIB)
    with contextlib.closing(Dawdler(cold)) as dawdler:
        dawdler.take(1024)
        before = cold.millpond.rss()
        fast = cold.get(keep=False)
        cold.assert_whole(fast)
        assert fast.headers["x-millpond"] == "joined"
        dawdler.take(1024)
        cold.await_landing()
        assert cold.millpond.peak_rss() - before < 32 * MIB  # a quarter of what the dawdler has not taken
        cold.assert_asked(None)
        assert dawdler.received == 2048
        dawdler.take(cold.size - dawdler.received)
        assert f"sha256:{dawdler.hasher.hexdigest()}" == cold.digest


def test_a_client_that_takes_nothing_is_let_go_and_the_flight_lands(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Row 16, H K: the write deadline."""
    millpond = start_millpond({UPSTREAM: upstream.upstream()}, registry={"write_timeout": "1s"})
    cold = cold_blob(upstream, millpond, 16 * MIB)
    with contextlib.closing(Dawdler(cold)) as dawdler:
        dawdler.take(1024)
        wait_until(lambda: millpond.log_lines(item=cold.digest, outcome="client left"), "the client is let go")
        with contextlib.suppress(ConnectionResetError):
            dawdler.take(cold.size)
        assert dawdler.received < cold.size
    cold.assert_kept()
    assert cold.get(keep=False).headers["x-millpond"] == "hit"


# Row 17


def test_a_hundred_clients_of_a_cold_blob_cost_upstream_one_get(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 17, H W: each byte comes once, and everybody has all of them."""
    gate = Gate()
    cold.script(change(gates={cold.size // 2: gate}))
    asked = many(cold, clients, gate)
    gate.open()
    replies = [result(reply) for reply in asked]
    for reply in replies:
        cold.assert_whole(reply)
    origins = [reply.headers["x-millpond"] for reply in replies]
    assert (origins.count("upstream"), origins.count("joined")) == (1, MANY - 1)
    cold.assert_asked(None)
    cold.assert_kept()


def test_a_hundred_clients_go_through_a_break_together(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 17, H W: the resumption too is one for all."""
    gate, half = Gate(), cold.size // 2
    cold.script(change(cut_at=half, ending="close", gates={half: gate}))
    asked = many(cold, clients, gate)
    gate.open()
    for reply in asked:
        cold.assert_whole(result(reply))
    cold.assert_asked(None, f"bytes={half}-")


def corrupt_behind(gate: Gate) -> Fault:
    def fault(request: Request, answer: Answer) -> Answer:
        return replace(corrupt(-1)(request, answer), gates={len(answer.body) // 2: gate})

    return fault


def refused_behind(gate: Gate) -> Fault:
    def fault(request: Request, answer: Answer) -> Answer:
        return replace(refuse(404)(request, answer), gates={BEFORE_HEADERS: gate})

    return fault


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        (refused_behind, None, 404),
        (lambda gate: change(gates={0: gate}, cut_at=0, ending="reset"), cut(0), 502),
        (corrupt_behind, None, 200),
        (lambda gate: change(gates={LARGE // 2: gate}, cut_at=LARGE // 2, ending="reset"), cut(0), 200),
    ],
    ids=["refused", "never begins", "wrong bytes", "breaks for good"],
)
def test_a_failure_is_told_to_all_hundred(
    cold: Cold, clients: ThreadPoolExecutor, first: Any, then: Fault | None, status: int
) -> None:
    """Row 17, H W: by a status while that is possible, else by the connection; within a deadline; then it is over."""
    gate = Gate()
    cold.script(first(gate), then=then)
    asked = many(cold, clients, gate)
    gate.open()
    replies = [result(reply) for reply in asked]
    assert {(reply.status, reply.complete) for reply in replies} == {(status, status != 200)}
    assert len(cold.ranges) <= 8
    cold.assert_nothing_kept()
    if status != 404:  # which stands for a few seconds
        cold.assert_recovers()


def test_an_upstream_that_goes_away_for_good_is_told_to_all_hundred(
    start_millpond: StartMillpond, clients: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Row 17, H W: nobody hangs on a connection that will not come back."""
    with ScriptedUpstream() as upstream:
        millpond = start_millpond({UPSTREAM: upstream.upstream()}, env=hurried(tmp_path / "site"))
        cold, gate = cold_blob(upstream, millpond), Gate()
        cold.script(change(gates={cold.size // 2: gate}))
        asked = many(cold, clients, gate)
        upstream.stop()
        for reply in asked:
            assert (result(reply).status, result(reply).complete) == (200, False)
        cold.assert_nothing_kept()
        upstream.start()
        upstream.behave()
        wait_until(lambda: cold.get(keep=False).digest == cold.digest, "the breaker lets it be pulled again")


@pytest.fixture(autouse=True)
def no_file_is_left_open(millpond: Millpond) -> Iterator[None]:
    """Every flight closes its file, however its followers ended."""
    before = open_blobs(millpond)
    yield
    wait_until(lambda: open_blobs(millpond) <= before, "all blob files are closed")


def open_blobs(millpond: Millpond) -> int:
    """Files of the cache that the program has open."""
    count = 0
    for entry in Path(f"/proc/{millpond.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += any(part in str(entry.readlink()) for part in ("/incoming/", "/blobs/"))
    return count

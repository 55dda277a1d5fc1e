"""A large blob over several connections: faster where upstream bears it, and never less right."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.faults.conftest import MIB, UPSTREAM, Cold, await_gate, cold_blob, result, unverified
from tests.support.faults import Answer, Fault, Gate, Request, change, corrupt, refuse
from tests.support.millpond import Millpond
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

SIZE: Final = 64 * MIB
STRETCH: Final = 8 * MIB  # what one request asks for, of a blob of this size


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cold]:
    """A large blob whose size is known from a manifest, and a Millpond that knows no harm of its upstream."""
    with ScriptedUpstream() as upstream:
        millpond = Millpond({"upstreams": {UPSTREAM: upstream.upstream()}}, tmp_path).start()
        cold = cold_blob(upstream, millpond, SIZE)
        cold.learn_size()
        yield cold
        millpond.stop()


def stretch(number: int) -> str:
    return f"bytes={number * STRETCH}-{(number + 1) * STRETCH - 1}"


def at_range(wanted: str, fault: Fault) -> Fault:
    """`fault` for requests with this Range, the usual answer for all others."""
    return lambda request, answer: fault(request, answer) if request.headers.get("range") == wanted else answer


def held_at_first(gate: Gate) -> Fault:
    """The first stretch stops after a MiB until the gate opens; the others come as they are asked for."""
    return at_range(stretch(0), change(gates={MIB: gate}))


def next_blob(cold: Cold) -> Cold:
    """Another large blob of the same upstream."""
    other = cold_blob(cold.upstream, cold.millpond, SIZE)
    other.learn_size()
    return other


def test_other_connections_go_on_while_one_is_slow_and_each_byte_comes_once(
    fresh: Cold, clients: ThreadPoolExecutor
) -> None:
    """W: with the front held back all the rest arrives; the client gets it in order, upstream sends it once."""
    gate = Gate()
    fresh.script(then=held_at_first(gate))
    reply = clients.submit(fresh.get, keep=False)
    await_gate(gate)
    wait_until(lambda: fresh.sent == SIZE - STRETCH + MIB, "everything but the held part has been sent")
    assert not reply.done()
    gate.open()
    fresh.assert_whole(result(reply))
    fresh.assert_kept()
    assert sorted(fresh.ranges, key=str) == sorted((stretch(number) for number in range(8)), key=str)
    assert fresh.sent == SIZE


def test_what_a_client_waits_for_is_fetched_before_the_rest(fresh: Cold, clients: ThreadPoolExecutor) -> None:
    """W H: a range far behind the front is answered while the front is held and nothing between has been asked for."""
    gate, others = Gate(), Gate()
    far = 41 * MIB
    fresh.script(
        then=lambda request, answer: (
            answer
            if request.headers.get("range", "").startswith(f"bytes={far}-")
            else change(gates={0: gate if request.headers.get("range") == stretch(0) else others})(request, answer)
        )
    )
    whole = clients.submit(fresh.get, keep=False)
    await_gate(gate)
    part = fresh.get_range(f"{far}-{far + 999}")
    assert (part.status, part.body) == (206, fresh.content[far : far + 1000])
    assert not whole.done()
    gate.open()
    others.open()
    fresh.assert_whole(result(whole))
    assert fresh.sent == SIZE


def test_an_upstream_that_ignores_ranges_sends_the_blob_once_and_is_not_asked_for_ranges_again(fresh: Cold) -> None:
    """W: its first answer is taken as the whole that it is."""
    fresh.script(then=change(ranged=False))
    fresh.assert_whole(fresh.get(keep=False))
    assert (fresh.ranges, fresh.sent) == ([stretch(0)], SIZE)
    other = next_blob(fresh)
    other.assert_whole(other.get(keep=False))
    assert other.ranges == [None]


def test_an_upstream_that_lies_about_ranges_is_asked_for_the_whole(fresh: Cold) -> None:
    """W P: a Content-Range that was not asked for is not believed."""

    def lie(request: Request, answer: Answer) -> Answer:
        if "range" not in request.headers:
            return answer
        headers = {**answer.headers, "Content-Range": f"bytes 5-{STRETCH + 4}/{SIZE}"}
        return Answer(206, fresh.content[:STRETCH], headers, ranged=False)

    fresh.script(then=lie)
    fresh.assert_whole(fresh.get(keep=False))
    assert fresh.ranges == [stretch(0), None]
    fresh.assert_kept()


@pytest.mark.parametrize("status", [403, 429, 503])
def test_an_upstream_that_refuses_more_connections_is_served_by_one(
    fresh: Cold, clients: ThreadPoolExecutor, status: int
) -> None:
    """H: what the refused ones would have brought is left to the first, and the next blob begins with one."""
    gate, busy = Gate(), threading.Event()
    busy.set()

    def one_at_a_time(request: Request, answer: Answer) -> Answer:
        if request.headers.get("range") == stretch(0):
            return change(gates={MIB: gate})(request, answer)
        return refuse(status, retry_after="1")(request, answer) if busy.is_set() else answer

    fresh.script(then=one_at_a_time)
    reply = clients.submit(fresh.get, keep=False)
    await_gate(gate)
    wait_until(
        lambda: fresh.millpond.log_lines(event="one connection a blob from now on"), "the refusal has been understood"
    )
    busy.clear()
    gate.open()
    fresh.assert_whole(result(reply))
    fresh.assert_kept()
    other = next_blob(fresh)
    other.assert_whole(other.get(keep=False))
    assert other.ranges == [None]


def test_wrong_bytes_in_one_stretch_reach_nobody_as_a_whole(fresh: Cold) -> None:
    """W P: nothing is kept, and the next fetch is one plain download, in case the ranges were to blame."""
    before = unverified(fresh.millpond)
    fresh.script(then=at_range(stretch(7), corrupt(SIZE - STRETCH + 5)))
    reply = fresh.get(keep=False)
    assert (reply.status, reply.complete) == (200, False)
    assert reply.size < SIZE
    fresh.assert_nothing_kept()
    assert unverified(fresh.millpond) == before + 1
    fresh.upstream.behave()
    fresh.assert_whole(fresh.get(keep=False))
    assert fresh.ranges[-1] is None


def test_one_connection_is_used_when_that_is_configured(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        config = {"upstreams": {UPSTREAM: upstream.upstream(connections_per_blob=1)}}
        millpond = Millpond(config, tmp_path).start()
        cold = cold_blob(upstream, millpond, SIZE)
        cold.learn_size()
        cold.assert_whole(cold.get(keep=False))
        assert cold.ranges == [None]
        millpond.stop()

"""Bodies that break off, stall, or do not end where they should: resumed where they stopped, or given up cleanly."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Literal

import pytest

from tests.conftest import StartMillpond
from tests.faults.conftest import (
    LARGE,
    MIB,
    SMALL,
    UPSTREAM,
    Break,
    Cold,
    MakeCold,
    await_gate,
    cold_blob,
    get_through,
    hurried,
    result,
)
from tests.support.faults import BEFORE_HEADERS, Answer, Fault, Gate, Request, change, cut, refuse, stall
from tests.support.millpond import Millpond
from tests.support.scripted import ScriptedUpstream

Ending = Literal["reset", "close"]
Framing = Literal["length", "chunked", "close"]

HALF: Final = LARGE // 2
AT_ONCE: Final = 20.0  # seconds: less than read_timeout's 30, with which a body ends whose length is not looked at
TRIES: Final = 8  # connections in a row that bring next to nothing


def ends_early(at: int, framing: Framing) -> Fault:
    """Content that has only `at` bytes and ends as if that was all, with its length said nowhere."""

    def fault(_: Request, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[:at], framing=framing)

    return fault


def runs_on(by: int, framing: Framing) -> Fault:
    """The right content, and `by` bytes more behind it."""

    def fault(_: Request, answer: Answer) -> Answer:
        return replace(answer, body=answer.body + bytes(by), framing=framing)

    return fault


# Row 1


@pytest.mark.parametrize("ending", ["reset", "close"])
@pytest.mark.parametrize("at", [0, 1, HALF, LARGE - 1])
def test_a_download_that_is_cut_goes_on_at_the_byte_where_it_stopped(
    cold: Cold, clients: ThreadPoolExecutor, at: int, ending: Ending
) -> None:
    """Row 1, W P H."""
    broken = Break(cold, at, ending)
    cold.script(broken.fault)
    cold.assert_whole(get_through(broken, cold, clients))
    cold.assert_asked(None, f"bytes={at}-" if at else None)
    cold.assert_kept()


def test_a_download_that_is_cut_every_megabyte_still_arrives(make_cold: MakeCold, clients: ThreadPoolExecutor) -> None:
    """Row 1, W H: connections that bring something do not count as tries that failed."""
    cold = make_cold(2 * TRIES * MIB)
    before = cold.millpond.metric("millpond_flight_resumes_total")
    breaks = [Break(cold, MIB, "close") for _ in range(2 * TRIES - 1)]
    cold.script(*[broken.fault for broken in breaks])
    client = clients.submit(cold.get)
    for number, broken in enumerate(breaks):
        broken.happen(number * MIB)
    cold.assert_whole(result(client))
    assert cold.ranges == [None, *(f"bytes={number * MIB}-" for number in range(1, 2 * TRIES))]
    assert cold.millpond.metric("millpond_flight_resumes_total") == before + len(breaks)


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_an_upstream_that_breaks_for_good_costs_the_client_its_connection(
    cold: Cold, clients: ThreadPoolExecutor, ending: Ending
) -> None:
    """Row 1, W P H."""
    broken = Break(cold, HALF, ending)
    cold.script(broken.fault, then=cut(0, ending))
    cold.assert_broken_off(get_through(broken, cold, clients))
    assert len(cold.ranges) == TRIES
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_an_upstream_that_breaks_before_the_first_byte_is_told_with_a_status(make_cold: MakeCold) -> None:
    """Row 1, H: nothing has been sent, so the client can still turn to another mirror."""
    cold = make_cold()
    cold.script(then=cut(0))
    cold.assert_refused(cold.get())
    assert len(cold.ranges) == TRIES
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_resumption_that_is_answered_from_the_start_is_not_appended(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 1, W P: an upstream may ignore Range."""
    broken = Break(cold, HALF)
    cold.script(broken.fault, change(ranged=False))
    cold.assert_whole(get_through(broken, cold, clients))
    assert cold.ranges == [None, f"bytes={HALF}-"]


def test_a_resumption_that_is_answered_with_another_range_is_not_taken(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 1, W P: 206 from another byte would be corruption without a sign."""
    other = Answer(206, cold.content[:1000], {"Content-Range": f"bytes 0-999/{cold.size}"}, ranged=False)
    broken = Break(cold, HALF)
    cold.script(broken.fault, lambda *_: other)
    cold.assert_broken_off(get_through(broken, cold, clients))
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_blob_that_is_another_one_when_resumed_is_given_up(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 1, W P: the size in Content-Range differs."""
    rest = cold.content[HALF:] + b"more"
    headers = {"Content-Range": f"bytes {HALF}-{cold.size + 3}/{cold.size + 4}"}
    broken = Break(cold, HALF)
    cold.script(broken.fault, lambda *_: Answer(206, rest, headers, ranged=False))
    cold.assert_broken_off(get_through(broken, cold, clients))
    cold.assert_nothing_kept()


def test_a_resumption_that_is_limited_waits_as_long_as_upstream_says(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, clients: ThreadPoolExecutor
) -> None:
    """Rows 1 and 9, W H: one refusal is one wait; asking sooner would be refused again."""
    cold = cold_blob(upstream, start_millpond({UPSTREAM: upstream.upstream()}))
    broken = Break(cold, HALF)
    cold.script(broken.fault, refuse(429, retry_after="1"))
    cold.assert_whole(get_through(broken, cold, clients))
    assert cold.ranges == [None, f"bytes={HALF}-", f"bytes={HALF}-"]


# Row 2


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("known", [True, False], ids=["descriptor", "no descriptor"])
def test_a_clean_early_end_without_a_length_is_not_the_end(cold: Cold, framing: Framing, *, known: bool) -> None:
    """Row 2, W P: the length is the descriptor's, or what HEAD says."""
    if known:
        cold.learn_size()
    cold.script(then=ends_early(HALF, framing))
    reply = cold.get()
    cold.assert_broken_off(reply)
    assert len(cold.ranges) <= TRIES
    cold.assert_nothing_kept()
    cold.assert_recovers()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_clean_early_end_of_a_small_blob_is_told_with_a_status(make_cold: MakeCold, framing: Framing) -> None:
    """Row 2, W P H."""
    cold = make_cold(SMALL)
    cold.script(then=ends_early(SMALL // 2, framing))
    cold.assert_refused(cold.get())
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_an_early_end_that_happens_once_is_made_good(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 2, W: the next connection brings the rest."""
    broken = Break(cold, HALF, framing="close")
    cold.script(broken.fault)
    cold.assert_whole(get_through(broken, cold, clients))
    assert cold.ranges == [None, f"bytes={HALF}-"]


# Row 5


def test_one_byte_more_than_the_descriptor_says_is_refused(make_cold: MakeCold) -> None:
    """Row 5, W P A: before the status line, for upstream says so in its Content-Length."""
    cold = make_cold()
    cold.learn_size()
    cold.script(runs_on(1, "length"))
    cold.assert_refused(cold.get())
    cold.assert_nothing_kept()
    cold.assert_recovers()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_bytes_beyond_the_size_are_not_passed_on(make_cold: MakeCold, framing: Framing) -> None:
    """Row 5, W P A: upstream did not say how much it would send."""
    cold = make_cold(SMALL)
    cold.script(runs_on(1, framing))
    cold.assert_refused(cold.get())
    cold.assert_nothing_kept()
    cold.assert_recovers()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_an_upstream_that_never_stops_sending_is_hung_up_on(make_cold: MakeCold, framing: Framing) -> None:
    """Row 5, A H: neither disk nor memory takes what nobody asked for."""
    cold = make_cold()
    endless = 200 * MIB
    other = bytes(cold.size)  # so that where a read happens to end cannot make it right
    cold.script(change(body=other + bytes(endless), framing=framing))
    assert not cold.get().complete
    cold.await_landing()
    assert cold.sent < endless // 2
    cold.assert_nothing_kept()


# Row 7


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_body_is_whole_at_its_length_though_the_connection_stays_open(
    cold: Cold, clients: ThreadPoolExecutor, framing: Framing
) -> None:
    """Row 7, K H: commit does not wait for the end of the connection, nor for the last chunk."""
    open_end = Gate()
    cold.script(change(framing=framing, gates={cold.size: open_end}))
    try:
        client = clients.submit(cold.get)
        await_gate(open_end)
        cold.assert_whole(client.result(AT_ONCE))
        cold.assert_kept()
        assert cold.get().headers["x-millpond"] == "hit"
    finally:
        open_end.open()


# Row 8


@pytest.fixture(scope="module")
def impatient(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    """One that waits a second for upstream's next byte."""
    directory = tmp_path_factory.mktemp("impatient")
    config = {"upstreams": {UPSTREAM: upstream.upstream(read_timeout=1)}}
    made = Millpond(config, directory, hurried(directory / "site")).start()
    yield made
    made.stop()


@pytest.mark.parametrize("at", [0, HALF, LARGE - 1])
def test_an_upstream_that_stalls_is_left_and_the_download_goes_on(
    upstream: ScriptedUpstream, impatient: Millpond, at: int
) -> None:
    """Row 8, H."""
    cold = cold_blob(upstream, impatient)
    cold.script(stall(at))
    cold.assert_whole(cold.get())
    cold.assert_asked(None, f"bytes={at}-" if at else None)


def test_an_upstream_that_stalls_for_good_costs_the_client_its_connection(
    upstream: ScriptedUpstream, impatient: Millpond
) -> None:
    """Row 8, W H."""
    cold = cold_blob(upstream, impatient)
    cold.script(stall(HALF), then=stall(0))
    cold.assert_broken_off(cold.get())
    assert len(cold.ranges) == TRIES
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_an_upstream_that_never_answers_is_a_timeout(upstream: ScriptedUpstream, impatient: Millpond) -> None:
    """Row 8, H: 504, once, within the read deadline."""
    cold = cold_blob(upstream, impatient)
    cold.script(then=change(gates={BEFORE_HEADERS: Gate()}))
    cold.assert_refused(cold.get(), 504)
    assert len(cold.ranges) == 1
    cold.assert_recovers()

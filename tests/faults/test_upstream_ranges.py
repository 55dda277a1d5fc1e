"""Ranges and HEAD of blobs that are not here yet, or only in part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Final

import pytest

from tests.conftest import StartMillpond
from tests.faults.conftest import MIB, UPSTREAM, Cold, MakeCold, await_gate, cold_blob, fetched, result
from tests.support.faults import Gate, change, corrupt, refuse
from tests.support.pulls import Reply, get, opened
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

AT_ONCE: Final = 20.0  # seconds: less than read_timeout's 30, after which upstream is asked anew and sends the rest
SIZE: Final = 8 * MIB  # of a blob whose first part is here and whose rest is held back
STALL: Final = 3 * MIB
SPEC_SIZE: Final = 4000  # as in the conformance suite's table of ranges
WARMTH: Final = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


def assert_part(cold: Cold, reply: Reply, start: int, stop: int) -> None:
    """A 206 with exactly the bytes from `start` up to and not including `stop`."""
    assert (reply.status, reply.complete) == (206, True), reply
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{cold.size}"
    assert reply.headers["content-length"] == str(stop - start)
    assert reply.headers["docker-content-digest"] == cold.digest
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.body == cold.content[start:stop]


@pytest.fixture
def stalled(make_cold: MakeCold) -> Iterator[tuple[Cold, Gate]]:
    """A blob of which upstream sends STALL bytes; the rest waits for the gate."""
    cold, gate = make_cold(SIZE), Gate()
    cold.script(change(gates={STALL: gate}))
    yield cold, gate
    gate.open()


# Row 18


def test_a_range_is_answered_as_soon_as_its_bytes_are_here(
    stalled: tuple[Cold, Gate], clients: ThreadPoolExecutor
) -> None:
    """Row 18, W H: sixteen at once, the last bytes of the part that is here among them, and one flight for all."""
    cold, gate = stalled
    step = STALL // 16
    early = [clients.submit(cold.get_range, f"{n * step}-{(n + 1) * step - 1}") for n in range(16)]
    await_gate(gate)
    for number, reply in enumerate(early):
        assert_part(cold, result(reply), number * step, (number + 1) * step)
    assert_part(cold, cold.get_range(f"{STALL - 1}-{STALL - 1}"), STALL - 1, STALL)
    cold.assert_asked(None, sent=STALL)  # all that while upstream has sent no more
    gate.open()
    cold.assert_kept()
    cold.assert_asked(None)


def test_a_range_waits_for_its_own_bytes_only(stalled: tuple[Cold, Gate], clients: ThreadPoolExecutor) -> None:
    """Row 18, W H: those behind the stall are answered after it, and not one of their bytes before."""
    cold, gate = stalled
    before = cold.millpond.metric("millpond_flight_joins_total")
    first, middle, last = (
        clients.submit(cold.get_range, wanted) for wanted in ("0-99", f"{STALL - 50}-{STALL + 49}", f"{SIZE - 100}-")
    )
    assert_part(cold, result(first), 0, 100)
    await_gate(gate)
    wait_until(lambda: cold.millpond.metric("millpond_flight_joins_total") == before + 2, "the others have joined")
    assert not wait_for([middle, last], timeout=0).done
    gate.open()
    assert_part(cold, result(middle), STALL - 50, STALL + 50)
    assert_part(cold, result(last), SIZE - 100, SIZE)
    cold.assert_asked(None)


def test_a_range_that_begins_here_and_ends_beyond_flows_as_far_as_it_can(stalled: tuple[Cold, Gate]) -> None:
    """Row 18, W H: its status and first bytes do not wait for the last ones."""
    cold, gate = stalled
    with opened(cold.url, {"Range": f"bytes={MIB}-{SIZE - 1}"}) as download:
        assert download.headers["content-range"] == f"bytes {MIB}-{SIZE - 1}/{SIZE}"
        assert download.read(STALL - MIB) == cold.content[MIB:STALL]
        gate.open()
        assert download.read(SIZE) == cold.content[STALL:]


@pytest.mark.parametrize("start", [0, 5 * MIB])
def test_an_open_range_ends_only_after_verification(make_cold: MakeCold, start: int) -> None:
    """Row 18, W: all bytes but one are here, and yet the client does not have all of those."""
    cold, gate = make_cold(SIZE), Gate()
    before = fetched(cold.millpond)
    cold.script(change(gates={SIZE - 1: gate}))
    with opened(cold.url, {"Range": f"bytes={start}-"}) as download:
        assert download.status == 206
        await_gate(gate)
        wait_until(lambda: fetched(cold.millpond) == before + SIZE - 1, "all bytes but one are here")
        inner = get(cold.url, {"Range": f"bytes={SIZE - 2}-{SIZE - 2}"}, timeout=AT_ONCE)
        assert inner.body == cold.content[-2:-1]  # for whom the end does not matter
        assert not cold.kept
        held = download.read(SIZE - MIB - start)
        assert held == cold.content[start : SIZE - MIB]
        gate.open()
        assert download.read(SIZE) == cold.content[SIZE - MIB :]
    cold.assert_kept()


@pytest.mark.parametrize("wanted", ["0-", f"{SIZE // 2}-", f"{SIZE // 2}-{SIZE - 1}", f"-{SIZE // 2}"])
def test_an_open_range_of_wrong_bytes_never_ends(make_cold: MakeCold, wanted: str) -> None:
    """Row 18 and 3, W: the byte that is wrong is not even in it."""
    cold = make_cold(SIZE)
    cold.script(corrupt(7))
    reply = cold.get_range(wanted)
    assert (reply.status, reply.complete) == (206, False)
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_client_that_closes_its_open_range_early_disturbs_nobody(stalled: tuple[Cold, Gate]) -> None:
    """Row 18, H K: containerd asks for `bytes=N-` many times and leaves each after its part."""
    cold, gate = stalled
    for start in range(0, STALL, STALL // 8):
        with opened(cold.url, {"Range": f"bytes={start}-"}) as download:
            assert download.read(1000) == cold.content[start : start + 1000]
    gate.open()
    cold.assert_kept()
    cold.assert_asked(None)


@WARMTH
@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("500-1499", 500, 1500),
        ("500-", 500, SPEC_SIZE),
        ("-500", SPEC_SIZE - 500, SPEC_SIZE),
        ("2000-5000", 2000, SPEC_SIZE),
        ("0-0", 0, 1),
        (f"{SPEC_SIZE - 1}-{SPEC_SIZE - 1}", SPEC_SIZE - 1, SPEC_SIZE),
        ("-10000", 0, SPEC_SIZE),
        ("0-", 0, SPEC_SIZE),
    ],
)
def test_the_ranges_of_the_specification_are_exact(
    make_cold: MakeCold, wanted: str, start: int, stop: int, *, warm: bool
) -> None:
    """Row 18, W."""
    cold = make_cold(SPEC_SIZE)
    if warm:
        cold.assert_whole(cold.get())
        cold.assert_kept()
    reply = cold.get_range(wanted)
    assert_part(cold, reply, start, stop)
    assert reply.headers["x-millpond"] == ("hit" if warm else "upstream")
    cold.assert_asked(None)


# Row 19


@WARMTH
@pytest.mark.parametrize(
    "wanted", ["500-0", "5000-10000", "5-2", "-0", f"{SPEC_SIZE}-", f"{SPEC_SIZE}-{SPEC_SIZE}", f"{10**40}-"]
)
def test_a_range_that_cannot_be_is_416_with_the_size(make_cold: MakeCold, wanted: str, *, warm: bool) -> None:
    """Row 19, H."""
    cold = make_cold(SPEC_SIZE)
    if warm:
        cold.assert_whole(cold.get())
    reply = cold.get_range(wanted)
    assert (reply.status, reply.error_code) == (416, "RANGE_INVALID")
    assert reply.headers["content-range"] == f"bytes */{SPEC_SIZE}"
    cold.assert_whole(cold.get())


@WARMTH
@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-0,5-6",
        "bytes=" + ",".join(["0-0"] * 10_000),
        "bytes=" + "9" * 50_000 + "-",
        "bytes=" + "-" * 50_000,
        "bytes=-",
        "bytes=one-two",
        "bytes=1",
        "items=0-5",
    ],
    ids=["two", "ten thousand", "digits", "dashes", "empty", "words", "no dash", "another unit"],
)
def test_what_is_not_one_range_is_answered_with_the_whole_at_once(
    make_cold: MakeCold, header: str, *, warm: bool
) -> None:
    """Row 19, H: in linear time, however long it is."""
    cold = make_cold(SPEC_SIZE)
    if warm:
        cold.assert_whole(cold.get())
    began = time.monotonic()
    reply = cold.get({"Range": header})
    assert time.monotonic() - began < 5
    cold.assert_whole(reply)
    assert "content-range" not in reply.headers


@WARMTH
def test_an_empty_blob_has_no_ranges(make_cold: MakeCold, *, warm: bool) -> None:
    """Row 19, W: every range of nothing is answered with all of it."""
    cold = make_cold(1)
    nothing = replace(cold, digest=cold.upstream.add_blob(cold.repository, b""), content=b"")
    if warm:
        nothing.assert_whole(nothing.get())
    nothing.assert_whole(nothing.get_range("0-"))
    nothing.assert_kept()


@WARMTH
def test_a_range_of_something_else_is_answered_with_the_whole(make_cold: MakeCold, *, warm: bool) -> None:
    """Row 19, W: If-Range names another digest; with the blob's own the range stands."""
    cold = make_cold(SPEC_SIZE)
    if warm:
        cold.assert_whole(cold.get())
    cold.assert_whole(cold.get({"Range": "bytes=0-9", "If-Range": '"sha256:0"'}))
    assert_part(cold, cold.get({"Range": "bytes=0-9", "If-Range": f'"{cold.digest}"'}), 0, 10)


# Row 20


def assert_described(cold: Cold, reply: Reply) -> None:
    """What HEAD says: everything that GET would, and no body."""
    assert (reply.status, reply.size) == (200, 0)
    assert reply.headers["content-length"] == str(cold.size)
    assert reply.headers["docker-content-digest"] == cold.digest
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("known", [False, True], ids=["no descriptor", "descriptor"])
def test_head_of_a_cold_blob_downloads_nothing(cold: Cold, *, known: bool) -> None:
    """Row 20, A."""
    if known:
        cold.learn_size()
    assert_described(cold, cold.head())
    cold.assert_asked(sent=0)
    assert not cold.kept
    assert cold.millpond.incoming() == []


@pytest.mark.parametrize("status", [401, 403, 405, 501])
def test_head_of_a_cold_blob_works_where_upstreams_does_not(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, status: int
) -> None:
    """Row 20, A: one byte is asked for."""
    cold = cold_blob(upstream, start_millpond({UPSTREAM: upstream.upstream()}))
    cold.script(then=refuse(status), method="HEAD")
    assert_described(cold, cold.head())
    cold.assert_asked("bytes=0-0", sent=1)


def test_head_of_a_warm_blob_asks_nobody(cold: Cold) -> None:
    """Row 20, A."""
    cold.assert_whole(cold.get())
    cold.assert_kept()
    seen = len(cold.upstream.seen(method=""))
    reply = cold.head()
    assert_described(cold, reply)
    assert reply.headers["x-millpond"] == "hit"
    assert len(cold.upstream.seen(method="")) == seen


def test_head_of_a_blob_in_flight_waits_for_nothing(stalled: tuple[Cold, Gate], clients: ThreadPoolExecutor) -> None:
    """Row 20, A H."""
    cold, gate = stalled
    client = clients.submit(cold.get)
    await_gate(gate)
    assert_described(cold, cold.head())
    assert not client.done()
    gate.open()
    cold.assert_whole(result(client))


def test_head_of_a_blob_that_upstream_does_not_have_is_404(cold: Cold) -> None:
    """Row 20, A."""
    cold.script(then=refuse(404), method="HEAD")
    assert cold.head().status == 404
    assert cold.ranges == []

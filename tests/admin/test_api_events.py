"""The stream of events, as the page follows it."""

from __future__ import annotations

import http.client
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from proxy.admin.status import Status
from proxy.admin.stream import MAX_PULLS, MAX_READERS, MAX_WAITING, Stream
from tests.admin.watched import UPSTREAM, Watched
from tests.support import images
from tests.support.faults import Gate, change, refuse
from tests.support.millpond import Millpond
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

MIB = 1 << 20


def test_a_tick_comes_every_second_with_the_flights_as_they_are(watched: Watched) -> None:
    content, gate = b"".join(images.noise(4 * MIB, 21)), Gate()
    digest = watched.upstream.add_blob("library/slow", content)
    watched.upstream.script(digest, change(gates={2 * MIB: gate}))
    with watched.events() as events, ThreadPoolExecutor() as clients:
        first = events.next("tick")
        pull = clients.submit(get, f"{watched.base('library/slow')}/blobs/{digest}")
        ticks = [events.next("tick")]
        while not (ticks[-1]["flights"] and ticks[-1]["flights"][0]["landed"] == 2 * MIB):
            ticks.append(events.next("tick"))
        (flight,) = ticks[-1]["flights"]
        watched.document.check_as("Flight", flight)
        assert (flight["digest"], flight["followers"], ticks[-1]["flights_total"]) == (digest, 1, 1)
        assert max(tick["fetched_rate"] for tick in ticks) > 0
        gate.open()
        assert pull.result(30).digest == digest
        while ticks[-1]["flights_total"]:
            ticks.append(events.next("tick"))
    assert max(tick["served_rate"] for tick in ticks) > 0
    assert 0.9 < ticks[0]["now"] - first["now"] < 5
    status = watched.read("status")
    assert ticks[-1]["cache_bytes"] == status["cache"]["bytes"] == first["cache_bytes"] + 4 * MIB
    assert set(ticks[0]) == {
        "now", "served_rate", "fetched_rate", "requests_rate", "hit_ratio", "active", "flights", "flights_total",
        "cache_bytes", "free", "lag", "period",
    }  # fmt: skip
    assert ticks[0]["period"] == 1.0


def test_a_pull_is_told_when_it_has_ended_and_is_in_the_list_of_pulls_as_well(watched: Watched, tmp_path: Path) -> None:
    image = images.simple_image(tmp_path, seed=22)
    watched.upstream.add(image, "library/told", "v1")
    with watched.events() as events:
        watched.pull(image, "library/told", "v1")
        told = events.next("pull")
        while told["image"] != "docker.io/library/told:v1":
            told = events.next("pull")
    watched.document.check_as("Pull", told)
    assert (told["source"], told["outcome"], told["digest"]) == ("upstream", "complete", image.digest)
    assert told in watched.read("pulls")["pulls"]


def test_an_upstream_that_goes_and_comes_back_is_told_in_a_sentence_each_time(watched: Watched) -> None:
    get(f"{watched.base('library/none')}/manifests/latest")
    with watched.events() as events:
        events.next("tick")
        watched.upstream.script("library/away/", then=refuse(503), method="")
        assert get(f"{watched.base('library/away')}/manifests/latest").status == 502
        told = events.next("state")
        assert (told["what"], told["name"], told["state"]) == ("upstream", UPSTREAM, "failing")
        assert "503" in told["sentence"]
        watched.recover()
        back = events.next("state")
        assert (back["state"], back["sentence"]) == ("ok", "docker.io is ok again")


def test_one_reader_too_many_is_told_so_and_a_place_is_free_when_somebody_leaves(watched: Watched) -> None:
    url = f"{watched.millpond.admin_url}/api/v1/events"
    with ExitStack() as readers:
        for _ in range(MAX_READERS - 1):
            readers.enter_context(watched.events())
        with watched.events() as last:
            last.next("tick")
            refused = get(url)
            assert refused.status == 503
            watched.document.check("GET", url, refused)
            assert "others are watching already" in refused.json()["error"]
        wait_until(lambda: _is_answered(watched), "the place is free")


def test_a_look_at_the_head_of_the_stream_ends_at_once(watched: Watched) -> None:
    reply = get(f"{watched.millpond.admin_url}/api/v1/events", method="HEAD")
    assert (reply.status, reply.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")


def test_a_page_that_is_open_does_not_hold_the_end_of_the_program(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, ThreadPoolExecutor() as others:
        watched = Watched(Millpond({"upstreams": {UPSTREAM: upstream.upstream()}}, tmp_path).start(), upstream)
        with watched.events() as events:
            events.next("tick")
            ended = others.submit(watched.millpond.terminate)
            assert events.next("state")["sentence"] == "millpond: no new pulls are taken"
            assert events.ends()
            assert ended.result(10) == 0
        assert not watched.millpond.complaints()


def _is_answered(watched: Watched) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", watched.millpond.admin_port, timeout=10)
    try:
        connection.request("GET", "/api/v1/events")
        return connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.mark.anyio
async def test_a_reader_that_takes_nothing_is_let_go_with_what_waits_for_it() -> None:
    """Looks inside: the buffers of a real connection take hours of ticks."""
    stream = Stream(cast("Status", None), lambda: False)
    slow, quick = stream.enter(), stream.enter()
    for number in range(MAX_WAITING + 1):
        stream._tell("tick", {"number": number})
        quick.get_nowait()
    waiting = [slow.get_nowait() for _ in range(slow.qsize())]
    assert len(waiting) == MAX_WAITING + 1
    assert waiting[-1] is None
    stream._tell("tick", {})
    assert (slow.empty(), quick.qsize()) == (True, 1)
    stream.leave(quick)


@pytest.mark.anyio
async def test_of_very_many_pulls_between_two_ticks_only_some_are_told() -> None:
    """Looks inside: nobody pulls as fast as that here."""
    stream = Stream(cast("Status", None), lambda: False)
    told = itertools.count()
    stream.pull(lambda: {"number": next(told)})
    assert next(told) == 0, "nobody is there to be told"
    reader = stream.enter()
    for _ in range(5 * MAX_PULLS):
        stream.pull(lambda: {"number": next(told)})
    assert (next(told), reader.qsize()) == (MAX_PULLS + 1, MAX_PULLS)
    stream.leave(reader)

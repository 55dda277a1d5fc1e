"""Bytes that are not what their digest says: no client completes with them, and nothing of them is kept."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.faults.conftest import LARGE, MIB, SMALL, UPSTREAM, Cold, MakeCold, await_gate, result, unverified
from tests.support import images
from tests.support.faults import Answer, Fault, Gate, Request, change, corrupt, html
from tests.support.millpond import Millpond
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

# Row 3


def corrupt_at_a_gate(gate: Gate) -> Fault:
    """The last byte wrong, and the last two thirds held back."""

    def fault(request: Request, answer: Answer) -> Answer:
        wrong = corrupt(-1)(request, answer)
        return replace(wrong, gates={len(answer.body) // 3: gate})

    return fault


@pytest.mark.parametrize("at", [0, LARGE // 2, LARGE - 1])
def test_a_client_never_completes_with_wrong_bytes(cold: Cold, at: int) -> None:
    """Row 3, W P: what has been sent is broken off before the end; the alarm is raised; the next pull is clean."""
    before = unverified(cold.millpond)
    cold.script(corrupt(at))
    reply = cold.get()
    assert (reply.status, reply.complete) == (200, False)
    assert reply.size < cold.size
    assert len(cold.ranges) == 1  # asking again at once would bring the same
    assert unverified(cold.millpond) == before + 1
    cold.assert_nothing_kept()
    cold.assert_recovers()
    assert unverified(cold.millpond) == before + 1


@pytest.mark.parametrize("size", [1, SMALL, MIB])
def test_wrong_bytes_of_a_small_blob_are_refused_with_a_status(make_cold: MakeCold, size: int) -> None:
    """Row 3, W P: none of them is sent at all."""
    cold, before = make_cold(size), unverified(make_cold(1).millpond)
    cold.script(corrupt(size // 2))
    reply = cold.get()
    cold.assert_refused(reply)
    assert cold.digest in reply.json()["errors"][0]["message"]
    assert unverified(cold.millpond) == before + 1
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_wrong_bytes_are_told_to_everyone_who_waits(cold: Cold, clients: ThreadPoolExecutor) -> None:
    """Row 3, W P H: whole blobs and ranges up to its end alike; an inner range may complete."""
    gate, before = Gate(), unverified(cold.millpond)
    cold.script(corrupt_at_a_gate(gate))
    wanted = [None, "bytes=0-", f"bytes=-{SMALL}", f"bytes={cold.size - 1}-", f"bytes={LARGE // 2}-{LARGE - 1}"]
    replies = [clients.submit(cold.get, {"Range": header} if header else None) for header in wanted]
    inner = clients.submit(cold.get_range, "100-199")
    await_gate(gate)
    wait_until(lambda: len(cold.millpond.log_lines(event="served", item=cold.digest)) == 1, "the inner range is served")
    gate.open()
    # In flight, the last megabyte is held back: who asked only for what is in it has been sent nothing.
    for reply in map(result, replies):
        assert reply.status == 502 or not reply.complete, reply
    assert [result(reply).status for reply in replies] == [200, 206, 502, 502, 206]
    assert (result(inner).status, result(inner).body) == (206, cold.content[100:200])
    assert unverified(cold.millpond) == before + 1
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_manifest_with_wrong_bytes_is_refused_and_not_kept(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 3, W P: by digest, and by a tag whose digest upstream states."""
    chart = images.chart(seed=31)
    upstream.add(chart, "library/wrong", "1")
    base = f"{millpond.url}/v2/{UPSTREAM}/library/wrong/manifests"
    upstream.script("library/wrong/manifests/", then=corrupt(len(chart.body) - 3))
    for reference in (chart.digest, "1"):
        reply = get(f"{base}/{reference}")
        assert (reply.status, reply.error_code) == (502, "UNAVAILABLE")
    assert not millpond.blob_file(chart.digest).exists()
    assert millpond.incoming() == []
    upstream.behave()
    assert get(f"{base}/1").body == chart.body


# Row 4


def test_a_page_of_html_is_refused_by_its_size_alone(cold: Cold) -> None:
    """Row 4, W P B: the descriptor is known, so the client is told before a byte is sent."""
    cold.learn_size()
    before = unverified(cold.millpond)
    cold.script(html())
    cold.assert_refused(cold.get())
    assert unverified(cold.millpond) == before  # nothing had to be hashed
    cold.assert_nothing_kept()
    cold.assert_recovers()


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_page_of_html_in_place_of_an_unknown_blob_never_completes(cold: Cold, size: int) -> None:
    """Row 4, W P: no descriptor is known, so its bytes tell."""
    cold.script(html("<" * size))
    reply = cold.get()
    assert reply.status == 502 or not reply.complete
    assert (reply.status == 502) == (size < MIB)
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_page_of_html_as_long_as_the_blob_never_completes(cold: Cold) -> None:
    """Row 4, W P: as row 3."""
    cold.learn_size()
    before = unverified(cold.millpond)
    cold.script(html("<" * cold.size))
    assert not cold.get(keep=False).complete
    assert unverified(cold.millpond) == before + 1
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_page_of_html_in_answer_to_head_stands_for_nothing_later(cold: Cold) -> None:
    """Row 4, P B: what HEAD says of a blob that is not here is passed on, and forgotten."""
    page = html()
    cold.script(page, method="HEAD")
    assert cold.head().status == 200
    cold.assert_whole(cold.get())
    assert cold.head().headers["content-length"] == str(cold.size)


def test_a_page_of_html_is_no_leave_to_have_what_another_repository_has(cold: Cold) -> None:
    """Row 4, P S: the blob is here; a gateway's 200 for another repository does not open it there."""
    cold.assert_whole(cold.get())
    cold.assert_kept()
    other = replace(cold, repository=f"{cold.repository}-other")
    other.script(html(), method="HEAD")
    other.assert_refused(other.get())
    assert other.get().status == 404


def test_a_page_of_html_is_no_leave_to_join_the_flight_of_another_repository(
    cold: Cold, clients: ThreadPoolExecutor
) -> None:
    """Row 4, P S: the blob is on its way for one repository; the other's upstream is asked for it by itself."""
    gate = Gate()
    cold.script(change(gates={cold.size // 2: gate}))
    client = clients.submit(cold.get)
    await_gate(gate)
    other = replace(cold, repository=f"{cold.repository}-other")
    other.upstream.script(f"{other.repository}/blobs/", html(), method="HEAD")
    assert other.get().status == 404
    gate.open()
    cold.assert_whole(result(client))


def test_a_page_of_html_is_no_manifest(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 4, P B: neither by tag, where no digest is known, nor by digest."""
    chart = images.chart(seed=32)
    upstream.add(chart, "library/html", "1")
    base = f"{millpond.url}/v2/{UPSTREAM}/library/html/manifests"
    upstream.script("library/html/manifests/", html(), html())
    for reference in ("1", chart.digest):
        reply = get(f"{base}/{reference}")
        assert (reply.status, reply.error_code) == (502, "UNAVAILABLE")
    assert get(f"{base}/1").body == chart.body


# Row 6


def test_a_content_coding_that_upstream_claims_is_never_undone(make_cold: MakeCold) -> None:
    """Row 6, W P: a layer is gzip by nature; some registries say so in Content-Encoding."""
    cold = make_cold()
    packed = gzip.compress(cold.content, 1)
    layer = replace(cold, digest=cold.upstream.add_blob(cold.repository, packed), content=packed)
    layer.script(then=change(headers={"Content-Encoding": "gzip"}))
    reply = layer.get({"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"})  # as containerd sends it
    layer.assert_whole(reply)
    assert "content-encoding" not in reply.headers
    assert reply.headers["content-length"] == str(len(packed))
    assert {request.headers["accept-encoding"] for request in cold.upstream.seen(layer.digest, "")} == {"identity"}
    layer.assert_kept()


def test_a_content_coding_that_upstream_applied_is_wrong_bytes(make_cold: MakeCold) -> None:
    """Row 6, W P: identity was asked for; what came instead does not hash to the digest, and is not inflated."""
    cold = make_cold(SMALL)
    packed = Answer(200, gzip.compress(cold.content), {"Content-Encoding": "gzip"}, ranged=False)
    cold.script(lambda *_: packed)
    cold.assert_refused(cold.get())
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_manifest_with_a_content_coding_is_not_inflated(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 6, P H: a small body that inflates to gigabytes does no harm."""
    chart = images.chart(seed=33)
    upstream.add(chart, "library/coded", "1")
    url = f"{millpond.url}/v2/{UPSTREAM}/library/coded/manifests/1"
    bomb = gzip.compress(json.dumps({"schemaVersion": 2, "mediaType": chart.media_type}).encode() + bytes(64 * MIB))
    headers = {"Content-Type": chart.media_type, "Content-Encoding": "gzip"}
    upstream.script("library/coded/manifests/", lambda *_: Answer(200, bomb, headers, ranged=False))
    before = millpond.peak_rss()
    assert get(url).status == 502
    assert millpond.peak_rss() - before < 16 * MIB
    assert get(url).body == chart.body

"""The scripted upstream does what its scripts say: a fault test is worth no more than its fault."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support import images
from tests.support.certificates import Authority
from tests.support.faults import BEFORE_HEADERS, Fault, Gate, change, corrupt, cut, html, redirect, refuse
from tests.support.pulls import Reply, get, opened, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

CONTENT = b"".join(images.noise(3_000_000, 1))


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made


def blob_url(upstream: ScriptedUpstream, digest: str) -> str:
    return f"{upstream.url}/v2/library/x/blobs/{digest}"


def fetch(upstream: ScriptedUpstream, *faults: Fault, **headers: str) -> Reply:
    digest = upstream.add_blob("library/x", CONTENT)
    if faults:
        upstream.script(digest, *faults)
    return get(blob_url(upstream, digest), headers)


def test_a_whole_image_of_either_digest_algorithm_can_be_pulled(upstream: ScriptedUpstream) -> None:
    small = images.artifact(images.EMPTY_CONFIG, [images.blob(b"one"), images.blob(b"two")])
    both = images.index([small, images.chart()])
    upstream.add(both, "library/x", "1")
    pull(f"{upstream.url}/v2/library/x", both, "1")
    digest = upstream.add_blob("library/x", b"longer", "sha512")
    assert get(blob_url(upstream, digest)).body == b"longer"


def test_tls_is_by_the_private_authority(authority: Authority) -> None:
    with ScriptedUpstream(authority) as upstream:
        digest = upstream.add_blob("library/x", CONTENT)
        assert get(blob_url(upstream, digest), ca=authority.client_context()).body == CONTENT


@pytest.mark.parametrize(
    ("asked", "start", "stop"), [("bytes=10-19", 10, 20), ("bytes=2999990-", 2_999_990, None), ("bytes=-7", -7, None)]
)
def test_a_range_is_answered_exactly(upstream: ScriptedUpstream, asked: str, start: int, stop: int | None) -> None:
    reply = fetch(upstream, Range=asked)
    assert (reply.status, reply.body) == (206, CONTENT[start:stop])
    assert reply.headers["content-length"] == str(len(reply.body))


def test_a_range_beyond_the_end_is_416(upstream: ScriptedUpstream) -> None:
    reply = fetch(upstream, Range="bytes=3000000-")
    assert (reply.status, reply.headers["content-range"]) == (416, "bytes */3000000")


def test_a_range_can_be_ignored(upstream: ScriptedUpstream) -> None:
    assert fetch(upstream, change(ranged=False), Range="bytes=10-19").status == 200


@pytest.mark.parametrize("at", [0, 1, 1_500_000, 2_999_999])
@pytest.mark.parametrize("ending", ["reset", "close"])
def test_a_cut_sends_exactly_so_many_bytes(upstream: ScriptedUpstream, at: int, ending: str) -> None:
    digest = upstream.add_blob("library/x", CONTENT)
    upstream.script(digest, cut(at, ending))  # type: ignore[arg-type]
    with opened(blob_url(upstream, digest)) as download:
        assert download.headers["content-length"] == "3000000"
        assert download.read(len(CONTENT)) == CONTENT[:at]
    assert upstream.sent_of(digest) == at


def test_a_reset_is_a_reset_and_a_close_is_not(upstream: ScriptedUpstream) -> None:
    digest = upstream.add_blob("library/x", CONTENT)
    upstream.script(digest, cut(100, "reset"), cut(100, "close"))
    endings = []
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", upstream.port), timeout=10) as raw:
            raw.sendall(f"GET /v2/library/x/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            try:
                while raw.recv(1 << 16):
                    pass
                endings.append("end")
            except ConnectionResetError:
                endings.append("reset")
    assert endings == ["reset", "end"]


def test_faults_follow_the_order_of_requests(upstream: ScriptedUpstream) -> None:
    digest = upstream.add_blob("library/x", CONTENT)
    upstream.script(digest, refuse(503), html(), corrupt(5), redirect("/elsewhere"), then=refuse(429, retry_after="3"))
    replies = [get(blob_url(upstream, digest)) for _ in range(6)]
    assert [reply.status for reply in replies] == [503, 200, 200, 307, 429, 429]
    assert replies[1].headers["content-type"] == "text/html"
    assert len(replies[2].body) == len(CONTENT)
    assert replies[2].body != CONTENT
    assert replies[4].headers["retry-after"] == "3"
    upstream.behave()
    assert get(blob_url(upstream, digest)).body == CONTENT


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_length_can_be_left_out(upstream: ScriptedUpstream, framing: str) -> None:
    reply = fetch(upstream, change(framing=framing))
    assert "content-length" not in reply.headers
    assert reply.body == CONTENT


def test_a_length_can_be_a_lie(upstream: ScriptedUpstream) -> None:
    assert fetch(upstream, change(declared=10)).body == CONTENT[:10]


def test_a_gate_holds_a_body_until_it_is_opened(upstream: ScriptedUpstream) -> None:
    digest, gate = upstream.add_blob("library/x", CONTENT), Gate()
    upstream.script(digest, change(gates={1_000_000: gate}))
    with opened(blob_url(upstream, digest)) as download:
        assert download.read(1_000_000) == CONTENT[:1_000_000]
        assert gate.reached.wait(10)
        assert upstream.sent_of(digest) == 1_000_000
        gate.open()
        assert download.drain()


def test_a_gate_can_hold_the_headers(upstream: ScriptedUpstream) -> None:
    digest, gate = upstream.add_blob("library/x", CONTENT), Gate()
    upstream.script(digest, change(gates={BEFORE_HEADERS: gate}))
    replies: list[Reply] = []
    client = threading.Thread(target=lambda: replies.append(get(blob_url(upstream, digest))))
    client.start()
    assert gate.reached.wait(10)
    assert not replies
    gate.open()
    client.join(10)
    assert replies[0].body == CONTENT


def test_a_stopped_upstream_breaks_what_is_open_and_comes_back(upstream: ScriptedUpstream) -> None:
    digest, gate = upstream.add_blob("library/x", CONTENT), Gate()
    upstream.script(digest, change(gates={1000: gate}))
    with opened(blob_url(upstream, digest)) as download:
        assert len(download.read(1000)) == 1000
        upstream.stop()
        assert download.read(1) == b""
    with pytest.raises(ConnectionError):
        get(blob_url(upstream, digest))
    upstream.start()
    assert get(blob_url(upstream, digest)).body == CONTENT


def test_tags_are_paged_and_referrers_filtered(upstream: ScriptedUpstream) -> None:
    subject = images.artifact(images.EMPTY_CONFIG, [])
    upstream.add(subject, "library/x", "a", "b", "c")
    signed = images.artifact(images.EMPTY_CONFIG, [], subject=subject, artifact_type="application/vnd.test")
    upstream.add(signed, "library/x")
    page = get(f"{upstream.url}/v2/library/x/tags/list?n=2")
    assert page.json()["tags"] == ["a", "b"]
    assert "last=b" in page.headers["link"]
    url = f"{upstream.url}/v2/library/x/referrers/{subject.digest}"
    assert [entry["digest"] for entry in get(url).json()["manifests"]] == [signed.digest]
    assert get(f"{url}?artifactType=application/other").json()["manifests"] == []


def test_what_a_strict_server_refuses_is_recorded(upstream: ScriptedUpstream) -> None:
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=10) as raw:
        raw.sendall(b"GET /v2/ HTTP/1.1\r\nhost : x\r\n\r\n")
        assert raw.recv(100) == b""
    wait_until(lambda: upstream.violations, "the violation is recorded")
    assert "header line" in upstream.violations.pop()

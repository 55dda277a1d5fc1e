"""The HTTP port of the running program: garbage, half requests, several at once, what two parsers read differently."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.test_targets import neighbours
from tests.fuzz.wire import talk
from tests.support import images
from tests.support.millpond import Millpond, running
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream

UPSTREAM: Final = "registry.test"
REPOSITORY: Final = "fuzz/image"
_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class House:
    """A Millpond whose cache holds one image, so that a good request needs no upstream."""

    millpond: Millpond
    upstream: ScriptedUpstream
    image: images.Manifest

    @property
    def port(self) -> int:
        return self.millpond.port

    def saw(self, identity: str) -> bool:
        """Whether a request with this X-Request-Id was taken for one, by the program's own log."""
        self.millpond.settle_log()
        return bool(self.millpond.log_lines(id=identity))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ScriptedUpstream() as upstream:
        config = {"upstreams": {UPSTREAM: upstream.upstream()}, "default_upstream": UPSTREAM}
        with running(config, tmp_path_factory.mktemp("house")) as millpond:
            yield _house(millpond, upstream)
            assert get(f"{millpond.url}/v2/").status == 200, "it serves whoever comes next"
        assert millpond.log_lines(level="error") == []
        assert [request.path for request in upstream.requests if REPOSITORY not in request.path] == []


def _house(millpond: Millpond, upstream: ScriptedUpstream) -> House:
    image = images.artifact(images.EMPTY_CONFIG, [images.blob(bytes(range(256)) * 8)])
    upstream.add(image, REPOSITORY, "one")
    for path in (f"manifests/{image.digest}", f"blobs/{image.blobs[-1].digest}"):
        assert get(f"{millpond.url}/v2/{REPOSITORY}/{path}").status == 200
    return House(millpond, upstream, image)


# Two readers of one stream that disagree where a request ends are how requests are smuggled past the first.

FRAMINGS: Final = {
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "the same length twice": b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 0\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length in hexadecimal": b"Content-Length: 0x0\r\n\r\n",
    "a length beyond numbers": b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a space before the colon": b"Content-Length : 0\r\n\r\n",
    "a space before the other colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a folded line": b"X-Folded: a\r\n b\r\n\r\n",
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a bare line feed": b"X-Bare: a\nX-Other: b\r\n\r\n",
    "a bare line feed at the end": b"X-Bare: a\r\n\n",
    "a bare carriage return": b"X-Bare: a\rX-Other: b\r\n\r\n",
    "NUL in a value": b"X-Nul: a\0b\r\n\r\n",
    "NUL in a name": b"X-N\0ul: a\r\n\r\n",
    "no name": b": a\r\n\r\n",
    "no colon": b"X-Nothing\r\n\r\n",
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_a_request_that_can_be_read_in_two_ways_is_refused_and_what_follows_is_not_read(
    house: House, framing: bytes
) -> None:
    """S: whatever stands before Millpond may have read it in the other way."""
    outer, inner = (f"framing-{next(_ids)}" for _ in range(2))
    head = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: {outer}\r\n".encode()
    behind = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: {inner}\r\n\r\n".encode()
    (answer,) = talk(house.port, [head + framing + behind], 1)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert not house.saw(inner)
    assert not house.saw(outer)


BODIES: Final = {
    "a coding that nobody knows": b"Transfer-Encoding: xchunked\r\n\r\n%s",
    "a chunk that ends with line feeds": b"Transfer-Encoding: chunked\r\n\r\n0\n\n%s",
    "a chunk beyond numbers": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n%s",
    "a line feed in a chunk's extension": b"Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n%s",
    "a chunk of negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n%s",
    "a chunk longer than it says": b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n%s",
    "what follows the last answer": b"Connection: close\r\n\r\n%s",
    "another protocol": b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n%s",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_follows_a_body_that_is_none_is_not_read(house: House, body: bytes) -> None:
    """S: the request itself may have been answered before its body was looked at, for no body is ever waited for."""
    inner = f"body-{next(_ids)}"
    behind = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: {inner}\r\n\r\n".encode()
    answers = talk(house.port, [b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + body % behind], 1)
    assert [answer.status for answer in answers] in ([200], [400])
    assert not house.saw(inner)


def test_a_whole_body_is_skipped_to_its_last_byte_whatever_it_looks_like(house: House) -> None:
    """S: a request in the body of another is none, and the one behind it is."""
    inner, after = (f"whole-{next(_ids)}" for _ in range(2))
    hidden = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: {inner}\r\n\r\n".encode()
    last = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: {after}\r\n\r\n".encode()
    for framed in (
        b"Content-Length: %d\r\n\r\n%s" % (len(hidden), hidden),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden),
    ):
        answers = talk(house.port, [b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + framed + last], 2)
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[1].headers["x-request-id"] == after
        assert not house.saw(inner)


@pytest.mark.parametrize("name", ["X-Request-Id", "Range", "If-None-Match"])
def test_what_trails_a_body_is_no_header(house: House, name: str) -> None:
    """S: RFC 9110, 6.5.1. A forwarder that sets X-Forwarded-For in the head passes trailers on as they are."""
    digest = house.image.blobs[-1].digest
    trailer = {"X-Request-Id": f"trailer-{next(_ids)}", "Range": "bytes=0-9", "If-None-Match": f'"{digest}"'}[name]
    request = (
        f"GET /v2/{REPOSITORY}/blobs/{digest} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"0\r\n{name}: {trailer}\r\n\r\n"
    )
    (answer,) = talk(house.port, [request.encode()], 1)
    assert answer.status == 200
    assert answer.headers["x-request-id"] != trailer


# Good requests, in pieces.


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose answer is known. `%s` in `lines` is for its X-Request-Id."""

    target: str
    status: int
    lines: str = ""
    body: bytes = b""


def asked(image: images.Manifest) -> list[Asked]:
    blob = f"/v2/{REPOSITORY}/blobs/{image.blobs[-1].digest}"
    return [
        Asked("/v2/", 200),
        Asked("/v2/", 200, "Content-Length: 5\r\n", b"GET /"),
        Asked("/v2/", 200, "Transfer-Encoding: chunked\r\n", b"5\r\nGET /\r\n0\r\n\r\n"),
        Asked(f"/v2/{REPOSITORY}/manifests/{image.digest}", 200),
        Asked(f"/v2/{REPOSITORY}/manifests/{image.digest}", 304, f'If-None-Match: "{image.digest}"\r\n'),
        Asked(blob, 200),
        Asked(blob, 206, "Range: bytes=5-9\r\n"),
        Asked(blob, 416, "Range: bytes=5-2\r\n"),
        Asked("/v2/x/manifests/.bad", 400),
        Asked("/metrics", 404),
    ]


@given(st.data())
@settings(max_examples=60)
def test_however_requests_are_cut_into_packets_each_gets_its_answer_in_order(house: House, data: st.DataObject) -> None:
    """W H."""
    chosen = data.draw(st.lists(st.sampled_from(asked(house.image)), min_size=1, max_size=6))
    names = [f"cut-{next(_ids):06}" for _ in chosen]
    stream = b"".join(
        f"GET {one.target} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {name}\r\n{one.lines}\r\n".encode() + one.body
        for one, name in zip(chosen, names, strict=True)
    )
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(stream)])]
    answers = talk(house.port, pieces, len(chosen))
    assert [(answer.status, answer.headers["x-request-id"]) for answer in answers] == [
        (one.status, name) for one, name in zip(chosen, names, strict=True)
    ]
    content = house.image.blobs[-1].read()
    for one, answer in zip(chosen, answers, strict=True):
        if "/blobs/" in one.target and one.status in (200, 206):
            assert answer.body == (content if one.status == 200 else content[5:10])


# Bad ones.

WORDS: Final = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b":", b"\xff", b"/", b"?", b"#", b"*", b"%", b"\x80"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00"),
    *(
        b"GET",
        b"PUT",
        b"CONNECT",
        b"OPTIONS",
        b"TRACE",
        b"Host: x",
        b"Host:",
        b"Content-Length: 3",
        b"X: " + b"a" * 70_000,
    ),
    *(
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
    ),
    *(
        b"/v2/",
        b"http://evil.test/v2/",
        b"//",
        b"..",
        b"%00",
        b"[::1",
        b"http://",
        b"a@b",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
    ),
)
SIGNS: Final = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
)
SEED: Final = (
    b"GET /v2/fuzz/image/manifests/sha256:" + b"0" * 63 + b"g?ns=registry.test HTTP/1.1\r\nHost: x:5000\r\n"
    b"Accept: */*\r\nRange: bytes=0-\r\n\r\n"
)


def assert_sound(house: House, stream: bytes) -> None:
    """Answers that are HTTP, none of which is the server's fault, and only the last of which ends the connection."""
    answers = talk(house.port, [stream])
    assert [answer.status for answer in answers if answer.status >= 500] == [], stream
    for answer in answers[:-1]:
        assert answer.headers.get("connection") != "close", stream


@given(st.lists(st.sampled_from((*WORDS, SEED)) | st.binary(max_size=6), max_size=10).map(b"".join))
@settings(max_examples=150)
def test_whatever_comes_in_is_answered_as_http_or_not_at_all(house: House, stream: bytes) -> None:
    """S H: and never by asking upstream."""
    assert_sound(house, stream)


def test_no_request_with_one_piece_replaced_is_more_than_a_bad_request(house: House) -> None:
    """S H."""
    for stream in neighbours(SEED, SIGNS):
        assert_sound(house, stream)

"""The machine's clients, and the judgement of what they were answered."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.faults.machine.content import Part
from tests.support.pulls import ACCEPT, Download
from tests.support.wire import range_of

# H: nobody waits longer than this for the next byte. The program's own deadlines add up to a few seconds here.
SILENCE: Final = 30.0
# What a client takes before it has read anything: little, so that one that stops reading is felt by the program.
_WINDOW: Final = 32 << 10
_PIECE: Final = 64 << 10

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# The statuses of an outage; what upstream was told not to do is no reason for any other.
OUTAGE: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Expectation:
    """What may be held against the program at the moment.

    `honest`: no untruth has come from upstream, so every byte has to be right, verified yet or not. `calm`: nothing
    stands in the way, so the answer has to be whole. `up`: the program is not being ended, so there has to be one.
    """

    honest: bool
    calm: bool
    up: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client got. `status` 0: no answer at all. `whole`: all of the stated length has come."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    whole: bool

    def __str__(self) -> str:
        if not self.status:
            return "no answer"
        end = "" if self.whole else ", broken off"
        return f"{self.status} {self.headers.get('x-millpond', '-')}, {len(self.body)} bytes{end}"


class _Narrow(http.client.HTTPConnection):
    """A connection with a small window."""

    def connect(self) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
        self.sock.settimeout(SILENCE)
        self.sock.connect((self.host, self.port))


class Client:
    """One request, whose answer is read as far as one likes. `close` leaves, however much has come."""

    def __init__(self, port: int, path: str, *, method: str = "GET", wanted: str | None = None) -> None:
        """`wanted` is a Range header."""
        self.method = method
        self.wanted = wanted
        self.body = bytearray()
        self._connection = _Narrow("127.0.0.1", port, timeout=SILENCE)
        self._download: Download | None = None
        self._broken = False
        headers = {"Accept": ACCEPT, **({"Range": wanted} if wanted else {})}
        with self._listening():
            self._connection.request(method, path, headers=headers)
            self._download = Download(self._connection, self._connection.getresponse())

    def read(self, size: int) -> None:
        """Up to `size` more bytes."""
        with self._listening():
            while self._download and size > 0 and (piece := self._download.read(min(size, _PIECE))):
                self.body += piece
                size -= len(piece)

    def finish(self) -> Outcome:
        """Read to the end, and close."""
        self.read(1 << 62)
        return self.leave()

    def leave(self) -> Outcome:
        """What has come so far; closes the connection."""
        self._connection.close()
        if self._download is None:
            return Outcome(0, {}, b"", whole=False)
        headers = self._download.headers
        stated = headers.get("content-length")
        due = 0 if self.method == "HEAD" or self._download.status == 304 else int(stated or -1)
        return Outcome(self._download.status, headers, bytes(self.body), len(self.body) == due and not self._broken)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self._connection.close()
            raise AssertionError(f"H: nothing came for {SILENCE:g} s") from None
        except (OSError, http.client.HTTPException):
            self._broken = True  # it has gone, which is for the judge to excuse


def patient(client: Callable[[], Outcome], longest: float) -> Outcome:
    """The outcome of a client, who must not take longer than so many seconds in all."""
    began = time.monotonic()
    outcome = client()
    took = time.monotonic() - began
    assert took < longest, f"H: {outcome} after {took:.0f} s"
    return outcome


def judge_blob(part: Part, wanted: str | None, got: Outcome, expected: Expectation, *, read: int | None = None) -> None:
    """W, and that what is refused is refused rightly. `read`: the client left after so many bytes."""
    asked = range_of(wanted, part.size) if wanted else None
    due = asked or (0, part.size)
    if got.status not in (200, 206):
        # A size that is a lie moves the ranges that there are.
        _judge_refusal(got, expected, {416} if (due[0] >= due[1] and asked) or not expected.honest else set())
        return
    said = _range_said(got)
    body = part.content[due[0] : due[1]]
    ends = got.whole and said[1] == said[2]
    if expected.honest or ends:
        assert (got.status, said) == (206 if asked else 200, (*due, part.size)), f"W: bytes {due} are due: {said}"
        assert got.headers["docker-content-digest"] == part.digest, f"W: another digest: {got.headers}"
        assert got.body == body[: len(got.body)], f"W: wrong bytes of {part.name}, {_difference(got.body, body)}: {got}"
    if expected.calm:
        left = len(got.body) == min(read, len(body)) if read is not None else got.whole
        assert left, f"B: broken off though nothing stands in the way: {got}"


def judge_head(part: Part, got: Outcome, expected: Expectation) -> None:
    """HEAD never promises what GET does not deliver."""
    if got.status != 200:
        _judge_refusal(got, expected, set())
    elif expected.honest:
        said = got.headers.get("docker-content-digest"), got.headers.get("content-length")
        assert said == (part.digest, str(part.size)), f"HEAD of {part.name} says {said}"


def judge_manifest(allowed: Mapping[str, Part], got: Outcome, expected: Expectation) -> None:
    """One of the manifests `allowed`, by digest, byte for byte."""
    if got.status != 200:
        _judge_refusal(got, expected, set())
        return
    if not got.whole:
        assert not expected.calm, f"B: a manifest that breaks off: {got}"
        return
    digest = f"sha256:{hashlib.sha256(got.body).hexdigest()}"
    assert digest in allowed, f"W: a manifest that is none of {sorted(part.name for part in allowed.values())}: {got}"
    said = got.headers["docker-content-digest"], got.headers["content-type"]
    assert said == (digest, allowed[digest].media_type), f"a manifest's headers say {said}"


def judge_stranger(got: Outcome, expected: Expectation) -> None:
    """S: what a repository was not seen to hold is not given out in its name, wherever else it is."""
    assert got.status not in (200, 206), f"S: given out in the name of a repository that has none of it: {got}"
    _judge_refusal(got, expected, {404})


def _judge_refusal(got: Outcome, expected: Expectation, right: set[int]) -> None:
    """A status other than success. `right` are those that stand even when nothing is wrong."""
    if got.status == 0:
        assert not expected.up, "B: no answer"
        return
    assert got.status in right | OUTAGE, f"B: neither the content nor an outage: {got}"
    assert not expected.calm or got.status in right, f"B: refused though nothing stands in the way: {got}"
    assert not expected.calm or got.whole, f"B: a refusal that breaks off: {got}"


def _range_said(got: Outcome) -> tuple[int, int, int]:
    """(start, stop, size) that an answer claims to be."""
    length = int(got.headers["content-length"])
    if got.status == 200:
        return 0, length, length
    found = _CONTENT_RANGE.fullmatch(got.headers["content-range"])
    assert found, f"no range: {got.headers}"
    start, stop, size = int(found[1]), int(found[2]) + 1, int(found[3])
    assert length == stop - start, f"a length that is not that of its range: {got.headers}"
    return start, stop, size


def _difference(got: bytes, due: bytes) -> str:
    pairs = enumerate(zip(got, due, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(got), len(due)))
    return f"from byte {at} of the answer on"

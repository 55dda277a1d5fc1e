"""What the fault tests share: one Millpond before one scripted upstream a module, and a cold blob a test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import pytest

from tests.support import images
from tests.support.faults import Fault, Gate, change
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, head
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import DEADLINE, wait_until

_T = TypeVar("_T")

UPSTREAM: Final = "docker.io"
MIB: Final = 1 << 20
# Blobs up to one MiB are held back as a whole, so that wrong ones are refused with a status; larger ones begin to flow.
SMALL: Final = 64_000
LARGE: Final = 4 * MIB + 12_345

_seeds = itertools.count(1000)


@dataclass(frozen=True, slots=True)
class Cold:
    """A blob that upstream has, and that this Millpond has never seen."""

    upstream: ScriptedUpstream
    millpond: Millpond
    repository: str
    digest: str
    content: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def url(self) -> str:
        return f"{self.millpond.url}/v2/{UPSTREAM}/{self.repository}/blobs/{self.digest}"

    def script(self, *faults: Fault, then: Fault | None = None, method: str = "GET") -> None:
        """What upstream does at the first, second, … request for this blob."""
        self.upstream.script(self.digest, *faults, then=then, method=method)

    def get(self, headers: Mapping[str, str] | None = None, *, keep: bool = True) -> Reply:
        return get(self.url, headers, keep=keep, timeout=DEADLINE)

    def get_range(self, wanted: str) -> Reply:
        return self.get({"Range": f"bytes={wanted}"})

    def head(self) -> Reply:
        return head(self.url)

    def learn_size(self) -> None:
        """Let Millpond know the size beforehand, as it does from the manifest of an image."""
        blob = images.blob(self.content)
        manifest = images.artifact(images.EMPTY_CONFIG, [blob])
        self.upstream.add_manifest(self.repository, manifest.body, manifest.media_type)
        reply = get(f"{self.millpond.url}/v2/{UPSTREAM}/{self.repository}/manifests/{manifest.digest}")
        assert json.loads(reply.body)["layers"][0] == blob.descriptor()

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of every GET that upstream has seen, in order."""
        return [request.headers.get("range") for request in self.upstream.seen(self.digest)]

    @property
    def sent(self) -> int:
        """Bytes that upstream has sent."""
        return self.upstream.sent_of(self.digest)

    def assert_asked(self, *ranges: str | None, sent: int | None = None) -> None:
        """Upstream has seen GETs with these Range headers, and sent so many bytes for them: all of the blob, once."""
        due = self.size if sent is None else sent
        wait_until(lambda: self.sent >= due, "upstream has counted what it sent")
        assert (self.ranges, self.sent) == (list(ranges), due)

    @property
    def kept(self) -> bool:
        return self.millpond.blob_file(self.digest).exists()

    def assert_whole(self, reply: Reply) -> None:
        """The client has the blob, all of it."""
        assert (reply.status, reply.complete, reply.digest) == (200, True, self.digest), reply

    def assert_refused(self, reply: Reply, status: int = 502) -> None:
        """The client was told so with a status, before it got a byte."""
        assert (reply.status, reply.complete) == (status, True), reply
        assert "docker-content-digest" not in reply.headers
        assert reply.error_code == "UNAVAILABLE"

    def assert_broken_off(self, reply: Reply) -> None:
        """The client sees an incomplete body, and what it has of it is right."""
        assert (reply.status, reply.complete) == (200, False), reply
        assert reply.headers["content-length"] == str(self.size)
        assert reply.size < self.size
        assert self.content.startswith(reply.body)

    def assert_kept(self) -> None:
        wait_until(lambda: self.kept, "the blob is kept")
        self.await_landing()
        assert self.millpond.blob_file(self.digest).read_bytes() == self.content

    def assert_nothing_kept(self) -> None:
        wait_until(lambda: not self.millpond.incoming(), "the temporary file is deleted")
        self.await_landing()
        assert not self.kept

    def await_landing(self) -> None:
        wait_until(lambda: self.millpond.metric("millpond_flights") == 0, "the flight has ended")

    def assert_recovers(self) -> None:
        """A failure is over as soon as upstream behaves."""
        self.upstream.behave()
        self.assert_whole(self.get(keep=False))
        self.assert_kept()


class MakeCold(Protocol):
    """Makes one more cold blob, of `size` bytes, in a repository of its own."""

    def __call__(self, size: int = LARGE) -> Cold: ...


@pytest.fixture(scope="module")
def millpond(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    directory = tmp_path_factory.mktemp("millpond")
    made = Millpond({"upstreams": {UPSTREAM: upstream.upstream()}}, directory, hurried(directory / "site")).start()
    yield made
    made.stop()


@pytest.fixture
def make_cold(upstream: ScriptedUpstream, millpond: Millpond) -> Iterator[MakeCold]:
    upstream.behave()
    yield lambda size=LARGE: cold_blob(upstream, millpond, size)
    upstream.behave()


@pytest.fixture
def cold(make_cold: MakeCold) -> Cold:
    """One that is large enough to flow before it is verified."""
    return make_cold()


def cold_blob(upstream: ScriptedUpstream, millpond: Millpond, size: int = LARGE) -> Cold:
    """A new blob of `size` bytes at `upstream`."""
    seed = next(_seeds)
    content = b"".join(images.noise(size, seed))
    repository = f"library/cold-{seed}"
    return Cold(upstream, millpond, repository, upstream.add_blob(repository, content), content)


def hurried(directory: Path) -> dict[str, str]:
    """The environment of a Millpond that loses no time between its tries.

    The program is the real one; the interpreter only sets another value for one of its constants when it starts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sitecustomize.py").write_text("from proxy.pull import download\ndownload._FIRST_DELAY = 0.01\n")
    return {"PYTHONPATH": f"{directory}:{Path(__file__).parents[2]}"}


def fetched(millpond: Millpond) -> float:
    """Bytes that Millpond has taken from upstream so far."""
    return millpond.metric("millpond_fetched_bytes_total")


def unverified(millpond: Millpond) -> float:
    """How often the alarm for wrong bytes has been raised."""
    return millpond.metric("millpond_verification_failures_total", where="upstream")


class Break:
    """A connection that breaks behind byte `at`, once Millpond has all that was sent before.

    Without that wait a break overtakes what is still on its way, which is then rightly asked for again.
    """

    def __init__(
        self,
        cold: Cold,
        at: int,
        ending: Literal["reset", "close"] = "close",
        framing: Literal["length", "close"] = "length",
    ) -> None:
        self._millpond, self._due = cold.millpond, fetched(cold.millpond) + at
        self._gate = Gate()
        self.fault = change(cut_at=at, ending=ending, framing=framing, gates={at: self._gate})

    def happen(self, already: int = 0) -> None:
        """Wait for it and let it happen; `already` bytes came by earlier connections."""
        await_gate(self._gate)
        wait_until(lambda: fetched(self._millpond) == self._due + already, "Millpond has all that was sent")
        self._gate.open()


def get_through(broken: Break, cold: Cold, clients: ThreadPoolExecutor) -> Reply:
    """What a client gets in whose time the break happens."""
    client = clients.submit(cold.get)
    broken.happen()
    return result(client)


def await_gate(gate: Gate) -> None:
    assert gate.reached.wait(DEADLINE), "upstream has not come as far as the gate"


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients that wait while the test does something else."""
    with ThreadPoolExecutor(128) as pool:
        yield pool


def result(done: Future[_T]) -> _T:
    return done.result(DEADLINE)

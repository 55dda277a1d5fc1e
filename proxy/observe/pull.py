"""One pull as a person sees it: what a client asked for, where it came from, and why that was not the disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from proxy.observe.events import Served
from proxy.observe.rates import HITS
from proxy.oci.names import DOCKER_HUB

SOURCES: Final = ("upstream", "ecr", "stale", "joined", "hit")
"""From the dearest to the cheapest: a pull is as dear as the dearest part of it."""
_RANK: Final = {source: number for number, source in enumerate(SOURCES)}
_NO_SOURCE: Final = len(SOURCES)

# What a client may write into the history by one request, in characters: names are shorter, hostile paths are not.
_MAX_ITEM: Final = 160
_MAX_WHY: Final = 400
# Parts of one pull that are remembered: no image has more layers.
_MAX_PARTS: Final = 128
# Manifests of one pull: an index, an image, what is attached to them.
_MAX_MANIFESTS: Final = 8

_Counts = tuple[int, int, int]  # 1 for a pull, a hit, and a saved pull
_NONE: Final[_Counts] = (0, 0, 0)
# Those of a pull, by whether it is a hit and whether it is saved: one for all, because each pull keeps its own.
_COUNTS: Final = (((1, 0, 0), (1, 0, 1)), ((1, 1, 0), (1, 1, 1)))

HEAD: Final = 0
MANIFEST: Final = 1
PARTS: Final = 2
"""How far a pull has come: its manifest is looked at, it is downloaded, or what it names is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a part of a pull ended that was not served whole."""

    item: str
    status: int
    outcome: str
    why: str


@dataclass(slots=True, eq=False)
class Pull:
    """A manifest and what it names, by one client. Bytes are of bodies; `at` is wall time in seconds, when it began."""

    at: float
    client: str
    user: str
    upstream: str
    repository: str
    number: int = 0  # in the order in which they were heard of; 0 until a request of it has ended
    tag: str = ""
    digest: str = ""  # of the manifest that was asked for first
    source: str = ""  # of `SOURCES`; empty as long as nothing was served
    reason: str = ""  # why it was not the disk
    bytes: int = 0
    seconds: float = 0.0  # from its first request to its last byte so far
    active: int = 0  # requests in progress that were looked at
    requests: int = 0
    done: bool = False  # nothing has been asked for any more for a while
    written: bool = True  # whether the register has it as it is
    stage: int = HEAD
    manifests: tuple[str, ...] = ()  # digests of those that were served
    failures: tuple[Failure, ...] = ()  # in the order in which they happened; a later success takes one out
    # Made when it is needed: many a pull is of one manifest only, and there may be thousands a second.
    _parts: set[str] | None = None  # blobs and children that were asked for
    _fetched_manifest: bool = False
    _counted: _Counts = _NONE  # as it is in the sums

    @property
    def image(self) -> str:
        """As people write it: with the tag that was asked for, else with the digest."""
        name = f"{self.upstream}/{self.repository}"
        return f"{name}:{self.tag}" if self.tag else f"{name}@{self.digest}" if self.digest else name

    @property
    def status(self) -> int:
        """The last failure's status, else 200."""
        return self._failure.status if self._failure else 200

    @property
    def outcome(self) -> str:
        """`pulling` while a request is in progress, then `complete`, `failed`, `client left` or `aborted`."""
        if self.active:
            return "pulling"
        return self._end

    @property
    def why(self) -> str:
        """One sentence: why it failed, or why it did not come from the disk. Empty where there is nothing to say."""
        return self._failure.why if self._failure else self.reason

    def asked_for(self, item: str) -> bool:
        """Whether this blob or child was asked for."""
        return self._parts is not None and item in self._parts

    def failed(self, item: str) -> bool:
        """Whether what was asked for has failed, and has not been served since."""
        return any(failure.item == item for failure in self.failures)

    def ask(self, served: Served) -> None:
        """Note what one of its requests asks for."""
        item = served.item[:_MAX_ITEM]
        if served.kind == "blobs" or (self.digest and item not in (self.tag, self.digest)):
            self.stage = PARTS
            if self._parts is None:
                self._parts = set()
            if len(self._parts) < _MAX_PARTS:
                self._parts.add(item)
            return
        if not (self.tag or self.digest):
            if ":" in item:
                self.digest = item
            else:
                self.tag = item
        if served.method != "HEAD" and self.stage < MANIFEST:
            self.stage = MANIFEST

    def add(self, served: Served, now: float) -> None:
        """One of its requests has ended, at `now`."""
        self.requests += 1
        self.bytes += served.bytes
        self.seconds = now - self.at if now > self.at else 0.0
        self.written = False
        if served.origin == "upstream" and served.kind == "manifests" and served.method == "GET":
            self._fetched_manifest = True
        if served.status >= 400 or served.outcome != "complete":
            self._fail(served)
            return
        if self.failures:
            item = served.item[:_MAX_ITEM]
            self.failures = tuple(failure for failure in self.failures if failure.item != item)
        rank, known = _RANK.get(served.origin, _NO_SOURCE), _RANK.get(self.source, _NO_SOURCE)
        if rank < known or (rank == known and not self.reason):
            self.source, self.reason = served.origin, served.reason[:_MAX_WHY]
        if served.kind == "manifests" and served.digest not in self.manifests:
            self.digest = self.digest or served.digest
            if len(self.manifests) < _MAX_MANIFESTS:
                self.manifests = (*self.manifests, served.digest)

    def uncounted(self) -> _Counts:
        """How many pulls, hits and saved pulls it is more than when this was asked last, or fewer: what looked like a
        hit may turn out to be none."""
        if not self.manifests:
            return _NONE
        hit = self.source in HITS
        saved = self.upstream == DOCKER_HUB and self.stage > HEAD and not self._fetched_manifest
        pulls, hits, saved_pulls = self._counted
        self._counted = _COUNTS[hit][saved]
        return 1 - pulls, hit - hits, saved - saved_pulls

    def row(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "id": str(self.number),
            "at": self.at,
            "client": self.client,
            "user": self.user,
            "image": self.image,
            "digest": self.digest or None,
            "source": self.source or None,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "status": self.status,
            "outcome": self.outcome,
            "why": self.why,
            "requests": self.requests,
            "done": self.done,
        }

    def record(self) -> list[Any]:
        """For the register; `restored` reads it again."""
        whose = [self.client, self.user, self.upstream, self.repository]
        what = [self.number, self.tag, self.digest, self.source, self.bytes, round(self.seconds, 3), self.requests]
        return [self.at, *whose, *what, self.status, self._end, self.why]

    @property
    def _failure(self) -> Failure | None:
        return self.failures[-1] if self.failures else None

    @property
    def _end(self) -> str:
        if self._failure is None:
            return "complete"
        return "failed" if self._failure.outcome == "complete" else self._failure.outcome

    def _fail(self, served: Served) -> None:
        item = served.item[:_MAX_ITEM]
        why = served.why or ("the client closed the connection" if served.outcome == "client left" else "")
        others = (failure for failure in self.failures if failure.item != item)
        self.failures = (*others, Failure(item, served.status, served.outcome, why[:_MAX_WHY]))[-_MAX_PARTS:]


def restored(record: list[Any]) -> Pull:
    """A pull of an earlier run of the program. Raises ValueError, TypeError where the record makes no sense."""
    at, client, user, upstream, repository, number, tag, digest, source, size, seconds, requests, *end = record
    status, outcome, why = end
    whose = (str(client), str(user), str(upstream), str(repository))
    pull = Pull(float(at), *whose, int(number), str(tag), str(digest), str(source), bytes=int(size), done=True)
    pull.seconds, pull.requests = float(seconds), int(requests)
    if outcome == "complete":
        pull.reason = str(why)
    else:
        ended = "complete" if outcome == "failed" else str(outcome)
        pull.failures = (Failure("", int(status), ended, str(why)),)
    return pull


def day_of(at: float) -> str:
    """The day in UTC, such as 2026-11-22."""
    return _day(int(at // 86400))


@lru_cache(4)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86400, UTC).date().isoformat()

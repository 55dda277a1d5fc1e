"""One image that is to stand in one target: what is wanted, how far it is, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal, get_args

from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.names import Repository, Tag

State = Literal["queued", "pushing", "done", "rejected"]

# The first entry of a record; one of another format is dropped, and comes again with the next pull.
_FORMAT: Final = 1


@dataclass(slots=True, eq=False)
class Job:
    """`digest` names the root: an image, an artifact or an index. Times are seconds of the queue's wall clock."""

    target: str
    repository: Repository
    digest: Digest
    added: float
    tags: set[Tag] = field(default_factory=set)
    clashed: set[Tag] = field(default_factory=set)  # tags that an immutable repository has for another image
    children: set[Digest] = field(default_factory=set)  # images of the index that clients have pulled
    state: State = "queued"
    reason: str = ""  # of the last failure, for people
    note: str = ""  # what else people should know
    attempts: int = 0  # failed ones, in a row
    misses: int = 0  # those among them that say that the content is not to be had
    not_before: float = 0.0
    checked: float = 0.0  # when it was last seen to be complete, or to be impossible

    # Of this process only.
    spare: bool = False  # what clients have pulled is pushed, the rest is at low priority
    pushed: bool = False  # something had to be pushed
    revision: int = 0  # grows when more is wanted: whoever pushes then has to look again
    ticket: int = 0  # which of its places in the lane is the valid one
    bytes_done: int = 0
    bytes_total: int = 0  # of the layers known to be missing so far
    accompanied: set[Digest] = field(default_factory=set)  # manifests whose companions have been seen to
    unaccompanied: set[Digest] = field(default_factory=set)  # those where that failed, and is worth another attempt

    @property
    def key(self) -> str:
        return job_key(self.target, self.repository, self.digest)

    def clash(self, tag: Tag) -> None:
        """The tag is another image's for good; it is tried again on demand only. Nothing is left to be tried where a
        newer pull has given the tag to another job meanwhile."""
        if tag in self.tags:
            self.tags.remove(tag)
            self.clashed.add(tag)

    def forgive(self) -> None:
        """Begin as if nothing had failed."""
        self.tags |= self.clashed
        self.clashed.clear()
        self.attempts = self.misses = 0
        self.reason = self.note = ""
        self.not_before = 0.0

    def record(self) -> list[Any]:
        """What `parse_job` reads; JSON as it is."""
        return [
            _FORMAT,
            # A job that is being pushed is one that has to be begun again after a crash.
            "queued" if self.state == "pushing" else self.state,
            self.added,
            self.checked,
            self.not_before,
            self.attempts,
            self.misses,
            self.reason,
            self.note,
            sorted(self.tags),
            sorted(self.clashed),
            sorted(self.children),
        ]


def job_key(target: str, repository: Repository, digest: Digest) -> str:
    return f"{target} {repository} {digest}"


def parse_job(key: str, record: list[Any]) -> Job | None:
    """The job of a record; None where it is not one that this version has written."""
    try:
        target, repository, digest = key.split(" ")
        upstream, slash, path = repository.partition("/")
        version, state, added, checked, not_before, attempts, misses, reason, note, tags, clashed, children = record
        if version != _FORMAT or state not in get_args(State) or not slash:
            return None
        if not all(isfinite(moment) for moment in (added, checked, not_before)):
            return None  # JSON has Infinity and NaN here; such a job would wait for ever
        return Job(
            target,
            Repository.parse(upstream, path),
            Digest.parse(digest),
            float(added),
            tags={Tag.parse(tag) for tag in tags},
            clashed={Tag.parse(tag) for tag in clashed},
            children={Digest.parse(child) for child in children},
            state=state,
            reason=str(reason),
            note=str(note),
            attempts=int(attempts),
            misses=int(misses),
            not_before=float(not_before),
            checked=float(checked),
        )
    except (ValueError, TypeError, AttributeError, OverflowError, MillpondError):
        return None

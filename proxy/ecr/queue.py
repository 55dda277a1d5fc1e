"""The durable queue: one job for each image and target, however many pulls and whatever is killed when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import structlog

from proxy.ecr.job import Job, State, job_key, parse_job
from proxy.ecr.lane import Lane
from proxy.ecr.supply import Records
from proxy.oci.digest import Digest
from proxy.oci.names import Repository, Tag

# An image that was seen to be complete is not looked at again for so long, however often it is pulled.
RECHECK_SECONDS: Final = 3600.0
# A client that has a manifest asks for its layers next. So it begins their flights, in its own order, and the push
# joins them; its index, tag and platform are together by then.
SETTLE_SECONDS: Final = 1.0
# Jobs that wait, a target: about a kilobyte each. Beyond it new ones are not taken: they come again with the next pull.
MAX_OPEN: Final = 20_000
# Jobs that are remembered as done, a target; the oldest is dropped, and its next pull costs one look at ECR.
MAX_DONE: Final = 20_000
# Rejected ones, a target; people read them, and nobody reads more.
MAX_REJECTED: Final = 2_000
# Tags of one image: ECR's quota.
MAX_TAGS: Final = 1_000


class Queue:
    """All methods are for the event loop, and none of them blocks."""

    def __init__(
        self,
        loaded: Mapping[str, list[Any]],
        records: Records,
        clock: Callable[[], float],
        *,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        """`loaded` is what `records` holds from before. `clock` gives wall clock seconds, and never jumps."""
        self._records = records
        self._clock = clock
        self._settle = settle
        self._jobs: dict[str, Job] = {}
        self._states: dict[tuple[str, State], dict[Job, None]] = {}  # in the order in which they came to be so
        self._owners: dict[tuple[str, Repository, Tag], Job] = {}
        self._lanes: dict[str, Lane] = {}
        self._full: set[str] = set()
        for job in sorted(self._parsed(loaded), key=lambda job: max(job.added, job.checked)):
            self._enter(job)

    def lane(self, target: str) -> Lane:
        """Where the jobs of a target wait."""
        if target not in self._lanes:
            self._lanes[target] = Lane(self._clock)
        return self._lanes[target]

    def get(self, target: str, repository: Repository, digest: Digest) -> Job | None:
        return self._jobs.get(job_key(target, repository, digest))

    def owner(self, target: str, repository: Repository, tag: Tag) -> Job | None:
        """Whose the tag is."""
        return self._owners.get((target, repository, tag))

    def find(self, key: str) -> Job | None:
        return self._jobs.get(key)

    def of(self, target: str, state: State) -> dict[Job, None]:
        """The jobs of a target in this state, the oldest first; not to be changed."""
        return self._states.get((target, state), {})

    def count(self, target: str, state: State) -> int:
        return len(self.of(target, state))

    def everything(self) -> dict[str, list[Any]]:
        """All records, as `loaded` had them."""
        return {key: job.record() for key, job in self._jobs.items()}

    def add(
        self,
        target: str,
        repository: Repository,
        digest: Digest,
        tag: Tag | None = None,
        child: Digest | None = None,
        *,
        extends: bool = False,
        at_once: bool = False,
    ) -> Job | None:
        """The image was pulled: by this tag, or by the image `child` of this index.

        A tag belongs to its newest pull: it is taken off all other jobs of the target. A done job runs again when there
        is something new (`extends`: a further child is), or when it has not been looked at for RECHECK_SECONDS.
        `at_once` is for a push on demand: whatever has failed before is tried again. None: the queue is full.
        """
        job = self.get(target, repository, digest)
        if job is None:
            return self._new(target, repository, digest, tag, child, at_once=at_once)
        wanted = extends and child is not None and child not in job.children
        changed = wanted
        if child is not None and child not in job.children:
            job.children.add(child)
            changed = True
        if tag is not None and self._give(tag, job):
            wanted = changed = True
        if at_once or self._is_worth_another_try(job):
            self._again(job)
        elif job.state == "done":
            if wanted or self._clock() - job.checked > RECHECK_SECONDS:
                self._to(job, "queued")
            elif changed:
                self._save(job)
        elif changed:
            job.revision += wanted
            if job.state == "queued" and job.spare:
                job.spare = False  # a client wants something of it: it is no longer at low priority
                if (
                    not job.attempts
                ):  # what it waits for is room in upstream's rate limit, and pulls are not bound by it
                    job.not_before = 0.0
                self.lane(target).put(job)
            self._save(job)
        return job

    def begin(self, job: Job) -> int:
        """The job is being pushed. Returns the revision that `finish` wants."""
        job.bytes_done = job.bytes_total = 0
        self._to(job, "pushing")
        return job.revision

    def finish(self, job: Job, revision: int, note: str) -> None:
        """The job is complete, or has to be looked at again, if more was wanted since `begin`."""
        job.attempts = job.misses = 0
        job.not_before, job.checked = 0.0, self._clock()
        job.reason, job.note = "", note
        job.spare = job.pushed = False
        job.accompanied.clear()
        self._to(job, "done" if job.revision == revision else "queued")

    def hold(self, job: Job, until: float = 0.0, *, reason: str = "", note: str = "") -> None:
        """The job has not ended, and waits until then."""
        job.not_before, job.reason, job.note = until, reason, note
        self._to(job, "queued")

    def reject(self, job: Job, reason: str) -> None:
        """The job is not tried again until somebody asks for it, unless it is upstream that did not have its content
        (`job.misses`): then a pull after RECHECK_SECONDS shows that this may have changed."""
        job.reason, job.note, job.checked = reason, "", self._clock()
        self._to(job, "rejected")

    def retry(self, target: str, wanted: Callable[[Job], bool]) -> int:
        """Begin at once what is rejected, waits after a failure, or lacks a tag. Returns how many."""
        now = self._clock()
        waiting = (job for job in self.of(target, "queued") if job.attempts or job.not_before > now)
        clashed = (job for job in self.of(target, "done") if job.clashed)
        chosen = [job for job in chain(self.of(target, "rejected"), waiting, clashed) if wanted(job)]
        for job in chosen:
            self._again(job)
        if self.lane(target).paused_until <= now:
            return len(chosen)
        # The others wait for nothing but the end of the pause, and there may be thousands of them.
        again = set(chosen)
        return len(chosen) + sum(wanted(job) for job in self.of(target, "queued") if job not in again)

    def _is_worth_another_try(self, job: Job) -> bool:
        return job.state == "rejected" and job.misses > 0 and self._clock() - job.checked > RECHECK_SECONDS

    def _again(self, job: Job) -> None:
        job.forgive()
        job.revision += 1
        if job.state != "pushing":
            job.spare = False
            self._to(job, "queued")

    def _new(
        self,
        target: str,
        repository: Repository,
        digest: Digest,
        tag: Tag | None,
        child: Digest | None,
        *,
        at_once: bool,
    ) -> Job | None:
        if self.count(target, "queued") >= MAX_OPEN:
            if target not in self._full:
                self._full.add(target)
                structlog.get_logger().error(
                    "the queue for ECR is full: further images come when they are pulled again", target=target
                )
            return None
        self._full.discard(target)
        now = self._clock()
        job = Job(target, repository, digest, now, not_before=0.0 if at_once else now + self._settle)
        if child is not None:
            job.children.add(child)
        if tag is not None:
            self._give(tag, job)
        self._jobs[job.key] = job
        self._to(job, "queued")
        return job

    def _give(self, tag: Tag, job: Job) -> bool:
        """Make the tag this job's; whether it was not before."""
        place = job.target, job.repository, tag
        owner = self._owners.get(place)
        if owner is job or len(job.tags) >= MAX_TAGS:
            return False
        if owner is not None:
            owner.tags.discard(tag)
            owner.clashed.discard(tag)
            self._save(owner)
        self._owners[place] = job
        job.tags.add(tag)
        return True

    def _to(self, job: Job, state: State) -> None:
        self._states.get((job.target, job.state), {}).pop(job, None)
        job.state = state
        self._states.setdefault((job.target, state), {})[job] = None
        if state == "queued":
            self.lane(job.target).put(job)
        if state != "pushing":  # in the record it still is a job to be done
            self._save(job)
        limit = {"done": MAX_DONE, "rejected": MAX_REJECTED}.get(state)
        if limit is not None and self.count(job.target, state) > limit:
            self._forget(next(iter(self.of(job.target, state))))

    def _forget(self, job: Job) -> None:
        del self._jobs[job.key]
        del self._states[job.target, job.state][job]
        for tag in job.tags | job.clashed:
            self._owners.pop((job.target, job.repository, tag), None)
        self._records.note(job.key, None)

    def _save(self, job: Job) -> None:
        self._records.note(job.key, job.record())

    def _parsed(self, loaded: Mapping[str, list[Any]]) -> Iterator[Job]:
        for key, record in loaded.items():
            job = parse_job(key, record)
            if job is None:
                self._records.note(key, None)
            else:
                yield job

    def _enter(self, job: Job) -> None:
        self._jobs[job.key] = job
        self._states.setdefault((job.target, job.state), {})[job] = None
        for tag in job.tags | job.clashed:
            self._owners[job.target, job.repository, tag] = job
        if job.state == "queued":
            self.lane(job.target).put(job)

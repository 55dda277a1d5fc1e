"""ECR as the rest of the program sees it: told of every pull, asked for its state, and run as one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Final, get_args

import structlog

from proxy.ecr.api import Api
from proxy.ecr.courtesy import Courtesy
from proxy.ecr.intake import Intake
from proxy.ecr.job import Job, State
from proxy.ecr.push import Pusher
from proxy.ecr.queue import Queue
from proxy.ecr.recall import Recall
from proxy.ecr.repositories import Repositories
from proxy.ecr.supply import Supply
from proxy.ecr.target import Target
from proxy.ecr.unfinished import Unfinished
from proxy.ecr.upload import PARTS_IN_MEMORY, Uploader
from proxy.ecr.worker import Worker, seldom_together
from proxy.observe.events import Served
from proxy.observe.metrics import Metrics
from proxy.observe.surviving import surviving
from proxy.oci.digest import Digest
from proxy.oci.names import Repository, Tag

# Jobs in one status, a target: a page that somebody can read. The counts are of all.
MAX_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """`state` is "ok", or why the whole target is refused; the numbers are of jobs."""

    name: str
    registry: str
    state: str
    queued: int
    pushing: int
    done: int
    rejected: int
    repositories_off: dict[str, str]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`next_try` is in seconds from now, None where none is due; bytes are of the layers that are known to be missing
    in this attempt."""

    target: str
    repository: str
    digest: str
    tags: list[str]
    state: State
    attempts: int
    reason: str
    next_try: float | None
    bytes_done: int
    bytes_total: int
    note: str


@dataclass(frozen=True, slots=True)
class TierStatus:
    targets: list[TargetStatus]
    jobs: list[JobStatus]


class EcrTier:
    """`busy` says whether a client is being served at this moment; `clock` is the queue's."""

    def __init__(
        self,
        apis: Sequence[Api],
        supply: Supply,
        queue: Queue,
        unfinished: Unfinished,
        recall: Recall,
        *,
        busy: Callable[[], bool],
        metrics: Metrics,
        clock: Callable[[], float],
        pushed: Callable[[str, Repository], None] = lambda *_: None,
    ) -> None:
        """`apis` has one for each target, in the order of the configuration. `pushed` is told of the target's name and
        a repository that has more there than before."""
        targets = self._targets = [api.target for api in apis]
        self._supply = supply
        self._queue = queue
        self._recall = recall
        self._clock = clock
        self._intake = Intake(targets, supply, queue, clock)
        self._repositories = {api.target.name: Repositories(api, unfinished) for api in apis}
        self._workers: dict[str, Worker] = {}
        courtesy = self._courtesy = Courtesy(busy)
        parts = asyncio.Semaphore(PARTS_IN_MEMORY)
        for api in apis:
            name = api.target.name
            uploader = Uploader(api, supply, courtesy, parts, metrics)
            pusher = Pusher(api, self._repositories[name], supply, uploader, metrics)
            self._workers[name] = Worker(
                pusher, queue, courtesy, metrics, clock=clock, chance=seldom_together, pushed=pushed
            )
            for state in get_args(State):
                metrics.ecr_queue.labels(name, state).set_function(partial(queue.count, name, state))

    def observe(self, served: Served) -> None:
        """A request has been served. Never raises: the response is on its way, and ECR is not the client's affair."""
        self._courtesy.served()
        try:
            self._intake.observe(served)
        except Exception:  # noqa: BLE001  a defect of ours
            structlog.get_logger().exception("not pushed to ECR until it is pulled again", item=served.item)

    async def run(self) -> None:
        """Push until cancelled; what is not done by then stays in the queue. A defect of one target's worker ends
        neither the others nor the program."""
        try:
            async with asyncio.TaskGroup() as group:
                recalling = partial(self._recall.run, self._intake, self._supply)
                group.create_task(surviving(recalling, "finding what a kill has made the queue for ECR forget"))
                for name, worker in self._workers.items():
                    group.create_task(surviving(worker.run, f"pushing to {name}"))
        finally:
            self._recall.ended()

    def push(self, repository: Repository, digest: Digest, tag: Tag | None) -> list[str]:
        """Push on demand, and at once, whatever has failed before. Returns the keys of the jobs, one a target."""
        return self._intake.add(repository, digest, tag, at_once=True)

    def retry(self, target: str | None = None, image: str | None = None) -> int:
        """Begin at once what was rejected or waits, of one target or all, of one image or all. Returns how many.

        `image` is upstream/name, alone or with :tag or @digest.
        """
        retried = 0
        for name, worker in self._workers.items():
            if target in (None, name):
                self._repositories[name].forget()
                retried += self._queue.retry(name, lambda job: image is None or _is(job, image))
                worker.resume()
        return retried

    def job(self, key: str) -> JobStatus | None:
        """The state of one job; None once it is forgotten."""
        job = self._queue.find(key)
        return None if job is None else self._job(job)

    def status(self) -> TierStatus:
        """All targets, and up to MAX_SHOWN jobs of each: failures first, then the others by how near their end is."""
        jobs = chain.from_iterable(islice(self._shown(target.name), MAX_SHOWN) for target in self._targets)
        rank = {"rejected": 0, "queued": 2, "pushing": 2, "done": 3}
        ordered = sorted(jobs, key=lambda job: 1 if job.reason and job.state == "queued" else rank[job.state])
        return TierStatus(self.targets(), [self._job(job) for job in ordered])

    def targets(self) -> list[TargetStatus]:
        """All targets, without their jobs."""
        return [self._target(target) for target in self._targets]

    def _shown(self, target: str) -> Iterator[Job]:
        of = partial(self._queue.of, target)
        yield from reversed(of("rejected"))
        yield from (job for job in of("queued") if job.reason)
        yield from of("pushing")
        yield from (job for job in of("queued") if not job.reason)
        yield from reversed(of("done"))

    def _target(self, target: Target) -> TargetStatus:
        count = partial(self._queue.count, target.name)
        return TargetStatus(
            target.name,
            target.registry,
            self._workers[target.name].trouble or "ok",
            count("queued"),
            count("pushing"),
            count("done"),
            count("rejected"),
            self._repositories[target.name].trouble,
        )

    def _job(self, job: Job) -> JobStatus:
        waits = job.state == "queued"
        not_before = max(job.not_before, self._queue.lane(job.target).paused_until)
        return JobStatus(
            job.target,
            str(job.repository),
            job.digest,
            sorted(job.tags),
            job.state,
            job.attempts,
            job.reason,
            max(0.0, not_before - self._clock()) if waits else None,
            job.bytes_done,
            job.bytes_total,
            job.note,
        )


def _is(job: Job, image: str) -> bool:
    name = str(job.repository)
    return image in (name, f"{name}@{job.digest}") or any(image == f"{name}:{tag}" for tag in job.tags | job.clashed)

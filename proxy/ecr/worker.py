"""One loop a target: takes jobs from its lane, has them pushed, and decides what becomes of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from proxy.ecr.courtesy import Courtesy
from proxy.ecr.errors import ChildrenMissing, LayersMissing, Refused, Rejected
from proxy.ecr.job import Job
from proxy.ecr.push import Pusher, RepositoryOff
from proxy.ecr.queue import Queue
from proxy.ecr.supply import QuotaReserved
from proxy.observe import traces
from proxy.observe.metrics import Metrics
from proxy.oci.errors import Denied, MillpondError, PolicyDenied, Unknown, UpstreamInvalid
from proxy.oci.names import Repository

# Jobs of one target at once, each of another repository: one that waits for a flight does not hold up the others.
JOBS: Final = 4
# After each failure in a row a job waits twice as long, from the first to the last of these, and goes on for ever.
FIRST_PAUSE: Final = 1.0
LAST_PAUSE: Final = 600.0
# The same for a target that refuses Millpond: somebody has to change a role or a policy first.
FIRST_BREAK: Final = 30.0
LAST_BREAK: Final = 600.0
# Tries after which content that upstream does not have, or refuses, is believed not to come.
MISSES: Final = 5
# The first pause after such a try; it doubles, too. Together they outlast the usual trouble with a token or a mirror.
FIRST_MISS_PAUSE: Final = 10.0
# Upstream's rate limit is counted over hours: no use in asking more often.
QUOTA_PAUSE: Final = 300.0
# A repository that may not be created: as long as `Repositories` remembers that.
OFF_PAUSE: Final = 600.0


class Worker:
    """Works off the jobs of one target until it is cancelled; then the queue stays as it is."""

    def __init__(
        self,
        pusher: Pusher,
        queue: Queue,
        courtesy: Courtesy,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        pushed: Callable[[str, Repository], None],
    ) -> None:
        """`clock` is the queue's; `chance` gives numbers from 0 to 1, for the jitter; `pushed` is told of a repository
        of the target that has more than before."""
        self._pusher = pusher
        self._queue = queue
        self._courtesy = courtesy
        self._clock = clock
        self._chance = chance
        self._pushed = pushed
        self._target = pusher.api.target.name
        self._lane = queue.lane(self._target)
        self._images = metrics.ecr_images
        self._failures = metrics.ecr_failures
        self._breaks = 0
        self._running: dict[asyncio.Task[None], Job] = {}
        self._ended = asyncio.Event()
        self.trouble = ""  # why the whole target is refused; empty while it is not

    async def run(self) -> None:
        """It may be begun again however it has ended: every job that it took has gone back to its lane by then."""
        try:
            while True:
                # A target that has refused everything is asked by one job, not by all of them.
                while len(self._running) >= (1 if self.trouble else JOBS):
                    self._ended.clear()
                    await self._ended.wait()
                job = await self._lane.next()
                task = asyncio.create_task(self._attempt(job), name=f"push {job.key}")
                self._running[task] = job
                task.add_done_callback(self._over)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def resume(self) -> None:
        """Whatever refused may have been mended: try at once."""
        self._breaks = 0
        self._lane.pause(0.0)

    def _over(self, task: asyncio.Task[None]) -> None:
        job = self._running.pop(task)
        self._lane.free(job.repository)
        self._ended.set()
        if task.cancelled():  # wherever that met it, before its beginning too
            self._queue.hold(job, job.not_before, reason=job.reason, note=job.note)
        elif error := task.exception():
            structlog.get_logger().error("push got lost", target=job.target, image=_image(job), exc_info=error)
            self._queue.hold(job, self._after(LAST_PAUSE), reason=_defect(error))

    async def _attempt(self, job: Job) -> None:
        await self._courtesy.quiet()
        revision = self._queue.begin(job)
        try:
            with self._failures_counted(), traces.span("push", target=job.target, image=_image(job)):
                pushed = await self._pusher.push(job)
        except QuotaReserved:
            self._queue.hold(job, self._after(QUOTA_PAUSE), note=_quota_note(job))
        except RepositoryOff as error:
            self._queue.hold(job, self._after(OFF_PAUSE), reason=str(error))
        except Refused as error:
            self._break(str(error))
            self._failed(job, str(error))
        except (Rejected, PolicyDenied) as error:
            self._reject(job, str(error))
        except (Unknown, Denied, UpstreamInvalid, LayersMissing, ChildrenMissing) as error:
            self._missed(job, str(error))
        except MillpondError as error:
            self._failed(job, str(error))
        except Exception as error:  # noqa: BLE001  a defect in one image's push must not end those of all others
            structlog.get_logger().exception("push failed unexpectedly", target=job.target, image=_image(job))
            self._failed(job, _defect(error))
        else:
            self._mend()
            if pushed.more:
                job.spare = job.revision == revision  # else a client has pulled more of it meanwhile
                job.attempts = 0
                self._queue.hold(job, note="what was pulled is pushed; the rest follows in quiet times")
            else:
                self._done(job, revision, pushed.note)

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        try:
            yield
        except QuotaReserved:
            raise  # it waits by our own choice
        except Exception as error:
            # Of our own kinds there are some twenty; of others nobody knows how many.
            reason = type(error).__name__ if isinstance(error, (MillpondError, RepositoryOff)) else "Defect"
            self._failures.labels(self._target, reason).inc()
            raise

    def _done(self, job: Job, revision: int, note: str) -> None:
        outcome = "pushed" if job.pushed else "present"
        self._images.labels(job.target, outcome).inc()
        structlog.get_logger().info("image is in ECR", target=job.target, image=_image(job), outcome=outcome, note=note)
        self._pushed(job.target, job.repository)
        self._queue.finish(job, revision, note)

    def _reject(self, job: Job, reason: str) -> None:
        self._images.labels(job.target, "rejected").inc()
        structlog.get_logger().error(
            "image not pushed to ECR: it is tried again on demand only",
            target=job.target,
            image=_image(job),
            reason=reason,
        )
        self._queue.reject(job, reason)

    def _missed(self, job: Job, reason: str) -> None:
        job.misses += 1
        if job.misses >= MISSES:
            self._reject(job, f"it cannot be completed, after {MISSES} tries: {reason}")
        else:
            self._failed(job, reason, FIRST_MISS_PAUSE)

    def _failed(self, job: Job, reason: str, first_pause: float | None = None) -> None:
        pause = min((first_pause or FIRST_PAUSE) * 2.0 ** min(job.attempts, 30), LAST_PAUSE)
        job.attempts += 1
        structlog.get_logger().warning(
            "push failed, and will be tried again",
            target=job.target,
            image=_image(job),
            attempt=job.attempts,
            reason=reason,
        )
        self._queue.hold(job, self._after(pause), reason=reason, note=job.note)

    def _break(self, reason: str) -> None:
        self.trouble = reason
        if self._lane.paused_until > self._clock():
            return  # another job has just been told the same
        pause = min(FIRST_BREAK * 2.0 ** min(self._breaks, 30), LAST_BREAK)
        self._breaks += 1
        self._lane.pause(self._after(pause))

    def _mend(self) -> None:
        if self.trouble:
            self.trouble = ""
            self.resume()

    def _after(self, pause: float) -> float:
        """When `pause` will be over; up to half of it earlier, so that not all come at once."""
        return self._clock() + pause * (1.0 - self._chance() / 2)


def seldom_together() -> float:
    """The jitter of a running program."""
    return random.random()  # noqa: S311  not a secret


def _image(job: Job) -> str:
    return f"{job.repository}@{job.digest}"


def _defect(error: BaseException) -> str:
    return f"something unexpected happened ({type(error).__name__}); the log says more"


def _quota_note(job: Job) -> str:
    return (
        f"waits: the rate limit of {job.repository.upstream} is nearly used up, and what is left is kept for clients; "
        "it goes on when upstream allows more"
    )

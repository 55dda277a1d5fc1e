"""Whose turn it is: the jobs of one target that wait, never two of one repository at once."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from proxy.ecr.job import Job
from proxy.oci.names import Repository

# Spare work gets each fifth turn at least: it is at low priority, but a busy target must not starve it.
_SPARE_TURN: Final = 5
# The wall clock and the loop's may differ by a tick: a wait must not end just before its time, and spin.
_TICK: Final = 0.01

_Place = tuple[Job, int]  # with the ticket: a job that was put again leaves its older places behind, void


class Lane:
    """Nothing here blocks; `next` waits for events and for the time of the earliest job, and never looks in between."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: tuple[deque[_Place], deque[_Place]] = (deque(), deque())  # pulled, spare
        self._later: list[tuple[float, int, Job, int]] = []
        self._order = 0
        self._taken = 0
        self._busy: dict[Repository, list[_Place]] = {}  # and the jobs that came up while they were
        self._paused_until = 0.0
        self._changed = asyncio.Event()

    def put(self, job: Job) -> None:
        """The job waits, from `job.not_before` on; an earlier place of it is void."""
        job.ticket += 1
        self._order += 1
        heapq.heappush(self._later, (job.not_before, self._order, job, job.ticket))
        self._changed.set()

    def pause(self, until: float) -> None:
        """Give no job before `until`; a time that has passed ends a pause."""
        self._paused_until = until
        self._changed.set()

    @property
    def paused_until(self) -> float:
        return self._paused_until

    async def next(self) -> Job:
        """The next job. Its repository is busy until `free`."""
        while True:
            now = self._clock()
            until: float | None = self._paused_until
            if now >= self._paused_until:
                self._ripen(now)
                if (job := self._take()) is not None:
                    return job
                until = self._later[0][0] if self._later else None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else until - now + _TICK):
                    await self._changed.wait()

    def free(self, repository: Repository) -> None:
        """A job of this repository has ended."""
        for place in reversed(self._busy.pop(repository, [])):
            self._due[place[0].spare].appendleft(place)
        self._changed.set()

    def _ripen(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, job, ticket = heapq.heappop(self._later)
            self._due[job.spare].append((job, ticket))

    def _take(self) -> Job | None:
        spare_first = (self._taken + 1) % _SPARE_TURN == 0
        for places in reversed(self._due) if spare_first else self._due:
            while places:
                job, ticket = place = places.popleft()
                if ticket != job.ticket or job.state != "queued":
                    continue
                if (parked := self._busy.get(job.repository)) is not None:
                    parked.append(place)
                    continue
                self._busy[job.repository] = []
                self._taken += 1
                return job
        return None

"""One call for everyone who wants the same thing at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Runs work once a key, as a task of its own: a caller that leaves neither cancels it nor loses it for others."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """What `work` returns or raises, and whether it was already under way for somebody else."""
        task = self._running.get(key)
        joined = task is not None
        if task is None:
            task = asyncio.create_task(_await(work))
            self._running[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task), joined

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever waited has been told; with nobody left, that is no error to report


async def _await(work: Callable[[], Awaitable[T]]) -> T:
    return await work()

"""Calls to the disk: each on a thread and to its end, and no new blobs for a while after one was refused."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

import structlog

from proxy.oci.errors import DiskFailure

P = ParamSpec("P")
T = TypeVar("T")

# Disk calls wait for the disk more than for the processor; a few more than cores keeps one slow call from delaying all.
_THREADS: Final = 8
# After a write failed the disk is left alone for so long: full disks do not empty within a request.
_PAUSE_SECONDS: Final = 30.0


class DiskCalls:
    """The threads, and whether the disk is fit to keep what is new."""

    def __init__(self, off: str = "") -> None:
        """`off` says why there is no disk at all, where there is none."""
        self._off = off
        self._reason = ""
        self._paused_until = 0.0
        self._threads = ThreadPoolExecutor(_THREADS, "disk")

    @property
    def trouble(self) -> str:
        """Why nothing new is kept at the moment; empty when all is well."""
        return self._off or (self._reason if time.monotonic() < self._paused_until else "")

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """What `call` returns. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    async def opened(self, call: Callable[..., T], *arguments: Any, close: Callable[[T], object]) -> T:
        """As `run`, of a call that opens something: what comes when its caller has been cancelled is closed."""
        work = self._threads.submit(call, *arguments)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception() or close(done.result()))
            raise

    def pause(self, error: OSError) -> DiskFailure:
        """Keep nothing new for a while; the failure to raise."""
        self._reason = f"the disk refused: {error.strerror or error}"
        self._paused_until = time.monotonic() + _PAUSE_SECONDS
        log = structlog.get_logger()
        log.error("disk cache paused, pulls pass through", reason=self._reason, seconds=_PAUSE_SECONDS)
        return DiskFailure(self._reason)

    def close(self) -> None:
        self._threads.shutdown()


async def ended(work: asyncio.Task[T]) -> T:
    """What `work` returns or raises, once it has ended: whoever is cancelled meanwhile, even again and again, is so
    after that. For a thread cannot be called back, and half of it would leave the disk other than it is thought to be.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return work.result()
    if not work.cancelled():
        work.exception()  # nobody is left to be told
    raise cancelled


def unbroken(
    undo: Callable[[Any, Any], Coroutine[Any, Any, object]] | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """A method that comes to its end though its caller is cancelled (`ended`). `undo(self, result)` takes back what
    nobody gets then."""

    def whole(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(method)
        async def to_its_end(*args: P.args, **kwargs: P.kwargs) -> T:
            work = asyncio.create_task(method(*args, **kwargs))
            try:
                return await ended(work)
            except asyncio.CancelledError:
                if not work.cancelled() and not work.exception() and undo is not None:
                    await ended(asyncio.create_task(undo(args[0], work.result())))
                raise

        return to_its_end

    return whole

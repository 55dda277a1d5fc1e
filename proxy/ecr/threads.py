"""Blocking calls beside the event loop, in threads that nobody has to wait for when Millpond stops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """At most `most` calls at once; the others wait their turn. A caller that leaves does not end its call.

    A thread a call costs 0.1 ms, nothing beside a request to AWS. The standard library's pool would hold the whole
    program at its end until the last stalled call has met its deadline; daemon threads do not.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def run(self, work: Callable[[], T], name: str) -> T:
        """What `work()` returns or raises."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._free.release()
            if done.done():
                return  # the caller has left
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # there is one wherever there is no error

        def body() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as caught:  # noqa: BLE001  whoever waits is told, whatever it is
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)
            error = None  # its traceback refers to this frame, and with it to a part of 10 MiB

        try:
            threading.Thread(target=body, name=name, daemon=True).start()
        except RuntimeError:
            self._free.release()  # the system has no thread left
            raise
        return await done

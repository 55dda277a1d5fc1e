"""Each client's turn: so many blobs at once, the others wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from proxy.oci.errors import TooManyRequests

_RETRY_AFTER: Final = 5.0  # seconds that a client is told: a layer of 500 MB takes that long over 1 Gbit/s


@dataclass(slots=True)
class _Line:
    free: asyncio.Semaphore
    length: int = 0  # who has a turn, and who waits for one


class Turns:
    """At most `limit` at once for one client; a further one waits up to `patience` seconds, in order.

    Waiting, because containerd answers a 429 by asking again at once. What is kept is of those who are there.
    """

    def __init__(self, limit: int, patience: float) -> None:
        self._limit = limit
        self._patience = patience
        self.terms = (limit, patience)
        self._lines: dict[str, _Line] = {}

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Inside the block it is the client's turn. Raises TooManyRequests when it does not come in time."""
        line = self._lines.setdefault(client, _Line(asyncio.Semaphore(self._limit)))
        line.length += 1
        try:
            try:
                async with asyncio.timeout(self._patience):
                    await line.free.acquire()
            except TimeoutError:
                raise TooManyRequests(
                    f"{self._limit} pulls of this client run already, and none of them has ended within "
                    f"{self._patience:g} s; try again later, or raise access.max_pulls",
                    _RETRY_AFTER,
                ) from None
            try:
                yield
            finally:
                line.free.release()
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[client]

"""The way of arriving bytes to the file: on threads, in large writes, with little waiting between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.cache.blobs import BlobStore
from proxy.cache.calls import ended
from proxy.cache.files import IncomingFile

# Received and not yet written. Enough to keep upstream and disk busy at once, little enough for many flights.
_BUFFER: Final = 2 << 20
# Upstream's bytes come in pieces of 256 KiB at most, and each write wakes a thread, the hasher and all followers. So
# what comes within a millisecond is written together, unless there is enough already.
_WORTH_WRITING: Final = 1 << 20
_GATHER_SECONDS: Final = 0.001


class Writer:
    """The sink of one connection (`proxy.pull.fetch.Sink`): what came during one write goes out with the next."""

    def __init__(self, store: BlobStore, incoming: IncomingFile, landed: Callable[[int, int], None], at: int) -> None:
        """`at` is where the first chunk belongs; `landed(start, stop)` is told of what is in the file."""
        self._store = store
        self._incoming = incoming
        self._landed = landed
        self._at = at
        self._batch: list[bytes] = []
        self._buffered = 0
        self._job: asyncio.Task[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Take a chunk; wait only when too much is waiting to be written. Raises DiskFailure."""
        self._batch.append(chunk)
        self._buffered += len(chunk)
        if self._job is None or self._job.done():
            await self.drain()
            self._job = asyncio.create_task(self._write_all())
        elif self._buffered > _BUFFER:
            await self.drain()

    async def drain(self) -> None:
        """Wait until all is written, though the caller is cancelled: after this nobody writes to the file. Raises
        DiskFailure."""
        if self._job is not None:
            await ended(self._job)

    async def _write_all(self) -> None:
        while self._batch:
            if self._buffered < _WORTH_WRITING:
                await asyncio.sleep(_GATHER_SECONDS)
            batch, size = self._batch, self._buffered
            self._batch, self._buffered = [], 0
            await self._store.write(self._incoming, self._at, batch)
            self._landed(self._at, self._at + size)
            self._at += size

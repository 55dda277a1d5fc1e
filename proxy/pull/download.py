"""The bytes of one stretch of a blob from one source, in order, across connections that break."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, Protocol, Self

import structlog

from proxy.oci.errors import UpstreamFailure, UpstreamInvalid, UpstreamLimited, UpstreamUnreachable
from proxy.oci.source import BlobStream

# Breaks in a row that brought next to nothing before the download is given up, and breaks in all: an upstream that
# cuts every few megabytes is put up with for a long time, but not for ever.
_TRIES: Final = 8
_BREAKS: Final = 100
_PROGRESS: Final = 64 << 10  # bytes after which a connection counts as having worked
_FIRST_DELAY: Final = 0.2  # seconds, doubled at each try in a row, with jitter


class OpenBlob(Protocol):
    """Opens the blob at a source; `Source.blob` with its repository and digest filled in."""

    def __call__(self, start: int, stop: int | None) -> AbstractAsyncContextManager[BlobStream]: ...


class Download:
    """An asynchronous context manager and iterator. `size` is known once `open` has returned, in bytes.

    Iterating yields the bytes from `start` to `stop`, never more. It raises UpstreamFailure when upstream stays broken,
    and UpstreamInvalid when it contradicts itself or what was `expected`.
    """

    def __init__(
        self,
        open_blob: OpenBlob,
        *,
        expected: int | None = None,
        start: int = 0,
        stop: int | None = None,
        broke: Callable[[], object] = lambda: None,
    ) -> None:
        """`expected` is the size that a descriptor states; `broke` is called at each resumption."""
        self.size = expected
        self.at = start
        self.stop = stop  # None: to the end, which no source has to be asked for
        self._open_blob = open_blob
        self._broke = broke
        self._connection = AsyncExitStack()
        self._stream: BlobStream | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> bool:
        """Connect; whether the source keeps to the range. Nothing of the content has been read when it returns, yet
        the source has agreed to send it."""
        stream = await self._connection.enter_async_context(self._open_blob(self.at, self.stop))
        if stream.size is not None and self.size is not None and stream.size != self.size:
            raise UpstreamInvalid(f"upstream sends a blob of {stream.size} bytes where {self.size} are due")
        if stream.start > self.at:
            raise UpstreamInvalid(f"upstream starts at byte {stream.start}, after byte {self.at} that was asked for")
        self.size = stream.size if self.size is None else self.size
        self._stream = stream
        return stream.ranged

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        tries = breaks = 0
        while not self._complete:
            before = self.at
            try:
                if self._stream is None:
                    await self.open()
                async for chunk in self._chunks():
                    yield chunk
                    if self._complete:
                        return  # without waiting for the end of a connection that upstream keeps open
                if self.size is None:
                    self.size = self.at
                    return
                raise UpstreamUnreachable(f"upstream ended the blob at byte {self.at} of {self.size}")
            except UpstreamFailure as failure:
                await self.aclose()
                tries = 1 if self.at - before >= _PROGRESS else tries + 1
                breaks += 1
                if tries >= _TRIES or breaks >= _BREAKS:
                    raise
                self._broke()
                structlog.get_logger().warning("download broke, resuming", at=self.at, size=self.size, why=str(failure))
                if isinstance(failure, UpstreamLimited):
                    await asyncio.sleep(failure.retry_after)  # asking sooner would only be refused again
                else:
                    await asyncio.sleep(_FIRST_DELAY * 2 ** (tries - 1) * random.uniform(0.5, 1.5))  # noqa: S311

    @property
    def connected(self) -> bool:
        return self._stream is not None

    @property
    def _complete(self) -> bool:
        return self.at == (self.size if self.stop is None else self.stop)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """What the open connection brings between `at` and `stop`; what a source sends around that is dropped."""
        assert self._stream is not None
        position = self._stream.start
        async for chunk in self._stream.chunks:
            fresh = chunk[max(0, self.at - position) :]
            position += len(chunk)
            if self.size is not None and position > self.size:
                raise UpstreamInvalid(f"upstream sends more than the {self.size} bytes that the blob has")
            if self.stop is not None:
                fresh = fresh[: self.stop - self.at]
            if fresh:
                self.at += len(fresh)
                yield fresh

    async def aclose(self) -> None:
        """Let go of the connection. Iterating on would open a new one."""
        self._stream = None
        await self._connection.aclose()

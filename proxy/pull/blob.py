"""A blob that can be read, wherever it is: on the disk, arriving, or passing by the disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Protocol

from proxy.cache.files import BlobFile
from proxy.oci.errors import DiskFailure, UpstreamInvalid
from proxy.pull.flight import Flight
from proxy.pull.origin import Origin
from proxy.pull.piece import Piece, Segment
from proxy.pull.relay import Relay


class Blob(Protocol):
    """Read any range of it, any number of times, until it is closed. `arrived` waits, where it is arriving, until a
    reading up to `stop` need not wait, and hurries nobody. `kept` waits until it is on the disk, and raises what it
    failed of: DiskFailure where the disk does not take it."""

    @property
    def origin(self) -> Origin: ...
    @property
    def reason(self) -> str: ...
    @property
    def size(self) -> int: ...
    async def arrived(self, stop: int) -> None: ...
    async def kept(self) -> None: ...
    def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]: ...
    async def failed(self, error: OSError) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Cached:
    """A blob on disk. `spoilt` is told what kept its file from being read."""

    blob: BlobFile
    spoilt: Callable[[OSError], Awaitable[None]]
    origin: Origin = "hit"
    reason: str = ""

    @property
    def size(self) -> int:
        return self.blob.size

    async def arrived(self, stop: int) -> None:
        """It is there."""

    async def kept(self) -> None:
        """It is."""

    async def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        if start < stop:
            yield Segment(self.blob.file, start, stop - start)

    async def failed(self, error: OSError) -> None:
        await self.spoilt(error)

    def close(self) -> None:
        self.blob.close()


@dataclass(slots=True)
class Flying:
    """A blob that is arriving. Should the disk give out meanwhile, the rest comes past it; should ECR have given wrong
    bytes, a reader who has had none of them yet begins anew with somebody else."""

    flight: Flight
    relay: Relay
    size: int
    origin: Origin
    reason: str
    again: Callable[[], Awaitable[Blob]]

    def __post_init__(self) -> None:
        self.flight.hold()

    async def arrived(self, stop: int) -> None:
        await self.flight.await_front(stop)

    async def kept(self) -> None:
        try:
            await self.flight.kept()
        except UpstreamInvalid:
            if not self.flight.misled:
                raise
            with closing(await self.again()) as blob:
                await blob.kept()

    async def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        at = start
        try:
            async with aclosing(self.flight.follow(start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
                    at += piece.count if isinstance(piece, Segment) else len(piece)
        except DiskFailure:
            async with aclosing(self.relay.read(at, stop, self.flight.arrived())) as chunks:
                async for chunk in chunks:
                    yield chunk
        except UpstreamInvalid:
            if at > start or not self.flight.misled:
                raise
            async with aclosing(self._read_again(start, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _read_again(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        with closing(await self.again()) as blob:
            if blob.size != self.size:
                raise UpstreamInvalid(f"the blob has {blob.size} bytes where ECR said {self.size}")
            async with aclosing(blob.read(start, stop)) as pieces:
                async for piece in pieces:
                    self.origin = blob.origin  # known at its first piece: it may have begun anew as well
                    yield piece

    async def failed(self, error: OSError) -> None:
        """Of its own failures a flight knows itself."""

    def close(self) -> None:
        self.flight.release()


@dataclass(frozen=True, slots=True)
class Passing:
    """A blob that the disk has no room for, or no business with."""

    relay: Relay
    size: int
    reason: str = ""
    origin: Origin = "upstream"

    async def arrived(self, stop: int) -> None:
        """Nothing arrives until it is read."""

    async def kept(self) -> None:
        raise DiskFailure(
            "the disk cache has no room for it, or cannot be used at the moment; `millpond status` says why"
        )

    def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        return self.relay.read(start, stop)

    async def failed(self, error: OSError) -> None:
        """It has no file."""

    def close(self) -> None:
        """There is nothing to close: each reading has a connection of its own."""

"""One blob's bytes from whoever gives them: what breaks at one source goes on at the next."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, UpstreamFailure, UpstreamUnreachable
from proxy.oci.names import Repository
from proxy.oci.source import BlobStream, Source
from proxy.pull.lanes import Lanes
from proxy.pull.near import Copy
from proxy.pull.origin import Tier


@dataclass(slots=True, eq=False)
class Giver:
    """Somebody who may have the blob: a copy at a target, or upstream (None). `received` counts bytes."""

    copy: Copy | None
    source: Source
    path: str
    lanes: Lanes
    received: Callable[[float], object]
    failures: int = 0
    brought: bool = False  # any bytes

    @property
    def tier(self) -> Tier:
        return "upstream" if self.copy is None else "ecr"

    def open(
        self, digest: Digest, start: int, stop: int | None, size: int | None
    ) -> AbstractAsyncContextManager[BlobStream]:
        if self.copy is None:
            return self.source.blob(self.path, digest, start, stop)
        return self.copy.blob(digest, start, stop, size)

    def broke(self, why: UpstreamFailure) -> None:
        """It stopped in the middle."""
        self.failures += 1
        if self.copy is not None:
            self.copy.near.failed("blobs", why)


class Delivery:
    """Opens a blob, or a part of it, at whoever has failed it least; those before the others in the order given."""

    def __init__(self, repository: Repository, digest: Digest, size: int | None, givers: Sequence[Giver]) -> None:
        """`size` in bytes; None where it has still to be learnt whether the repository holds the blob: then upstream
        comes first, and whatever it answers is the last word."""
        self.repository = repository
        self.digest = digest
        self._size = size
        self._held = size is not None
        self._givers = list(givers)
        self._giving = self._givers[0]
        self._first: Giver | None = None

    @property
    def tier(self) -> Tier:
        """Who agreed to give it first."""
        return self._first.tier if self._first is not None else "upstream"

    @property
    def lanes(self) -> Lanes:
        """The connections to whoever gives it now."""
        return self._giving.lanes

    async def size(self) -> int:
        """The blob's size in bytes, from whoever gives it, where its stream does not say."""
        self._size = await self._giving.source.blob_size(self._giving.path, self.digest)
        return self._size

    @asynccontextmanager
    async def open(self, start: int = 0, stop: int | None = None) -> AsyncIterator[BlobStream]:
        """As `Source.blob`; raises upstream's error when nobody gives it."""
        async with AsyncExitStack() as opened:
            giver, stream = await self._agreed(opened, start, stop)
            self._giving = giver
            self._first = self._first or giver
            self._size = stream.size if self._size is None else self._size
            async with aclosing(self._watched(giver, stream, stop)) as chunks:
                yield replace(stream, chunks=chunks)

    def blame(self) -> bool:
        """What came was wrong. Whether a target brought any of it: it is distrusted, and the others may do better."""
        misled = [giver for giver in self._givers if giver.copy is not None and giver.brought]
        for giver in misled:
            assert giver.copy is not None
            giver.copy.near.distrust(self.digest)
            self._givers.remove(giver)
        return bool(misled)

    async def _agreed(self, opened: AsyncExitStack, start: int, stop: int | None) -> tuple[Giver, BlobStream]:
        """The first who agrees to send it. The order is stable, so equals stay as they were given."""
        refusal: MillpondError | None = None
        for giver in sorted(self._givers, key=lambda giver: giver.failures):
            try:
                return giver, await opened.enter_async_context(giver.open(self.digest, start, stop, self._size))
            except MillpondError as error:
                giver.failures += 1
                if giver.copy is None:
                    refusal = error
                    if not self._held and not isinstance(error, UpstreamFailure):
                        break
        assert refusal is not None, "upstream is always among those asked"
        raise refusal

    async def _watched(self, giver: Giver, stream: BlobStream, stop: int | None) -> AsyncGenerator[bytes, None]:
        at = stream.start
        due = stop if stream.ranged and stop is not None else self._size
        try:
            async for chunk in stream.chunks:
                at += len(chunk)
                if giver.copy is not None and due is not None and at > due:
                    raise UpstreamUnreachable(f"ecr sends more than the {due} bytes that are due")
                giver.brought = True
                giver.received(len(chunk))
                yield chunk
            if due is not None and at < due:
                raise UpstreamUnreachable(f"{giver.tier} ended the blob at byte {at} of {due}")
        except UpstreamFailure as failure:
            giver.broke(failure)
            raise

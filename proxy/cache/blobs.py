"""The blob store: what is on disk, how much may be, and what has to go when more arrives.

Files are opened, written and removed on threads; what is there is looked up in the index, in memory.
When the disk cannot be used the store says so (`DiskFailure`), and pulls pass through.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Final

import structlog

from proxy.cache.calls import DiskCalls, unbroken
from proxy.cache.departures import Why
from proxy.cache.files import PIECE, BlobFile, Files, Found, IncomingFile
from proxy.cache.index import Entry, Index
from proxy.cache.room import Room
from proxy.cache.verdict import Verdict
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure

# What a process without resources gets for any file; everything else is said of the one file.
_NOT_THE_FILES_FAULT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# What a disk says that no longer has what was written.
_UNREADABLE: Final = frozenset({errno.EIO, errno.ESTALE, errno.EBADMSG})
# Files of a walk that are looked at together: a millisecond or two, on the thread and then on the event loop.
_BATCH: Final = 500


async def _at_once(_: int) -> None:
    """Between two pieces of a file that is hashed without a pause."""


class BlobStore:
    """Verified blobs by digest, within a budget of bytes, least recently used first to go."""

    def __init__(
        self,
        files: Files | None,
        index: Index,
        *,
        max_size: int,
        min_free: int,
        metrics: Metrics,
        off: str = "",
    ) -> None:
        """`files` None turns the store off for good, for the reason `off`. Sizes are in bytes."""
        self._files = files
        self._calls = DiskCalls(off)
        self._index = index
        self._room = Room(index, max_size, min_free)
        self._leaving: dict[Digest, asyncio.Future[None]] = {}  # forgotten, and their files may be there still
        self._metrics = metrics
        metrics.cache_max_bytes.set(max_size)
        metrics.cache_min_free_bytes.set(min_free)
        metrics.cache_pinned_bytes.set_function(lambda: self.pinned)
        metrics.cache_bytes.set_function(lambda: self.accounted)
        metrics.cache_blobs.set_function(lambda: len(index))
        metrics.cache_up.set_function(lambda: not self.trouble)

    # What is there

    @property
    def accounted(self) -> int:
        """Bytes accounted for: stored, and promised to what is arriving."""
        return self._room.accounted

    @property
    def stored(self) -> int:
        """Bytes of what is there."""
        return self._index.bytes

    @property
    def count(self) -> int:
        """Blobs and manifests that are there."""
        return len(self._index)

    @property
    def budget(self) -> tuple[int, int]:
        """Bytes that may be stored, and bytes that the file system is to have left."""
        return self._room.max_size, self._room.min_free

    @property
    def pinned(self) -> int:
        """Bytes of what is there and pinned."""
        return self._index.held_bytes

    @property
    def unusable(self) -> str:
        """Why nothing is ever kept or read; empty when there is a disk."""
        return "" if self._files else self._calls.trouble

    @property
    def trouble(self) -> str:
        """Why nothing new is kept at the moment; empty when all is well."""
        return self._calls.trouble

    @property
    def crowded(self) -> str:
        """Why what is pinned left no room for what arrived last; empty when it did."""
        return self._room.crowded

    @property
    def unconfirmed(self) -> set[Digest]:
        """What the ledger knew at the start; the sweep takes out what it has looked at."""
        return self._index.unconfirmed

    def __contains__(self, digest: object) -> bool:
        return digest in self._index

    def size(self, digest: Digest) -> int:
        """The size of a blob that is there, in bytes. Raises KeyError when it is not."""
        entry = self._index.get(digest)
        if entry is None:
            raise KeyError(digest)
        return entry.size

    def used(self, digest: Digest) -> float | None:
        """When the blob was last asked for, wall time in seconds; None when it is not there."""
        entry = self._index.get(digest)
        return entry.used if entry else None

    def next_to_go(self, count: int) -> list[tuple[Digest, Entry]]:
        """The blobs that make room first, at most so many of them. Costs no more than those."""
        return self._index.next_to_go(count)

    def digests(self) -> list[Digest]:
        """What is there now, least recently used first, then what is pinned. With very many, this takes too long for
        the event loop."""
        return list(self._index)

    async def walk(self) -> AsyncIterator[list[Found]]:
        """Every blob's file, as the disk has it, some at a time. Raises OSError."""
        if self._files is not None:
            files = self._files.walk()
            while batch := await self._calls.run(_listed, islice(files, _BATCH)):
                yield batch

    async def free(self) -> int | None:
        """Bytes that the file system has left now; None where there is none, or it does not say."""
        free = None
        if self._files is not None:
            with contextlib.suppress(OSError):
                free = await self._calls.run(self._files.free)
        self._metrics.cache_free_bytes.set(math.nan if free is None else free)
        return free

    def touch(self, digest: Digest) -> None:
        """Remember that the blob was used just now. Costs no I/O."""
        self._index.touch(digest)

    async def open(self, digest: Digest, *, use: bool = True) -> BlobFile | None:
        """The blob for reading, checked against the index; None where it is not there, or not what it was. Whoever only
        looks at it makes no `use` of it."""
        before = self._index.get(digest)
        if self._files is None or before is None:
            return None
        try:
            found = await self._calls.opened(self._files.open, digest, close=_close)
        except OSError as error:
            if error.errno not in _NOT_THE_FILES_FAULT:
                await self.evict(digest, "damaged")
            self._calls.pause(error)
            return None
        entry = self._index.get(digest)
        if found is None:
            if entry is before:  # else it has gone meanwhile, and may have come again
                self._index.forget(digest)
            return None
        with contextlib.ExitStack() as unfit:
            unfit.callback(found.close)
            if entry is None:
                pass  # it has just been evicted, and its room is another's
            elif found.size != entry.size:
                await self._distrust(digest)
            elif found.changed == entry.changed or await self.verify(digest) is Verdict.INTACT:
                entry.changed = found.changed
                if use:
                    self.touch(digest)
                unfit.pop_all()
                return found
        return None

    @unbroken()  # else its file would be closed below the hands of a thread
    async def read(self, digest: Digest, *, use: bool = True) -> bytes | None:
        """The whole of a small blob (a manifest), not verified; None where it is not there. `use` is as in `open`."""
        blob = await self.open(digest, use=use)
        if blob is None:
            return None
        try:
            return await self._calls.run(blob.file.read)
        except OSError as error:
            await self.spoilt(digest, error)
            return None
        finally:
            blob.close()

    async def spoilt(self, digest: Digest, error: OSError) -> None:
        """Reading the blob's file has failed so: it is not kept where its content has gone."""
        if error.errno in _UNREADABLE and digest in self._index:
            await self._distrust(digest)

    async def verify(self, digest: Digest, hashed: Callable[[int], Awaitable[None]] = _at_once) -> Verdict:
        """Hash a blob's file, and evict it when it is not what its name says. `hashed(bytes)` is awaited between pieces
        of it."""
        entry = self._index.get(digest)
        if entry is None:
            return Verdict.GONE
        try:
            verdict = Verdict.INTACT if await self.hashes(digest, hashed) else Verdict.DAMAGED
        except FileNotFoundError:
            verdict = Verdict.MISSING
        except OSError as error:
            verdict = Verdict.UNREADABLE if error.errno in _NOT_THE_FILES_FAULT else Verdict.DAMAGED
        if self._index.get(digest) is not entry:  # what was hashed is not what is there now
            return Verdict.GONE
        if verdict is Verdict.MISSING:
            self._index.forget(digest)
        elif verdict is Verdict.DAMAGED:
            await self._distrust(digest)
        return verdict

    async def hashes(self, digest: Digest, hashed: Callable[[int], Awaitable[None]] = _at_once) -> bool:
        """Whether the file hashes to its name, in the index or not. `hashed` is as in `verify`. Raises OSError."""
        assert self._files is not None
        hasher, at, piece = digest.hasher(), 0, PIECE
        while piece >= PIECE:
            piece = await self._calls.run(self._files.hash_piece, digest, hasher, at)
            at += piece
            await hashed(piece)
        return digest.matches(hasher)

    # What arrives

    def admits(self, size: int) -> bool:
        """Whether it is worth trying to keep a blob of so many bytes."""
        return not self.trouble and not self._room.refuses(size)

    async def _withdraw(self, incoming: IncomingFile) -> None:
        await self.discard(incoming)
        incoming.file.close()

    @unbroken(undo=_withdraw)
    async def begin(self, digest: Digest, size: int) -> IncomingFile:
        """Make room for `size` bytes and open a file for them.

        Raises:
            DiskFailure: the store is off or paused, or the blob has no place in the budget. Nothing was evicted.
        """
        if self._files is None or not self.admits(size):
            raise DiskFailure(self.trouble or self._room.refuses(size))
        try:
            free = await self._calls.run(self._files.free)
        except OSError as error:
            raise self._calls.pause(error) from error
        incoming = self._files.incoming(digest, size)
        victims = self._room.promise(incoming, free)
        self._metrics.evictions.inc(len(victims))
        try:
            with self._leave([victim for victim, _ in victims]):
                while victims:
                    await self._calls.run(self._files.remove, victims[-1][0])
                    victims.pop()
            await self._calls.run(incoming.open)
        except OSError as error:
            self._room.release(incoming)
            self._index.readmit(reversed(victims))
            raise self._calls.pause(error) from error
        return incoming

    @unbroken()
    async def write(self, incoming: IncomingFile, at: int, chunks: list[bytes]) -> None:
        """Write what has arrived. Raises DiskFailure, and pauses the store, when the disk refuses."""
        try:
            await self._calls.run(incoming.write, at, chunks)
        except OSError as error:
            raise self._calls.pause(error) from error

    @unbroken()
    async def hash(self, incoming: IncomingFile, front: int) -> None:
        """Hash what is written up to `front`. Raises DiskFailure, and pauses the store, when the disk refuses."""
        try:
            await self._calls.run(incoming.hash_to, front)
        except OSError as error:
            raise self._calls.pause(error) from error

    @unbroken()
    async def commit(self, incoming: IncomingFile) -> None:
        """Keep a blob that has been verified. Raises DiskFailure when it cannot be kept; it is discarded then."""
        assert self._files is not None
        if leaving := self._leaving.get(incoming.digest):
            await asyncio.wait({leaving})  # else what removes the file that had this name would remove this one
        try:
            found = await self._calls.run(self._files.commit, incoming)
        except OSError as error:
            await self.discard(incoming)
            raise self._calls.pause(error) from error
        self._room.release(incoming)
        self.adopt(found)

    @unbroken()
    async def discard(self, incoming: IncomingFile) -> None:
        """Remove what has arrived so far. Whoever reads the open file may go on."""
        assert self._files is not None
        self._room.release(incoming)
        try:
            await self._calls.run(self._files.discard, incoming)
        except OSError as error:
            self._calls.pause(error)

    @unbroken()
    async def put(self, digest: Digest, body: bytes) -> None:
        """Keep a small blob (a manifest) whose digest has been verified. Raises DiskFailure."""
        if digest in self._index:
            self.touch(digest)
            return
        incoming = await self.begin(digest, len(body))
        try:
            await self.write(incoming, 0, [body])
            await self.hash(incoming, len(body))
        except DiskFailure:
            await self.discard(incoming)
            raise
        else:
            await self.commit(incoming)
        finally:
            incoming.file.close()

    def adopt(self, found: Found, used: float | None = None) -> None:
        """Take a verified file into the index; `used` is when it was last asked for (wall time), now by default."""
        self._index.add(found.digest, found.size, found.changed, used)

    # What goes

    @unbroken()
    async def evict(self, digest: Digest, why: Why = "purged") -> None:
        """Remove a blob, whether or not someone reads it: readers keep their open file. `why` is remembered."""
        self._index.forget(digest, why)
        if self._files is not None:
            try:
                with self._leave([digest]):
                    await self._calls.run(self._files.remove, digest)
            except OSError as error:
                self._calls.pause(error)

    async def shrink(self) -> None:
        """Evict down to the budget, or to what is pinned: after a restart with a smaller one, or after files were
        adopted."""
        while self.accounted > self._room.max_size and (oldest := self._index.next_to_go(1)):
            self._metrics.evictions.inc()
            await self.evict(oldest[0][0], "evicted")

    def close(self) -> None:
        self._calls.close()

    @contextlib.contextmanager
    def _leave(self, digests: Collection[Digest]) -> Iterator[None]:
        """While their files are being removed."""
        gone = asyncio.get_running_loop().create_future()
        self._leaving.update(dict.fromkeys(digests, gone))
        try:
            yield
        finally:
            gone.set_result(None)
            for digest in digests:
                if self._leaving.get(digest) is gone:
                    del self._leaving[digest]

    async def _distrust(self, digest: Digest) -> None:
        structlog.get_logger().error("cached blob damaged: evicted", digest=digest)
        self._metrics.unverified.labels("disk").inc()
        await self.evict(digest, "damaged")


def _close(found: BlobFile | None) -> None:
    if found is not None:
        found.close()


def _listed(found: Iterable[Found]) -> list[Found]:
    return list(found)

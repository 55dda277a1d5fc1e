"""Where blobs lie on disk, and the blocking calls on them. All of it runs on threads, none on the event loop.

blobs/sha256/ab/abcdef…          verified content, named by what it hashes to
incoming/sha256-abcdef….0.part   content that is still arriving; nothing here outlives a restart
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.oci.digest import HEX_LENGTH, Digest, Hasher
from proxy.oci.errors import DigestInvalid

_READ: Final = 1 << 20  # bytes a read when hashing: large enough that Python costs nothing beside SHA-256
# Hashed by one call: two milliseconds of a thread, so that neither others nor the end of the program wait for it.
PIECE: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A blob's file as the file system shows it. `changed` is its modification time in nanoseconds."""

    digest: Digest
    size: int
    changed: int


class BlobFile:
    """An open, verified blob. Whoever opened it closes it; eviction meanwhile does not disturb the reader."""

    __slots__ = ("changed", "file", "size")

    def __init__(self, file: io.FileIO) -> None:
        status = os.fstat(file.fileno())
        self.file = file
        self.size = status.st_size
        self.changed = status.st_mtime_ns

    def close(self) -> None:
        self.file.close()


class IncomingFile:
    """A blob that is arriving: written in any order, read meanwhile, hashed from its start as the gaps close.

    `open` comes first. `write` may run on several threads at once for different bytes, `hash_to` on one. All block.
    """

    file: io.FileIO

    def __init__(self, path: Path, digest: Digest, size: int) -> None:
        self.path = path
        self.digest = digest
        self.size = size
        self.written = 0  # bytes, wherever they are
        self.hashed = 0  # bytes from the start that `hasher` has seen
        self.hasher = digest.hasher()

    def open(self) -> None:
        """Make the file. Raises OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.file = io.FileIO(fd, "r+b")

    def write(self, at: int, chunks: Sequence[bytes]) -> None:
        """Write `chunks` one behind the other from byte `at` on. Raises OSError when the disk refuses."""
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                count = os.pwrite(self.file.fileno(), view, at)
                view, at = view[count:], at + count
                self.written += count

    def hash_to(self, front: int) -> None:
        """Hash what lies between what has been hashed and `front`, as the file has it. Raises OSError."""
        buffer = memoryview(bytearray(min(_READ, front - self.hashed)))
        while self.hashed < front:
            count = os.preadv(self.file.fileno(), [buffer[: front - self.hashed]], self.hashed)
            if count == 0:
                raise OSError(errno.EIO, "the file is shorter than what was written")
            self.hasher.update(buffer[:count])
            self.hashed += count

    @property
    def verified(self) -> bool:
        """Whether all of it is there and hashes to its digest."""
        return self.hashed == self.size and self.digest.matches(self.hasher)


class Files:
    """The cache directory's layout."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._incoming = root / "incoming"
        self._count = itertools.count()

    def prepare(self) -> None:
        """Make the directories and remove what a previous process left unfinished. Raises OSError."""
        for algorithm in HEX_LENGTH:
            (self._blobs / algorithm).mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        for path in self._incoming.iterdir():
            path.unlink()

    def free(self) -> int:
        """Bytes that the file system still has for us."""
        status = os.statvfs(self._blobs)
        return status.f_bavail * status.f_frsize

    def total(self) -> int:
        """The size of the file system in bytes."""
        status = os.statvfs(self._blobs)
        return status.f_blocks * status.f_frsize

    def open(self, digest: Digest) -> BlobFile | None:
        """The blob, or None where there is no such file."""
        try:
            return BlobFile(io.FileIO(os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC), "rb"))
        except FileNotFoundError:
            return None

    def incoming(self, digest: Digest, size: int) -> IncomingFile:
        """A blob that is to arrive; nothing is on the disk before it is opened."""
        # Numbered, so that two arrivals of one manifest cannot write into each other's file.
        name = f"{digest.algorithm}-{digest.hex}.{next(self._count)}.part"
        return IncomingFile(self._incoming / name, digest, size)

    def commit(self, incoming: IncomingFile) -> Found:
        """Make a verified blob durable under its name. Raises OSError, after which it is not there."""
        os.fsync(incoming.file.fileno())
        path = self._path(incoming.digest)
        path.parent.mkdir(exist_ok=True)
        incoming.path.rename(path)
        try:
            for directory in (path.parent, path.parent.parent):
                _sync_directory(directory)
        except OSError:
            path.unlink()
            raise
        return Found(incoming.digest, incoming.size, os.fstat(incoming.file.fileno()).st_mtime_ns)

    def discard(self, incoming: IncomingFile) -> None:
        incoming.path.unlink(missing_ok=True)

    def remove(self, digest: Digest) -> None:
        self._path(digest).unlink(missing_ok=True)

    def hash_piece(self, digest: Digest, hasher: Hasher, at: int) -> int:
        """Feed `hasher` what the file has from byte `at` on, PIECE bytes of it; fewer only at its end. Raises OSError.

        The file is open for this piece only: a slow check of a large one would keep the room of what was evicted.
        """
        fd = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            buffer = memoryview(bytearray(min(_READ, max(1, os.fstat(fd).st_size - at))))
            done = 0
            while done < PIECE and (count := os.preadv(fd, [buffer], at + done)):
                hasher.update(buffer[:count])
                done += count
            return done
        finally:
            os.close(fd)

    def walk(self) -> Iterator[Found]:
        """Every file that is named as a blob. What else lies about is not ours, and stays."""
        shelves = []
        for algorithm in HEX_LENGTH:
            with os.scandir(self._blobs / algorithm) as found:
                shelves += [(algorithm, shelf.path) for shelf in found if shelf.is_dir(follow_symlinks=False)]
        # In another order each time: a program that is restarted often would never come to the last ones.
        random.shuffle(shelves)
        for algorithm, shelf in shelves:
            yield from self._on_shelf(algorithm, shelf)

    def _on_shelf(self, algorithm: str, path: str) -> Iterator[Found]:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    digest = Digest.parse(f"{algorithm}:{entry.name}")
                    status = entry.stat(follow_symlinks=False)
                except (DigestInvalid, FileNotFoundError):
                    continue
                yield Found(digest, status.st_size, status.st_mtime_ns)

    def _path(self, digest: Digest) -> Path:
        # Built from validated hexadecimal digits only: no name that a client sends can lead elsewhere.
        return self._blobs / digest.algorithm / digest.hex[:2] / digest.hex


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

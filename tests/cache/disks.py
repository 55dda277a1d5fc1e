"""What the tests of the disk share: small file systems, caches on them, and what really lies on the disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.cache.blobs import BlobStore
from proxy.cache.disk import DiskCache
from proxy.cache.files import IncomingFile
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from tests.support.millpond import Millpond
from tests.support.programs import require_root, run
from tests.support.waiting import wait_until

GIB: Final = 1 << 30


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes in memory, mounted on `directory`. Skips the test without root."""
    require_root()
    directory.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small-disk", str(directory)])
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def make_read_only(directory: Path) -> None:
    """From now on nothing can be written to the small disk. Nobody may have a file there open for writing."""
    run(["mount", "-o", "remount,ro", str(directory)])


@contextmanager
def pinned(file: Path, directory: Path) -> Iterator[None]:
    """`file` cannot be removed, by nobody: something is mounted on it."""
    require_root()
    copy = directory / "pinned"
    copy.write_bytes(file.read_bytes())
    run(["mount", "--bind", str(copy), str(file)])
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(file)], check=True)


def fill(directory: Path) -> Path:
    """Take every byte that is left on the file system of `directory`; the file that holds them."""
    hog = directory / "hog"
    with hog.open("wb", buffering=0) as file:
        for step in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(step)) == step:
                    pass
            except OSError:
                continue
    return hog


def bytes_on_disk(cache: Path) -> int:
    """The sizes of all blobs and of all that is arriving."""
    return sum(
        path.stat().st_size for part in ("blobs", "incoming") for path in (cache / part).rglob("*") if path.is_file()
    )


def landed(millpond: Millpond) -> None:
    """Wait until nothing is in flight: a client has its last byte a moment before the blob is kept."""
    wait_until(lambda: millpond.metric("millpond_flights") == 0, "every flight has landed")


def content(size: int, seed: int = 0) -> bytes:
    """`size` bytes, others for each seed."""
    return hashlib.shake_128(f"{seed} {size}".encode()).digest(size)


def place(directory: Path, digest: Digest, body: bytes) -> Path:
    """A file where a cache in `directory` has the blob of that name; where it is."""
    path = directory / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def flip_a_bit(file: Path, at: int, *, keep_times: bool) -> None:
    """Damage as a disk does it: the size stays, and with `keep_times` nothing else tells of it either."""
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    times = (status.st_atime_ns, status.st_mtime_ns + (0 if keep_times else 1_000_000_000))
    os.utime(file, ns=times)


def impatient(directory: Path) -> dict[str, str]:
    """The environment of a Millpond that tries a disk or a ledger again soon, where it usually waits for a while.

    The program is the real one; only these constants are others, which the interpreter sets at start.
    """
    directory.mkdir(parents=True)
    (directory / "sitecustomize.py").write_text(
        "import proxy.cache.calls, proxy.cache.journal, proxy.cache.ledger\n"
        "proxy.cache.calls._PAUSE_SECONDS = 3.0\n"
        "proxy.cache.journal._RETRY_SECONDS = 0.1\n"
        "proxy.cache.ledger._LOCK_SECONDS = 1.5\n"
    )
    return {"PYTHONPATH": f"{directory}{os.pathsep}{Path(__file__).parents[2]}"}


@dataclass
class Clock:
    """Wall time that moves when a test says so."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Opened:
    """A cache that is in use, and its parts."""

    cache: DiskCache
    directory: Path
    metrics: Metrics
    clock: Clock

    @property
    def store(self) -> BlobStore:
        return self.cache.blobs

    async def keep(self, body: bytes) -> Digest:
        """Store a blob as a flight does, and a second later look at the clock."""
        digest = Digest.of(body)
        incoming = await self.store.begin(digest, len(body))
        await self.arrive(incoming, [body[: len(body) // 2], body[len(body) // 2 :]])
        assert incoming.verified
        await self.store.commit(incoming)
        incoming.file.close()
        self.clock.now += 1
        return digest

    async def arrive(self, incoming: IncomingFile, chunks: list[bytes]) -> None:
        """Write what comes next, and hash it."""
        at = incoming.hashed
        await self.store.write(incoming, at, chunks)
        await self.store.hash(incoming, at + sum(map(len, chunks)))

    async def read(self, digest: Digest) -> bytes | None:
        """The blob as a client would get it."""
        blob = await self.store.open(digest)
        if blob is None:
            return None
        try:
            return blob.file.readall()
        finally:
            blob.close()

    def path(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    def alarms(self) -> float:
        """How often a blob on disk was found damaged."""
        return self.metrics.registry.get_sample_value("millpond_verification_failures_total", {"where": "disk"}) or 0

    def assert_exact(self) -> None:
        """A: bytes on disk are the bytes accounted for, when nothing is arriving."""
        assert self.store.accounted == bytes_on_disk(self.directory)


@asynccontextmanager
async def opened(
    directory: Path, max_size: int = GIB, min_free: int = 0, clock: Clock | None = None, scrub_rate: int = 0
) -> AsyncIterator[Opened]:
    """A cache on `directory`, as the program opens it; its sweep and its journal do not run by themselves."""
    clock = clock or Clock()
    metrics = Metrics()
    cache = DiskCache(
        directory,
        max_size=lambda _: max_size,
        min_free=lambda _: min_free,
        metrics=metrics,
        clock=clock,
        scrub_rate=scrub_rate,
    )
    try:
        yield Opened(cache, directory, metrics, clock)
    finally:
        await cache.close()

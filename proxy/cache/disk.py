"""The disk cache as one thing: opened, tended while the program runs, and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.files import Files
from proxy.cache.index import Index
from proxy.cache.journal import Journal
from proxy.cache.ledger import Ledger, Record
from proxy.cache.lock import DirectoryLock
from proxy.cache.sweep import scrub, sweep
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid

# Housekeeping that failed (a directory that cannot be read, say) is tried again after this.
_AGAIN_SECONDS: Final = 60.0


class DiskCache:
    """`blobs` (bytes by digest) and `catalog` (who holds what), over one directory.

    A directory that cannot be used leaves an empty cache that keeps nothing: pulls pass through.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_size: Callable[[int], int],
        min_free: Callable[[int], int],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """Blocks while the ledger is read. `max_size` and `min_free` give bytes for a file system of so many.

        Raises:
            DirectoryInUse: another process has the directory.
        """
        self._files: Files | None = None
        self._journal: Journal | None = None
        self._lock: DirectoryLock | None = None
        off, total, records = "", 0, {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(directory)
            files = Files(directory)
            files.prepare()
            total = files.total()
            ledger = Ledger(directory / "ledger")
            records = ledger.load()
            ledger.close()
            self._journal = Journal(ledger, self._records)
            self._files = files
        except OSError as error:
            off = f"{directory} cannot be used: {error.strerror or error}"
            structlog.get_logger().error("disk cache off, every pull passes through", reason=off)
        note = self._journal.note if self._journal else _keep_no_note
        self.catalog = Catalog(note)
        self._index = Index(note, self.catalog.forget, clock)
        self.blobs = BlobStore(
            self._files,
            self._index,
            max_size=max_size(total),
            min_free=min_free(total),
            metrics=metrics,
            off=off,
        )
        self.catalog.restore(records)
        self._index.restore(_blob_records(records))

    async def tend(self) -> None:
        """Sweep once, then scrub, and write the ledger behind all that; until cancelled."""
        if self._files is None or self._journal is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_surviving(self._journal.run))
            tasks.create_task(_surviving(partial(self._watch, self._files)))

    async def close(self) -> None:
        """Write down what is noted, and let go of the directory."""
        if self._journal:
            await self._journal.close()
        self.blobs.close()
        if self._lock:
            self._lock.release()

    async def _watch(self, files: Files) -> None:
        await sweep(files, self.blobs, self.catalog)
        await scrub(self.blobs)

    def _records(self) -> dict[str, Record]:
        return self.catalog.records() | self._index.records()


async def _surviving(work: Callable[[], Awaitable[None]]) -> None:
    """Housekeeping that fails is said, and begun again: it must never take the serving down with it."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001  a disk can fail in any way
            structlog.get_logger().exception("cache housekeeping failed", again_in=_AGAIN_SECONDS)
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            return


def _blob_records(records: dict[str, Record]) -> list[tuple[Digest, Record]]:
    found = []
    for key, record in records.items():
        if key.startswith("b "):
            try:
                found.append((Digest.parse(key[2:]), record))
            except DigestInvalid:
                continue
    return found


def _keep_no_note(key: str, record: Record | None, *, lazy: bool = False) -> None:
    """Where there is no ledger, nothing is noted."""

"""The disk cache as one thing: opened, tended while the program runs, and closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from proxy.cache.admin_pass import write_pass
from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.departures import Departures
from proxy.cache.files import Files
from proxy.cache.index import Index
from proxy.cache.journal import Journal
from proxy.cache.ledger import Ledger, Record
from proxy.cache.lock import DirectoryLock
from proxy.cache.pins import Pins
from proxy.cache.register import Register
from proxy.cache.scrub import Scrubber
from proxy.cache.sweep import sweep
from proxy.cache.verdict import Verdict
from proxy.observe.metrics import Metrics
from proxy.observe.surviving import surviving
from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid

# Records of the ledger that are in memory at once while it is read.
_BATCH: Final = 1000
# Between two looks at the free space, which others fill as well: no longer than between two scrapes.
_LOOK_SECONDS: Final = 15.0


class DiskCache:
    """`blobs` (bytes by digest), `catalog` (who holds what), `pins` (what stays) and `scrubber`, over one directory.

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
        scrub_rate: int = 0,
    ) -> None:
        """Blocks while the ledger is read. `max_size` and `min_free` give bytes for a file system of so many;
        `scrub_rate` is in bytes per second, 0 turns the scrub off.

        Raises:
            DirectoryInUse: another process has the directory.
        """
        self._directory = directory
        self._files: Files | None = None
        self._journals: list[Journal] = []
        self._tending: asyncio.TaskGroup | None = None
        self._lock: DirectoryLock | None = None
        self.catalog, self._index = _restored(_keep_no_note, clock, ())
        off, total = "", 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(directory)
            files = Files(directory)
            files.prepare()
            total = files.total()
            ledger = Ledger(directory / "ledger")
            journal = Journal(ledger, self._records)
            self.catalog, self._index = ledger.load(partial(_restored, journal.note, clock))
            self._journals.append(journal)
            self._files = files
        except OSError as error:
            off = f"{directory} cannot be used: {error.strerror or error}"
            structlog.get_logger().error("disk cache off, every pull passes through", reason=off)
        self.blobs = BlobStore(
            self._files,
            self._index,
            max_size=max_size(total),
            min_free=min_free(total),
            metrics=metrics,
            off=off,
        )
        self.departures = Departures(self.register("departures"), clock)
        self._index.watch(self.departures.left)
        self.catalog.watch_departures(self.departures.unpointed)
        self.pins = Pins(self.register("pins"), self.catalog, self._index, clock)
        self.scrubber = Scrubber(self.blobs, rate=scrub_rate, metrics=metrics, clock=clock)

    def admin_pass(self) -> str | None:
        """A new token for the command line on this machine; None where the directory cannot keep one."""
        if self._files is None:
            return None
        try:
            return write_pass(self._directory)
        except OSError as error:
            structlog.get_logger().warning("no pass for the command line", reason=str(error))
            return None

    def register(self, name: str) -> Register:
        """A durable mapping below the directory. Ask for it before `tend`; blocks while it is read."""
        register = Register(self._directory / name if self._files else None)
        if register.journal:
            self._journals.append(register.journal)
        return register

    async def register_late(self, name: str) -> Register:
        """As `register`, while `tend` runs."""
        register = await asyncio.to_thread(Register, self._directory / name if self._files else None)
        if register.journal:
            self._journals.append(register.journal)
            if self._tending is not None:
                self._tending.create_task(surviving(register.journal.run, "ledger"))
        return register

    async def tend(self) -> None:
        """Sweep once, then scrub, and write the ledger behind all that; until cancelled."""
        if self._files is None:
            return
        async with asyncio.TaskGroup() as tasks:
            self._tending = tasks
            for journal in self._journals:
                tasks.create_task(surviving(journal.run, "ledger"))
            tasks.create_task(surviving(self._watch, "cache housekeeping"))
            tasks.create_task(surviving(self._watch_space, "free space"))

    async def settle(self, tell: Callable[[Digest, Verdict], None]) -> None:
        """Sweep once, for whoever has the directory without serving from it. `tell` is called for what is dropped."""
        if self._files is not None:
            await sweep(self.blobs, self.catalog, tell)

    async def close(self) -> None:
        """Write down what is noted, and let go of the directory."""
        for journal in self._journals:
            await journal.close()
        self.blobs.close()
        if self._lock:
            self._lock.release()

    async def _watch(self) -> None:
        await sweep(self.blobs, self.catalog)
        await self.scrubber.run()

    async def _watch_space(self) -> None:
        while True:
            await self.blobs.free()
            await asyncio.sleep(_LOOK_SECONDS)

    def _records(self) -> dict[str, Record]:
        return self.catalog.records() | self._index.records()


class _Digests(dict[str, Digest]):
    """Digests by their text, each parsed once and held once, however many records name it."""

    def __missing__(self, text: str) -> Digest:
        digest = self[text] = Digest.parse(text)
        return digest


def _restored(
    note: Callable[..., None], clock: Callable[[], float], rows: Iterable[tuple[str, Record]]
) -> tuple[Catalog, Index]:
    """A catalog and an index with what the ledger's rows say."""
    catalog = Catalog(note)
    index = Index(note, catalog.forget, clock)
    index.restore(_blobs(iter(rows), catalog, _Digests().__getitem__))
    return catalog, index


def _blobs(
    rows: Iterator[tuple[str, Record]], catalog: Catalog, parse: Callable[[str], Digest]
) -> Iterator[tuple[Digest, Record]]:
    """The records of blobs. All others go to the catalog on the way."""
    while batch := dict(islice(rows, _BATCH)):
        catalog.restore(batch, parse)
        for key, record in batch.items():
            if key.startswith("b "):
                with contextlib.suppress(DigestInvalid):
                    yield parse(key[2:]), record


def _keep_no_note(key: str, record: Record | None, *, lazy: bool = False) -> None:
    """Where there is no ledger, nothing is noted."""

"""Write-behind for the ledger: requests note what changed in memory, one task writes it down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from proxy.cache.ledger import Ledger, LedgerDamaged, Record

# How late a blob's last use may be written: only the order of eviction after a restart depends on it.
_LAZY_SECONDS: Final = 10.0
# A disk that refuses a write is asked again after this.
_RETRY_SECONDS: Final = 5.0


class Journal:
    """What is to be written to the ledger. `note` never blocks; `run` writes, in batches, on a thread of its own."""

    def __init__(self, ledger: Ledger, everything: Callable[[], dict[str, Record]]) -> None:
        """`everything` gives all records that stand in memory, to fill a ledger that had to be begun anew."""
        self._ledger = ledger
        self._everything = everything
        self._dirty: dict[str, Record | None] = {}
        self._prompt = asyncio.Event()
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "ledger")

    def note(self, key: str, record: Record | None, *, lazy: bool = False) -> None:
        """Have `record` written soon (None: removed); a lazy one may wait some seconds."""
        self._dirty[key] = record
        if not lazy:
            self._prompt.set()

    async def run(self) -> None:
        """Write until cancelled."""
        with contextlib.suppress(OSError):  # to be ready: a new database takes a while to make
            await self._on_thread(partial(self._ledger.write, {}))
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAZY_SECONDS):
                    await self._prompt.wait()
            self._prompt.clear()
            if not await self.flush():
                await asyncio.sleep(_RETRY_SECONDS)
                self._prompt.set()

    async def flush(self) -> bool:
        """Write what is noted by now; False when the disk refused, and all of it is still to be written."""
        async with self._writing:
            batch, self._dirty = self._dirty, {}
            if not batch:
                return True
            try:
                await self._on_thread(partial(self._ledger.write, batch))
            except BaseException as error:
                # Written twice is harmless, written never is not: not even a cancelled flush forgets its batch.
                self._dirty = batch | self._dirty
                if not isinstance(error, OSError):
                    raise
                structlog.get_logger().error("ledger not written", reason=str(error), records=len(batch))
                # A full or slow disk is waited out; a damaged database is replaced by what memory holds.
                if isinstance(error, LedgerDamaged):
                    await self._begin_anew(error)
                return False
            return True

    async def close(self) -> None:
        await self.flush()
        await self._on_thread(self._ledger.close)
        self._thread.shutdown()

    async def _begin_anew(self, error: LedgerDamaged) -> None:
        try:
            await self._on_thread(partial(self._ledger.begin_anew, error))
        except OSError as failure:
            structlog.get_logger().error("ledger not rebuilt", reason=str(failure))
            return
        self._dirty = {**self._everything(), **self._dirty}

    async def _on_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

"""A durable mapping for whoever needs one beside the cache: held in memory, written behind."""

from __future__ import annotations

from pathlib import Path

import structlog

from proxy.cache.journal import Journal
from proxy.cache.ledger import Ledger, Record


class Register:
    """`held` is what it holds: all that earlier runs of the program have noted, until it is noted otherwise."""

    def __init__(self, directory: Path | None) -> None:
        """Blocks while it is read. None, or a directory that cannot be used: it holds until the program ends."""
        self.held: dict[str, Record] = {}
        self.journal: Journal | None = None
        if directory is None:
            return
        ledger = Ledger(directory)
        try:
            self.held = ledger.load()
        except OSError as error:
            structlog.get_logger().error("not kept over a restart", where=str(directory), reason=str(error))
        else:
            self.journal = Journal(ledger, lambda: dict(self.held))

    def note(self, key: str, record: Record | None) -> None:
        """Have `record` written (None: removed). Never blocks."""
        if record is None:
            self.held.pop(key, None)
        else:
            self.held[key] = record
        if self.journal:
            self.journal.note(key, record)

    async def flush(self) -> None:
        """Have all that is noted by now on the disk, unless the disk refuses it."""
        if self.journal:
            await self.journal.flush()

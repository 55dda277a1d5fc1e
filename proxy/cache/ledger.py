"""The ledger: what is known beside the files (sizes, last use, tags), in SQLite by way of diskcache.

It is written behind the requests and read once, at start. It can always be lost: the files are the truth.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import diskcache
import structlog
from diskcache.core import MODE_TEXT, UNKNOWN

Record = list[Any]

# Records are small rows. Diskcache would move larger values to files of its own; none of ours may leave the database.
_NEVER_A_FILE: Final = 1 << 40


class _JsonDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Values are JSON text, keys are text. Pickle is refused: whoever can write the database must not run code here
    (CVE-2025-69872)."""

    def put(self, key: Any) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError(f"a ledger key is a string, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise sqlite3.DatabaseError("the ledger holds a key that is not text")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, None, str]:  # noqa: ARG002
        return 0, MODE_TEXT, None, json.dumps(value, separators=(",", ":"))

    def fetch(self, mode: int, filename: str | None, value: Any, _read: bool) -> Any:
        if mode != MODE_TEXT or filename is not None or not isinstance(value, str):
            raise sqlite3.DatabaseError("the ledger holds a value that is not JSON text")
        return json.loads(value)


class Ledger:
    """A persistent mapping of short strings to JSON lists. Every method blocks: call it from one thread, not the loop.

    A ledger that cannot be read is moved aside (one such copy is kept) and begun anew; `rebuilt` says so.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.rebuilt = False
        try:
            self._cache = self._open()
        except (sqlite3.Error, diskcache.Timeout, ValueError, TypeError) as error:
            self._cache = self._begin_anew(error)

    def load(self) -> dict[str, Record]:
        """Every record. A ledger that turns out to be damaged is begun anew, and nothing is returned."""
        try:
            return dict(self._rows())
        except (sqlite3.Error, diskcache.Timeout, ValueError, TypeError) as error:
            self._cache = self._begin_anew(error)
            return {}

    def write(self, changes: Mapping[str, Record | None]) -> None:
        """Make all changes or none; None removes a record.

        Raises:
            OSError: the disk or the database refuses; nothing was changed.
        """
        try:
            with self._cache.transact(retry=False):
                for key, record in changes.items():
                    if record is None:
                        self._cache.delete(key)
                    else:
                        self._cache.set(key, record)
        except (sqlite3.Error, diskcache.Timeout) as error:
            raise OSError(f"the ledger cannot be written: {error}") from error

    def begin_anew(self, reason: Exception) -> None:
        """Move a damaged ledger aside and start an empty one. Raises OSError where even that is impossible."""
        try:
            self._cache.close()
            self._cache = self._begin_anew(reason)
        except sqlite3.Error as error:
            raise OSError(f"no new ledger can be made: {error}") from error

    def close(self) -> None:
        self._cache.close()

    def _open(self) -> diskcache.Cache:
        return diskcache.Cache(
            str(self._directory),
            disk=_JsonDisk,
            disk_min_file_size=_NEVER_A_FILE,
            eviction_policy="none",
            cull_limit=0,
            size_limit=_NEVER_A_FILE,
            timeout=5,  # seconds that SQLite waits for another's lock; the directory lock makes another unlikely
        )

    def _rows(self) -> Iterator[tuple[str, Record]]:
        # One SELECT: diskcache would ask the database once for every key, which takes seconds for a large cache.
        with closing(sqlite3.connect(self._directory / diskcache.core.DBNAME)) as connection:
            for key, mode, filename, value in connection.execute("SELECT key, mode, filename, value FROM Cache"):
                record = self._cache.disk.fetch(mode, filename, value, False)
                if isinstance(key, str) and isinstance(record, list):
                    yield key, record

    def _begin_anew(self, reason: Exception) -> diskcache.Cache:
        aside = self._directory.with_name(self._directory.name + ".damaged")
        if aside.exists():
            for path in sorted(aside.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            aside.rmdir()
        if self._directory.exists():
            self._directory.rename(aside)
        structlog.get_logger().error(
            "ledger damaged: moved aside, rebuilding it from the files", reason=str(reason), aside=str(aside)
        )
        self.rebuilt = True
        return self._open()

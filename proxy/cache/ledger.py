"""The ledger: what is known beside the files (sizes, last use, tags), in SQLite by way of diskcache.

It is written behind the requests and read once, at start. It can always be lost: the files are the truth.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import diskcache
import structlog
from diskcache.core import MODE_TEXT, UNKNOWN

Record = list[Any]
T = TypeVar("T")

# Records are small rows. Diskcache would move larger values to files of its own; none of ours may leave the database.
_NEVER_A_FILE: Final = 1 << 40
# How long SQLite waits for another's lock; the directory lock makes another unlikely.
_LOCK_SECONDS: Final = 5.0
# Rows that are read together: enough that Python costs little beside SQLite, few enough to be nothing in memory.
_BATCH: Final = 1000

# What passes by itself, or by the hand of whoever looks after the disk. Everything else is damage.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


class LedgerDamaged(OSError):
    """The database is not what was written. `Ledger.begin_anew` replaces it."""


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
        return json.loads(_checked(mode, filename, value))


class Ledger:
    """A persistent mapping of short strings to JSON lists. Every method blocks: call it from one thread, not the loop.

    Reading needs no room on the disk: a full one does not keep a cache from starting with all that it knows.
    """

    def __init__(self, directory: Path) -> None:
        """Nothing is opened yet."""
        self._directory = directory
        self._cache: diskcache.Cache | None = None

    @overload
    def load(self) -> dict[str, Record]: ...
    @overload
    def load(self, into: Callable[[Iterable[tuple[str, Record]]], T]) -> T: ...
    def load(self, into: Callable[[Iterable[tuple[str, Record]]], Any] = dict) -> Any:
        """What `into` makes of all records, one by one: there may be more than should be in memory at once.

        A ledger that cannot be read to its end is moved aside, and `into` is called again, with none.

        Raises:
            OSError: it cannot even be moved aside.
        """
        if not self._database.exists():
            return into(())
        try:
            return into(self._rows())
        except Exception as error:  # noqa: BLE001  a database can be wrong in any way
            self.begin_anew(error)
            return into(())

    def write(self, changes: Mapping[str, Record | None]) -> None:
        """Make all changes or none; None removes a record.

        Raises:
            OSError: the disk or the database refuses; nothing was changed. LedgerDamaged when that will not pass.
        """
        try:
            if self._cache is None:
                self._cache = self._open()
            with self._cache.transact(retry=False):
                for key, record in changes.items():
                    if record is None:
                        self._cache.delete(key)
                    else:
                        self._cache.set(key, record)
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self.close()  # whatever state the connection is in, the next write begins with a fresh one
            raise _judged(error) from error

    def begin_anew(self, reason: Exception) -> None:
        """Move a damaged ledger aside (one such copy is kept), so that the next write begins an empty one.

        Raises:
            OSError: it cannot be moved.
        """
        self.close()
        aside = self._directory.with_name(self._directory.name + ".damaged")
        if aside.exists():
            shutil.rmtree(aside)
        if self._directory.exists():
            self._directory.rename(aside)
        structlog.get_logger().error(
            "ledger damaged: moved aside, rebuilding it from the files", reason=str(reason), aside=str(aside)
        )

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    @property
    def _database(self) -> Path:
        return self._directory / str(diskcache.core.DBNAME)

    def _open(self) -> diskcache.Cache:
        if not self._database.exists():
            self._make()
        # Diskcache itself would wait a whole minute for another's lock.
        with closing(sqlite3.connect(self._database, timeout=_LOCK_SECONDS)) as probe:
            probe.execute("BEGIN IMMEDIATE")
        return _connected(self._directory)

    def _make(self) -> None:
        """Begin an empty one, whole or not at all: after a kill, half of one would be taken for a damaged one."""
        scratch = self._directory / "new"
        if scratch.exists():
            shutil.rmtree(scratch)
        self._directory.mkdir(exist_ok=True)
        scratch.mkdir()
        _connected(scratch).close()
        # SQLite would play the journal of a database that is gone into the one that takes its place.
        self._database.with_name(f"{self._database.name}-journal").unlink(missing_ok=True)
        (scratch / self._database.name).replace(self._database)
        shutil.rmtree(scratch)

    def _rows(self) -> Iterator[tuple[str, Record]]:
        # One SELECT: diskcache would ask the database once for every key, which takes seconds for a large cache.
        with closing(sqlite3.connect(self._database, timeout=_LOCK_SECONDS)) as connection:
            rows = connection.execute("SELECT key, mode, filename, value FROM Cache")
            while batch := rows.fetchmany(_BATCH):
                values = ",".join(_checked(mode, filename, value) for _, mode, filename, value in batch)
                # Parsed together in half the time.
                for (key, *_), record in zip(batch, json.loads(f"[{values}]"), strict=True):
                    if isinstance(key, str) and isinstance(record, list):
                        yield key, record


def _connected(directory: Path) -> diskcache.Cache:
    """The database below `directory`; what it lacks of tables is made."""
    try:
        return diskcache.Cache(
            str(directory),
            disk=_JsonDisk,
            disk_min_file_size=_NEVER_A_FILE,
            eviction_policy="none",
            cull_limit=0,
            size_limit=_NEVER_A_FILE,
            timeout=_LOCK_SECONDS,
            # One process, one writer: a write-ahead log would only add files that reading needs room for.
            sqlite_journal_mode="truncate",
            sqlite_synchronous=2,  # FULL, which a rollback journal needs to survive a loss of power
            sqlite_mmap_size=0,  # what a disk cannot read shall be an error, not a SIGBUS that ends the program
        )
    except (ValueError, TypeError, AttributeError) as error:  # diskcache does as the database's settings say
        raise sqlite3.DatabaseError(f"the ledger has settings that are not ours: {error}") from error


def _checked(mode: int, filename: str | None, value: Any) -> str:
    if mode != MODE_TEXT or filename is not None or not isinstance(value, str):
        raise sqlite3.DatabaseError("the ledger holds a value that is not JSON text")
    return value


def _judged(error: Exception) -> OSError:
    """What diskcache raised, as damage or as trouble that passes."""
    cause: BaseException = error
    while cause.__context__ is not None:  # diskcache hides the first error behind those of its own clean-up
        cause = cause.__context__
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        passing = isinstance(cause, OSError)
    else:  # extended codes have their kind in the lowest byte
        passing = code & 0xFF in _PASSING and code != sqlite3.SQLITE_READONLY_DBMOVED
    return (OSError if passing else LedgerDamaged)(f"the ledger cannot be written: {cause}")

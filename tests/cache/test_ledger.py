"""The ledger and what writes it: in batches, behind the requests, and without ever running what it reads."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.cache import ledger as ledgers
from proxy.cache.catalog import Catalog, TagRecord
from proxy.cache.journal import Journal
from proxy.cache.ledger import Ledger, LedgerDamaged, Record
from proxy.oci.digest import Digest
from proxy.oci.names import Repository
from tests.cache.disks import Clock, content, fill, make_read_only, opened, small_disk
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

RECORDS: dict[str, Record] = {f"b {number}": [number, "text", 1.5] for number in range(200)}
MIB = 1 << 20


def transactions(directory: Path) -> int:
    """How many transactions have changed the database: bytes 24 to 28 of an SQLite file count them."""
    return int.from_bytes((directory / "cache.db").read_bytes()[24:28], "big")


def written(directory: Path, records: dict[str, Record | None] | None = None) -> Path:
    """The database of a ledger that holds `records`."""
    ledger = Ledger(directory)
    ledger.write({**RECORDS} if records is None else records)
    ledger.close()
    return directory / "cache.db"


def alter(database: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement, values)


def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path / "ledger")
    ledger = Ledger(tmp_path / "ledger")
    ledger.write({"b 7": None, "b 8": ["new"]})
    ledger.close()
    assert Ledger(tmp_path / "ledger").load() == {**{k: v for k, v in RECORDS.items() if k != "b 7"}, "b 8": ["new"]}


def test_a_ledger_that_is_not_there_yet_is_empty_and_reading_makes_nothing(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger").load() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_one_transaction_and_all_of_it_or_nothing(tmp_path: Path) -> None:
    """K."""
    written(tmp_path / "ledger")
    ledger = Ledger(tmp_path / "ledger")
    ledger.write({"first": [1]})
    before = transactions(tmp_path / "ledger")
    ledger.write({f"x {number}": [number] for number in range(500)})
    assert transactions(tmp_path / "ledger") == before + 1
    with pytest.raises(TypeError):
        ledger.write({"good": [1], "bad": [object()]})
    ledger.close()
    assert "good" not in Ledger(tmp_path / "ledger").load()


class _Trap:
    """Its pickle writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self._path, "ran")


@pytest.mark.parametrize("mode", [1, 2, 3, 4, 99])
def test_a_row_that_is_anything_but_json_text_is_refused_and_nothing_of_it_runs(tmp_path: Path, mode: int) -> None:
    """Row 29; S B: CVE-2025-69872."""
    database = written(tmp_path / "ledger")
    trap = pickle.dumps(_Trap(tmp_path / "sprung"))
    (tmp_path / "ledger" / "value").write_bytes(trap)
    filename = "value" if mode in (2, 3) else None
    value = None if filename else trap
    alter(database, "UPDATE Cache SET mode = ?, filename = ?, value = ? WHERE key = 'b 5'", mode, filename, value)
    assert Ledger(tmp_path / "ledger").load() == {}
    assert (tmp_path / "ledger.damaged" / "cache.db").exists()
    assert not (tmp_path / "sprung").exists()
    assert pickle.loads(trap) == 3  # the trap works
    assert (tmp_path / "sprung").exists()


def _garbage(database: Path) -> None:
    database.write_bytes(content(50_000))


def _empty(database: Path) -> None:
    database.write_bytes(b"")


def _truncated(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2 + 100)


def _half_overwritten(database: Path) -> None:
    data = database.read_bytes()
    database.write_bytes(data[:4096] + content(len(data) - 4096))


def _a_directory(database: Path) -> None:
    database.unlink()
    database.mkdir()


def _another_schema(database: Path) -> None:
    alter(database, "ALTER TABLE Cache RENAME TO Other")


def _no_json(database: Path) -> None:
    alter(database, "UPDATE Cache SET value = '[1' WHERE key = 'b 5'")


def _deep_json(database: Path) -> None:
    alter(database, "UPDATE Cache SET value = ? WHERE key = 'b 5'", "[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [_garbage, _empty, _truncated, _half_overwritten, _a_directory, _another_schema, _no_json, _deep_json],
)
def test_a_damaged_ledger_is_moved_aside_and_a_new_one_begun(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Row 29; B."""
    damage(written(tmp_path / "ledger"))
    (tmp_path / "ledger.damaged").mkdir()
    (tmp_path / "ledger.damaged" / "older").mkdir()
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.load() == {}
    assert (tmp_path / "ledger.damaged" / "cache.db").exists()
    assert not (tmp_path / "ledger.damaged" / "older").exists()
    ledger.write({"b new": [1]})
    ledger.close()
    assert Ledger(tmp_path / "ledger").load() == {"b new": [1]}


@pytest.mark.parametrize("setting", ["close", "disk_unheard_of", "sqlite_no_such_pragma", "timeout"])
def test_settings_that_somebody_wrote_into_the_database_do_no_more_than_damage(tmp_path: Path, setting: str) -> None:
    """Row 29; B S."""
    database = written(tmp_path / "ledger")
    alter(database, "INSERT OR REPLACE INTO Settings VALUES (?, 'x')", setting)
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.load() == RECORDS
    try:
        ledger.write({"b new": [1]})
    except LedgerDamaged as damage:
        ledger.begin_anew(damage)
        ledger.write({"b new": [1]})
    ledger.close()
    assert Ledger(tmp_path / "ledger").load()["b new"] == [1]


def test_a_locked_database_is_no_damage_while_it_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 29; H B."""
    monkeypatch.setattr(ledgers, "_LOCK_SECONDS", 0.05)
    database = written(tmp_path / "ledger")
    ledger = Ledger(tmp_path / "ledger")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="database is locked") as refused:
            ledger.write({"b new": [1]})
        assert not isinstance(refused.value, LedgerDamaged)
    ledger.write({"b new": [1]})
    ledger.close()
    assert Ledger(tmp_path / "ledger").load()["b new"] == [1]


def test_a_full_disk_keeps_nobody_from_reading_and_loses_nothing(tmp_path: Path) -> None:
    """Rows 25 and 29; K B: neither at start nor while in use is a full disk taken for damage."""
    with small_disk(tmp_path / "disk", MIB) as disk:
        written(disk / "ledger")
        running = Ledger(disk / "ledger")
        running.write({"before": [0]})
        hog = fill(disk)
        for ledger in (running, Ledger(disk / "ledger")):
            assert ledger.load() == {**RECORDS, "before": [0]}
            with pytest.raises(OSError, match=r"full|disk I/O error") as refused:
                ledger.write({f"more {number}": ["x" * 1000] for number in range(500)})
            assert not isinstance(refused.value, LedgerDamaged)
        hog.unlink()
        running.write({"more": [1]})
        running.close()
        assert len(Ledger(disk / "ledger").load()) == len(RECORDS) + 2


def test_a_read_only_disk_can_be_read(tmp_path: Path) -> None:
    """Row 26; B."""
    with small_disk(tmp_path / "disk", MIB) as disk:
        written(disk / "ledger")
        make_read_only(disk)
        ledger = Ledger(disk / "ledger")
        assert ledger.load() == RECORDS
        with pytest.raises(OSError, match="readonly"):
            ledger.write({"b new": [1]})


@pytest.mark.parametrize("damage", [_garbage, _truncated, _empty, None])
async def test_a_ledger_that_is_damaged_while_in_use_is_written_anew_from_memory(
    tmp_path: Path, damage: Callable[[Path], None] | None
) -> None:
    """Row 29; K B: `None` is somebody who removes the directory."""
    journal = Journal(Ledger(tmp_path / "ledger"), lambda: {**RECORDS})
    for key, record in RECORDS.items():
        journal.note(key, record)
    assert await journal.flush()
    if damage:
        damage(tmp_path / "ledger" / "cache.db")
    else:
        (tmp_path / "ledger").rename(tmp_path / "gone")
    journal.note("t x", ["new"])
    journal.note("b 0", None)
    while not await journal.flush():
        assert not (tmp_path / "ledger" / "cache.db").exists()
    await journal.close()
    expected = {key: record for key, record in RECORDS.items() if key != "b 0"}
    assert Ledger(tmp_path / "ledger").load() == {**expected, "t x": ["new"]}


async def test_what_the_disk_refused_is_written_later_and_the_latest_word_counts(tmp_path: Path) -> None:
    """Row 25; K."""
    with small_disk(tmp_path / "disk", MIB) as disk:
        journal = Journal(Ledger(disk / "ledger"), dict)
        journal.note("b 1", [1])
        assert await journal.flush()
        hog = fill(disk)
        for number in range(300):
            journal.note(f"x {number}", ["y" * 1000])
        journal.note("b 1", [2])
        assert not await journal.flush()
        journal.note("b 1", [3])
        hog.unlink()
        assert await journal.flush()
        await journal.close()
        found = Ledger(disk / "ledger").load()
        assert (found["b 1"], len(found)) == ([3], 301)


async def test_a_flush_that_is_cancelled_forgets_nothing(tmp_path: Path) -> None:
    """Row 32; K: the program ends while the ledger is being written."""
    ledger = Ledger(tmp_path / "ledger")
    journal = Journal(ledger, dict)
    for number in range(2000):
        journal.note(f"b {number}", [number])
    writing = asyncio.create_task(journal.flush())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await journal.close()
    assert len(Ledger(tmp_path / "ledger").load()) == 2000


async def test_a_use_costs_no_write(tmp_path: Path) -> None:
    """A thousand hits change nothing in the database, until one transaction some seconds later has them all."""
    async with opened(tmp_path) as cache:
        journal = cache.cache._journals[0]  # the first is the ledger's
        digests = [await cache.keep(content(50, seed)) for seed in range(20)]
        tending = asyncio.create_task(cache.cache.tend())
        await wait_until_async(lambda: not (journal._prompt.is_set() or journal._dirty), "what was kept is written")
        assert await journal.flush()  # waits for a flush that is under way
        before = transactions(tmp_path / "ledger")
        for _ in range(50):
            for digest in digests:
                assert await cache.read(digest) is not None
        assert transactions(tmp_path / "ledger") == before
        assert await journal.flush()
        assert transactions(tmp_path / "ledger") == before + 1
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)


@pytest.mark.parametrize("years", [0, 1, -1])
async def test_a_restart_keeps_the_order_of_last_use_and_the_tags(tmp_path: Path, years: int) -> None:
    """Rows 31 and 32; K A: also when the clock is set meanwhile."""
    repository, image = Repository("docker.io", "library/x"), Digest.of(b"manifest")
    async with opened(tmp_path, max_size=1000) as cache:
        digests = [await cache.keep(content(200, seed)) for seed in range(5)]
        for digest in (digests[3], digests[0]):
            assert await cache.read(digest) is not None
            cache.clock.now += 1
        cache.cache.catalog.set_tag(repository, "1.0", TagRecord(image, 123.5))
        expected = [digests[number] for number in (1, 2, 4, 3, 0)]
        clock = Clock(cache.clock.now + years * 365 * 86400)
    async with opened(tmp_path, max_size=1000, clock=clock) as cache:
        assert cache.store.digests() == expected
        assert cache.cache.catalog.tag(repository, "1.0") == TagRecord(image, 123.5)
        cache.assert_exact()
        new = await cache.keep(content(300))
        assert cache.store.digests() == [*expected[2:], new]


def test_the_ledger_is_plain_json_that_a_person_can_read(tmp_path: Path) -> None:
    catalog_notes: dict[str, Record | None] = {}
    catalog = Catalog(lambda key, record, **_: catalog_notes.update({key: record}))
    catalog.set_tag(Repository("ghcr.io", "org/x"), "v1", TagRecord(Digest.of(b"m"), 5.0))
    database = written(tmp_path / "ledger", catalog_notes)
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT key, value FROM Cache").fetchall()
    assert [(key, json.loads(value)) for key, value in rows] == [("t ghcr.io/org/x v1", [Digest.of(b"m"), 5.0])]

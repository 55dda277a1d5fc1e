"""Kills, damaged blobs and ledgers, wrong clocks: what was verified survives, what is damaged is never served."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import bytes_on_disk, content, flip_a_bit, impatient, landed
from tests.conftest import StartMillpond
from tests.faults.conftest import await_gate
from tests.support import images
from tests.support.faults import Gate, change
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

MIB: Final = 1 << 20
REPOSITORY: Final = "library/x"
YEAR: Final = 365 * 86400
IMAGE: Final = images.index(
    [images.artifact(images.EMPTY_CONFIG, [images.blob(b"".join(images.noise(200_000, seed)))]) for seed in (21, 22)]
)
PARTS: Final = [*(part.digest for part in IMAGE.walk()), *IMAGE.all_blobs()]
LAYER: Final = IMAGE.children[0].blobs[1]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        made.add(IMAGE, REPOSITORY, "1")
        yield made


@pytest.fixture
def millpond(start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path) -> Millpond:
    """One that has pulled the image, and has no patience with its ledger."""
    made = start_millpond({"docker.io": upstream.upstream()}, env=impatient(tmp_path / "site"))
    pull(base(made), IMAGE, "1")
    landed(made)
    assert all(made.blob_file(digest).exists() for digest in PARTS)
    # A file and a record for each part, three manifests, a tag.
    wait_until(lambda: len(rows(made)) >= len(PARTS) + 4, "the ledger is written")
    upstream.requests.clear()
    return made


def base(millpond: Millpond) -> str:
    return f"{millpond.url}/v2/docker.io/{REPOSITORY}"


def blob(millpond: Millpond, digest: str = LAYER.digest) -> Reply:
    return get(f"{base(millpond)}/blobs/{digest}")


def swept(millpond: Millpond) -> None:
    """The start is over: all that is there has been looked at."""
    wait_until(lambda: len(millpond.log_lines(event="cache swept")) == millpond.starts, "the cache is swept")


def assert_exact(millpond: Millpond) -> None:
    """A."""
    assert not millpond.incoming()
    assert millpond.metric("millpond_cache_bytes") == bytes_on_disk(millpond.cache)


def ledger(millpond: Millpond) -> Path:
    return millpond.cache / "ledger" / "cache.db"


def rows(millpond: Millpond) -> dict[str, Any]:
    """What is written down; nothing while there is no ledger that can be read."""
    if not ledger(millpond).exists():
        return {}
    with closing(sqlite3.connect(ledger(millpond), timeout=10)) as connection:
        try:
            return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM Cache")}
        except sqlite3.DatabaseError:
            return {}


def all_known(written: dict[str, Any]) -> bool:
    """Whether IMAGE can be pulled from what is written down alone."""
    manifests = {key.rpartition(" ")[2] for key in written if key.startswith("m ")}
    return any(key.startswith("t ") for key in written) and {part.digest for part in IMAGE.walk()} <= manifests


def sources(replies: list[Reply]) -> set[str]:
    return {reply.headers["x-millpond"] for reply in replies}


def test_a_kill_in_the_middle_of_a_download_leaves_nothing_behind_and_the_next_pull_is_right(
    millpond: Millpond, upstream: ScriptedUpstream
) -> None:
    """Row 22; P A."""
    body = b"".join(images.noise(3 * MIB, 23))
    digest, gate = upstream.add_blob(REPOSITORY, body), Gate()
    upstream.script(digest, change(gates={2 * MIB: gate}))
    with ThreadPoolExecutor() as pool:
        client = pool.submit(blob, millpond, digest)
        await_gate(gate)
        wait_until(lambda: bytes_on_disk(millpond.cache / "incoming" / "..") > 2 * MIB, "most of it is on disk")
        assert len(millpond.incoming()) == 1
        millpond.kill()
        assert not client.result(10).complete
    gate.open()
    assert len(millpond.incoming()) == 1
    millpond.start()
    swept(millpond)
    assert_exact(millpond)
    assert not millpond.blob_file(digest).exists()
    assert blob(millpond, digest).digest == digest
    landed(millpond)
    upstream.stop()
    assert blob(millpond, digest).headers["x-millpond"] == "hit"
    assert sources(pull(base(millpond), IMAGE, "1")) == {"hit"}
    assert_exact(millpond)


def test_a_kill_between_the_rename_and_the_ledger_loses_nothing(millpond: Millpond, upstream: ScriptedUpstream) -> None:
    """Row 23; K A: the ledger is that of before the download, the file is there."""
    before = ledger(millpond).read_bytes()
    digest = upstream.add_blob(REPOSITORY, b"".join(images.noise(MIB, 24)))
    assert blob(millpond, digest).digest == digest
    landed(millpond)
    millpond.kill()
    shutil.rmtree(millpond.cache / "ledger")
    ledger(millpond).parent.mkdir()
    ledger(millpond).write_bytes(before)
    millpond.start()
    swept(millpond)
    assert_exact(millpond)
    upstream.requests.clear()
    reply = blob(millpond, digest)
    assert (reply.digest, reply.headers["x-millpond"]) == (digest, "hit")
    assert upstream.seen(digest) == []
    assert [request.method for request in upstream.seen(digest, "")] == ["HEAD"]  # may this repository have it?
    assert sources(pull(base(millpond), IMAGE, "1")) == {"hit"}


def test_without_its_ledger_a_cache_still_has_every_file_that_hashes_to_its_name(
    millpond: Millpond, upstream: ScriptedUpstream
) -> None:
    """Row 23; K A P."""
    millpond.kill()
    shutil.rmtree(millpond.cache / "ledger")
    false = millpond.blob_file("sha256:" + "ab" * 32)
    false.parent.mkdir(exist_ok=True)
    false.write_bytes(content(1000))
    millpond.start()
    swept(millpond)
    assert not false.exists()
    assert_exact(millpond)
    assert millpond.metric("millpond_cache_blobs") == len(PARTS)
    pull(base(millpond), IMAGE, "1")
    assert upstream.seen("/blobs/") == []


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("damage", ["cut", "lengthened", "flipped", "removed"])
def test_a_damaged_blob_is_not_served_but_fetched_again(
    millpond: Millpond, upstream: ScriptedUpstream, damage: str, restarted: bool
) -> None:
    """Row 24; W P A."""
    file = millpond.blob_file(LAYER.digest)
    if restarted:
        assert millpond.terminate() == 0
    match damage:
        case "cut":
            os.truncate(file, LAYER.size - 1)
        case "lengthened":
            os.truncate(file, LAYER.size + 1)
        case "flipped":
            flip_a_bit(file, LAYER.size // 2, keep_times=False)
        case _:
            file.unlink()
    if restarted:
        millpond.start()
        swept(millpond)
    reply = blob(millpond)
    assert (reply.status, reply.digest, reply.headers["x-millpond"]) == (200, LAYER.digest, "upstream")
    landed(millpond)
    assert file.read_bytes() == LAYER.read()
    assert blob(millpond).headers["x-millpond"] == "hit"
    assert len(upstream.seen(LAYER.digest)) == 1
    assert_exact(millpond)
    found = millpond.metric("millpond_verification_failures_total", where="disk")
    assert found == (1 if damage == "flipped" or (damage != "removed" and not restarted) else 0)


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_damaged_manifest_is_not_served_but_fetched_again(
    millpond: Millpond, upstream: ScriptedUpstream, keep_times: bool
) -> None:
    """Row 24; W P: small enough to be hashed whenever it is read from the disk."""
    millpond.terminate()
    flip_a_bit(millpond.blob_file(IMAGE.digest), 40, keep_times=keep_times)
    millpond.start()
    replies = pull(base(millpond), IMAGE, "1")
    assert [reply.headers["x-millpond"] for reply in replies[:2]] == ["upstream", "hit"]
    assert_exact(millpond)


def test_a_range_of_a_damaged_blob_is_that_of_the_right_one(millpond: Millpond) -> None:
    """Row 24; W."""
    os.truncate(millpond.blob_file(LAYER.digest), 100)
    reply = get(f"{base(millpond)}/blobs/{LAYER.digest}", {"Range": "bytes=50-149"})
    assert (reply.status, reply.body) == (206, LAYER.read()[50:150])
    assert reply.headers["content-range"] == f"bytes 50-149/{LAYER.size}"


def _garbage(database: Path) -> None:
    database.write_bytes(content(100_000))


def _truncated(database: Path) -> None:
    os.truncate(database, 6000)


def _pickle(database: Path) -> None:
    trap = pickle.dumps({"not": "json"})
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE Cache SET mode = 4, value = ? WHERE key LIKE 't %'", (trap,))


@pytest.mark.parametrize("damage", [_garbage, _truncated, _pickle])
def test_a_ledger_that_is_damaged_at_start_is_moved_aside_and_rebuilt_from_the_files(
    millpond: Millpond, upstream: ScriptedUpstream, damage: Callable[[Path], None]
) -> None:
    """Row 29; K B."""
    assert millpond.terminate() == 0
    damage(ledger(millpond))
    damaged = ledger(millpond).read_bytes()
    millpond.start()
    pull(base(millpond), IMAGE, "1")
    assert (millpond.cache / "ledger.damaged" / "cache.db").read_bytes() == damaged
    swept(millpond)
    assert upstream.seen("/blobs/") == []
    assert_exact(millpond)
    wait_until(lambda: all_known(rows(millpond)), "the tag and every manifest are written down again")
    millpond.kill()
    millpond.start()
    upstream.stop()
    assert sources(pull(base(millpond), IMAGE, "1")) == {"hit"}


@pytest.mark.parametrize("damage", [_garbage, _truncated])
def test_a_ledger_that_is_damaged_while_in_use_is_rebuilt_from_memory_while_everything_is_served(
    millpond: Millpond, upstream: ScriptedUpstream, damage: Callable[[Path], None]
) -> None:
    """Row 29; K B."""
    damage(ledger(millpond))
    digest = upstream.add_blob(REPOSITORY, b"new")
    assert blob(millpond, digest).body == b"new"
    landed(millpond)
    wait_until(
        lambda: (
            millpond.log_lines(reason="the ledger cannot be written: file is not a database")
            or millpond.log_lines(reason="the ledger cannot be written: database disk image is malformed")
        ),
        "the damage is noticed",
    )
    assert sources(pull(base(millpond), IMAGE, "1")) == {"hit"}
    wait_until(lambda: len(rows(millpond)) > len(PARTS) + 1, "it is rebuilt")
    millpond.kill()
    millpond.start()
    upstream.stop()
    assert sources(pull(base(millpond), IMAGE, "1")) == {"hit"}
    assert blob(millpond, digest).headers["x-millpond"] == "hit"


def test_a_locked_ledger_holds_up_no_pull_and_is_written_when_the_lock_is_gone(
    millpond: Millpond, upstream: ScriptedUpstream
) -> None:
    """Row 29; K B H: a locked one at start is moved aside like a damaged one."""
    with closing(sqlite3.connect(ledger(millpond), isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN EXCLUSIVE")
        digest = upstream.add_blob(REPOSITORY, b"new")
        began = time.monotonic()
        assert blob(millpond, digest).body == b"new"
        assert sources(pull(base(millpond), IMAGE, "1")) == {"hit"}
        assert time.monotonic() - began < 5  # each write that met the lock would wait for 1.5
        wait_until(lambda: millpond.log_lines(event="ledger not written"), "the journal has met the lock")
        other.execute("ROLLBACK")
    wait_until(lambda: f"b {digest}" in rows(millpond), "it is written after all")
    assert not (millpond.cache / "ledger.damaged").exists()
    millpond.terminate()
    with closing(sqlite3.connect(ledger(millpond), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        millpond.start()
        wait_until(lambda: millpond.log_lines(reason="database is locked"), "the lock has been met")
        pull(base(millpond), IMAGE, "1")
        assert upstream.seen("/blobs/") == upstream.seen(digest)
        other.execute("ROLLBACK")


def set_checked(millpond: Millpond, change: Callable[[float], float]) -> None:
    """Rewrite when the tag was last confirmed, as a run with another clock would have left it."""
    with closing(sqlite3.connect(ledger(millpond))) as connection, connection:
        [(key, value)] = connection.execute("SELECT key, value FROM Cache WHERE key LIKE 't %'").fetchall()
        digest, checked = json.loads(value)
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (json.dumps([digest, change(checked)]), key))


@pytest.mark.parametrize("years", [1, -1, 100])
def test_a_tag_that_was_confirmed_under_another_clock_is_confirmed_again_once(
    millpond: Millpond, upstream: ScriptedUpstream, years: int
) -> None:
    """Row 31; K: nothing is immortal, and there is no storm of requests either."""
    assert millpond.terminate() == 0
    set_checked(millpond, lambda checked: checked + years * YEAR)
    millpond.start()
    for _ in range(5):
        assert get(f"{base(millpond)}/manifests/1").headers["x-millpond"] == "hit"
    assert [request.method for request in upstream.seen("", "")] == ["HEAD"]
    moved = images.artifact(images.EMPTY_CONFIG, [])
    upstream.add(moved, REPOSITORY, "1")
    assert millpond.terminate() == 0
    assert abs(next(record[1] for key, record in rows(millpond).items() if key.startswith("t ")) - time.time()) < 60
    set_checked(millpond, lambda checked: checked + years * YEAR)
    millpond.start()
    assert get(f"{base(millpond)}/manifests/1").body == moved.body


def test_a_tag_of_a_year_ago_does_not_stand_in_for_an_upstream_that_fails_but_its_digest_does(
    millpond: Millpond, upstream: ScriptedUpstream
) -> None:
    """Rows 10 and 31; K: a tag may be stale for a week, a digest never expires."""
    assert millpond.terminate() == 0
    set_checked(millpond, lambda checked: checked - YEAR)
    millpond.start()
    upstream.stop()
    reply = get(f"{base(millpond)}/manifests/1")
    assert (reply.status, reply.error_code) == (502, "UNAVAILABLE")
    assert sources(pull(base(millpond), IMAGE, IMAGE.digest)) == {"hit"}

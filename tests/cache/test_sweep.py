"""Starting: the index and the files are brought together, whatever happened to either."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.disk import DiskCache
from proxy.cache.index import Index
from proxy.cache.lock import DirectoryInUse, DirectoryLock
from proxy.cache.sweep import sweep
from proxy.observe import surviving as surviving_module
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from tests.cache.disks import Opened, bytes_on_disk, content, opened, place
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio


async def swept(cache: Opened) -> None:
    await sweep(cache.store, cache.cache.catalog)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_whole_file_that_the_ledger_does_not_know_is_hashed_and_adopted(tmp_path: Path, algorithm: str) -> None:
    """Row 23; K A."""
    good, bad = Digest.of(content(700), algorithm), Digest.of(content(701), algorithm)
    place(tmp_path, good, content(700))
    wrong = place(tmp_path, bad, content(701, seed=1))
    async with opened(tmp_path) as cache:
        assert cache.store.accounted == 0
        await swept(cache)
        assert cache.store.digests() == [good]
        assert await cache.read(good) == content(700)
        assert not wrong.exists()
        cache.assert_exact()


async def test_what_was_adopted_is_the_first_to_go(tmp_path: Path) -> None:
    """Row 23; A: nobody knows when it was used last."""
    stranger = Digest.of(content(300))
    place(tmp_path, stranger, content(300))
    async with opened(tmp_path, max_size=1000) as cache:
        known = await cache.keep(content(600))
        await swept(cache)
        assert set(cache.store.digests()) == {stranger, known}
    async with opened(tmp_path, max_size=1000) as cache:
        assert cache.store.digests() == [stranger, known]


async def test_records_without_a_file_and_files_of_another_size_are_dropped(tmp_path: Path) -> None:
    """Row 24; P A."""
    async with opened(tmp_path) as cache:
        gone, short, whole = [await cache.keep(content(500, seed)) for seed in range(3)]
        cache.path(gone).unlink()
        os.truncate(cache.path(short), 499)
    async with opened(tmp_path) as cache:
        await swept(cache)
        assert cache.store.digests() == [whole]
        assert not cache.path(short).exists()
        cache.assert_exact()


async def test_what_is_not_named_as_a_blob_is_not_ours_and_stays(tmp_path: Path) -> None:
    shelf = tmp_path / "blobs" / "sha256" / "aa"
    shelf.mkdir(parents=True)
    (shelf / "README").write_text("notes")
    (shelf / ("A" * 64)).write_text("upper case")
    (shelf / ("a" * 64)).mkdir()
    (tmp_path / "blobs" / "sha256" / "stray").write_text("x")
    async with opened(tmp_path) as cache:
        await swept(cache)
        assert cache.store.digests() == []
        assert cache.store.accounted == 0
    assert sorted(path.name for path in shelf.iterdir()) == ["A" * 64, "README", "a" * 64]


async def test_a_smaller_budget_after_a_restart_evicts_the_oldest(tmp_path: Path) -> None:
    """A."""
    async with opened(tmp_path) as cache:
        digests = [await cache.keep(content(300, seed)) for seed in range(4)]
    async with opened(tmp_path, max_size=700) as cache:
        await swept(cache)
        assert cache.store.digests() == digests[2:]
        cache.assert_exact()


async def test_nothing_that_was_arriving_is_there_after_a_restart(tmp_path: Path) -> None:
    """Row 22; P A."""
    async with opened(tmp_path) as cache:
        incoming = await cache.store.begin(Digest.of(content(500)), 500)
        await cache.arrive(incoming, [content(500)[:400]])
        incoming.file.close()
        assert bytes_on_disk(tmp_path) == 400
    async with opened(tmp_path) as cache:
        assert bytes_on_disk(tmp_path) == cache.store.accounted == 0


async def test_the_sweep_that_fails_takes_nothing_down_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B: somebody removes directories under the running program."""
    monkeypatch.setattr(surviving_module, "AGAIN_SECONDS", 0.01)  # it is a minute; the test cannot wait so long
    stranger = Digest.of(content(300))
    async with opened(tmp_path) as cache:
        place(tmp_path, stranger, content(300))
        shutil.rmtree(tmp_path / "blobs" / "sha512")
        tending = asyncio.create_task(cache.cache.tend())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not tending.done()
        (tmp_path / "blobs" / "sha512").mkdir()
        await wait_until_async(lambda: stranger in cache.store, "the sweep has been done after all")
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)


@given(
    st.lists(
        st.lists(st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400), max_size=4),
        max_size=5,
    )
)
def test_blob_records_that_make_no_sense_are_left_for_the_sweep(records: list[list[object]]) -> None:
    """Row 29; B A."""
    index = Index(lambda *_: None, lambda _: None, float)
    index.restore((Digest.of(bytes([number])), record) for number, record in enumerate(records))
    sizes = [entry.size for digest in index if (entry := index.get(digest))]
    assert len(sizes) == len(index)
    assert index.bytes == sum(sizes)
    assert all(size >= 0 for size in sizes)


async def test_a_directory_has_one_owner_until_that_one_ends(tmp_path: Path) -> None:
    """Row 30; A."""
    first = DirectoryLock(tmp_path)
    with pytest.raises(DirectoryInUse, match="is in use by another millpond process; stop that one, or give each"):
        DirectoryLock(tmp_path)
    with pytest.raises(DirectoryInUse):
        DiskCache(tmp_path, max_size=int, min_free=int, metrics=Metrics(), clock=float)
    first.release()
    async with opened(tmp_path) as cache:
        assert cache.store.trouble == ""
        with pytest.raises(DirectoryInUse):
            DirectoryLock(tmp_path)
    DirectoryLock(tmp_path).release()

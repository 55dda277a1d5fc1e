"""The blob store on a real directory: what stays, what goes, and that every byte is accounted for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from proxy.cache import scrub
from proxy.cache.sweep import sweep
from proxy.cache.verdict import Verdict
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure
from tests.cache.disks import GIB, bytes_on_disk, content, flip_a_bit, opened, pinned, place, small_disk
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

MIB = 1 << 20


async def test_the_least_recently_used_goes_first_and_bytes_decide_how_many(tmp_path: Path) -> None:
    """A."""
    async with opened(tmp_path, max_size=1000) as cache:
        first = await cache.keep(content(400))
        second, third = await cache.keep(content(300)), await cache.keep(content(200))
        cache.store.touch(first)
        fourth = await cache.keep(content(350))  # 250 bytes are lacking: the second is enough
        assert cache.store.digests() == [third, first, fourth]
        assert not cache.path(second).exists()
        fifth = await cache.keep(content(900))  # no two of the others may stay
        assert cache.store.digests() == [fifth]
        cache.assert_exact()
        assert cache.metrics.registry.get_sample_value("millpond_cache_evictions_total") == 4


async def test_opening_a_blob_counts_as_use(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size=1000) as cache:
        first, second = await cache.keep(content(400)), await cache.keep(content(401))
        assert await cache.read(first) == content(400)
        await cache.keep(content(402))
        assert first in cache.store
        assert second not in cache.store


async def test_a_blob_larger_than_the_budget_is_refused_and_nothing_is_evicted_for_it(tmp_path: Path) -> None:
    """Row 27; A."""
    async with opened(tmp_path, max_size=1000) as cache:
        kept = await cache.keep(content(900))
        assert not cache.store.admits(1001)
        with pytest.raises(DiskFailure, match=r"1001 bytes are more than cache.max_size \(1000 bytes\)"):
            await cache.store.begin(Digest.of(b"x"), 1001)
        assert cache.store.digests() == [kept]
        assert cache.store.trouble == ""
        cache.assert_exact()


async def test_a_blob_that_would_leave_less_than_min_free_is_refused_and_nothing_is_evicted(tmp_path: Path) -> None:
    """A."""
    async with opened(tmp_path, min_free=1 << 60) as cache:
        with pytest.raises(DiskFailure, match=r"cache.min_free keeps 1048576.0 TiB of them"):
            await cache.store.begin(Digest.of(b"x"), 1)
        assert cache.store.accounted == 0
        assert list((tmp_path / "incoming").iterdir()) == []


async def test_min_free_stays_free_and_the_oldest_blobs_go_for_it(tmp_path: Path) -> None:
    """A: the budget is far larger than the disk."""
    with small_disk(tmp_path / "disk", 8 * MIB) as disk:
        async with opened(disk, min_free=3 * MIB) as cache:
            for seed in range(12):
                last = await cache.keep(content(MIB, seed))
                status = os.statvfs(disk)
                assert status.f_bavail * status.f_frsize >= 3 * MIB
                assert cache.store.digests()[-1] == last
            assert 3 <= len(cache.store.digests()) <= 5
            cache.assert_exact()


async def test_arrivals_at_the_same_time_are_never_promised_the_same_bytes(tmp_path: Path) -> None:
    """A: the sum of what is stored and promised never exceeds the budget."""
    async with opened(tmp_path, max_size=1000) as cache:
        kept = await cache.keep(content(100))
        begun = [cache.store.begin(Digest.of(content(300, seed)), 300) for seed in range(10)]
        answers = await asyncio.gather(*begun, return_exceptions=True)
        arriving = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(arriving) == 3
        assert sum(isinstance(answer, DiskFailure) for answer in answers) == 7
        assert cache.store.accounted == 1000
        assert kept in cache.store
        for incoming in arriving:
            await cache.store.discard(incoming)
            incoming.file.close()
        assert cache.store.accounted == 100
        cache.assert_exact()


async def test_what_is_promised_and_not_yet_written_is_not_free(tmp_path: Path) -> None:
    """A B: six arrivals on a disk that has room for three: three are begun, and none of them runs out of room."""
    with small_disk(tmp_path / "disk", 4 * MIB + MIB // 2) as disk:
        async with opened(disk, min_free=MIB) as cache:
            bodies = [content(MIB, seed) for seed in range(6)]
            begun = [cache.store.begin(Digest.of(body), MIB) for body in bodies]
            answers = await asyncio.gather(*begun, return_exceptions=True)
            arriving = [answer for answer in answers if not isinstance(answer, BaseException)]
            assert len(arriving) == 3
            for incoming in arriving:
                body = next(body for body in bodies if Digest.of(body) == incoming.digest)
                await cache.arrive(incoming, [body])
                await cache.store.commit(incoming)
                incoming.file.close()
            assert cache.store.trouble == ""
            cache.assert_exact()


async def test_a_blob_that_comes_again_while_its_old_file_is_still_to_be_removed_stays(tmp_path: Path) -> None:
    """A K: to remove a thousand files takes a slow disk seconds."""
    small = [content(8, seed) for seed in range(1000)]
    for body in small:
        place(tmp_path, Digest.of(body), body)
    async with opened(tmp_path, max_size=8000) as cache:
        await sweep(cache.store, cache.cache.catalog)
        [(last_to_go, _)] = cache.store.next_to_go(1)
        beginning = asyncio.create_task(cache.store.begin(Digest.of(content(7900)), 7900))
        await wait_until_async(lambda: last_to_go not in cache.store, "it has been chosen to go")
        await cache.keep(next(body for body in small if Digest.of(body) == last_to_go))
        incoming = await beginning
        await cache.store.discard(incoming)
        incoming.file.close()
        assert last_to_go in cache.store
        cache.assert_exact()


async def test_a_blob_that_is_evicted_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    """Row 28; W."""
    async with opened(tmp_path, max_size=1000) as cache:
        digest = await cache.keep(content(600))
        blob = await cache.store.open(digest)
        assert blob is not None
        assert blob.file.read(100) == content(600)[:100]
        await cache.keep(content(601))
        assert digest not in cache.store
        assert not cache.path(digest).exists()
        assert blob.file.readall() == content(600)[100:]
        blob.close()
        cache.assert_exact()


async def test_what_is_discarded_while_it_is_read_can_still_be_read(tmp_path: Path) -> None:
    """Row 25; W A."""
    async with opened(tmp_path) as cache:
        body = content(1000)
        incoming = await cache.store.begin(Digest.of(body), 1000)
        await cache.store.write(incoming, 300, [body[300:500], body[500:700]])
        await cache.store.write(incoming, 0, [body[:300]])
        assert incoming.written == 700
        await cache.store.discard(incoming)
        assert os.pread(incoming.file.fileno(), 1000, 0) == body[:700]
        incoming.file.close()
        assert (cache.store.accounted, bytes_on_disk(tmp_path)) == (0, 0)


async def test_nothing_has_the_name_of_a_blob_before_it_is_committed(tmp_path: Path) -> None:
    """P."""
    async with opened(tmp_path) as cache:
        body = content(1000)
        incoming = await cache.store.begin(Digest.of(body), 1000)
        await cache.arrive(incoming, [body[:999]])
        assert not incoming.verified
        assert Digest.of(body) not in cache.store
        assert not cache.path(Digest.of(body)).exists()
        await cache.arrive(incoming, [b"\0"])
        assert not incoming.verified
        await cache.store.discard(incoming)
        incoming.file.close()


async def test_one_manifest_that_is_put_many_times_at_once_is_kept_once(tmp_path: Path) -> None:
    """A."""
    async with opened(tmp_path) as cache:
        body = content(500)
        await asyncio.gather(*(cache.store.put(Digest.of(body), body) for _ in range(8)))
        assert cache.store.digests() == [Digest.of(body)]
        assert cache.store.accounted == 500
        cache.assert_exact()
        assert await cache.store.read(Digest.of(body)) == body


@pytest.mark.parametrize("size", [0, 1, 599, 601])
async def test_a_file_of_another_size_is_evicted_and_its_size_never_believed(tmp_path: Path, size: int) -> None:
    """Row 24; W P A."""
    async with opened(tmp_path) as cache:
        digest = await cache.keep(content(600))
        times = cache.path(digest).stat()
        os.truncate(cache.path(digest), size)
        os.utime(cache.path(digest), ns=(times.st_atime_ns, times.st_mtime_ns))
        assert cache.store.size(digest) == 600
        assert await cache.store.open(digest) is None
        assert digest not in cache.store
        assert not cache.path(digest).exists()
        assert cache.alarms() == 1
        cache.assert_exact()


async def test_a_flipped_bit_is_found_at_the_next_use_because_the_time_has_changed(tmp_path: Path) -> None:
    """Row 24; W P."""
    async with opened(tmp_path) as cache:
        digest = await cache.keep(content(600))
        flip_a_bit(cache.path(digest), 300, keep_times=False)
        assert await cache.store.open(digest) is None
        assert not cache.path(digest).exists()
        assert cache.alarms() == 1
        cache.assert_exact()


async def test_a_flipped_bit_that_leaves_the_time_alone_is_found_by_hashing(tmp_path: Path) -> None:
    """Row 24; P."""
    async with opened(tmp_path) as cache:
        good, bad = await cache.keep(content(600)), await cache.keep(content(601))
        flip_a_bit(cache.path(bad), 300, keep_times=True)
        assert await cache.store.verify(good) is Verdict.INTACT
        assert await cache.store.verify(bad) is Verdict.DAMAGED
        assert cache.store.digests() == [good]
        assert not cache.path(bad).exists()
        assert cache.alarms() == 1
        cache.assert_exact()


async def test_the_scrub_finds_a_flipped_bit_that_nothing_else_tells_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 24; P."""
    monkeypatch.setattr(scrub, "_IDLE_SECONDS", 0.01)  # it begins after a minute; the test cannot wait so long
    async with opened(tmp_path, scrub_rate=GIB) as cache:
        digests = [await cache.keep(content(600, seed)) for seed in range(5)]
        flip_a_bit(cache.path(digests[3]), 599, keep_times=True)
        scrubbing = asyncio.create_task(cache.cache.scrubber.run())
        await wait_until_async(lambda: digests[3] not in cache.store, "the scrub has found the damage")
        scrubbing.cancel()
        await asyncio.gather(scrubbing, return_exceptions=True)
        await wait_until_async(lambda: not cache.path(digests[3]).exists(), "the damaged file is gone")
        assert len(cache.store.digests()) == 4
        cache.assert_exact()


async def test_a_file_that_was_only_copied_back_is_hashed_once_and_stays(tmp_path: Path) -> None:
    """K."""
    async with opened(tmp_path) as cache:
        digest = await cache.keep(content(600))
        os.utime(cache.path(digest), ns=(1, 1))
        assert await cache.read(digest) == content(600)
        flip_a_bit(cache.path(digest), 0, keep_times=True)
        assert await cache.read(digest) is not None  # not hashed again: its new time is known by now
        assert cache.alarms() == 0


async def test_a_file_that_somebody_removed_is_a_miss_and_no_error(tmp_path: Path) -> None:
    """A B."""
    async with opened(tmp_path) as cache:
        digest = await cache.keep(content(600))
        cache.path(digest).unlink()
        assert await cache.store.open(digest) is None
        assert await cache.store.read(digest) is None
        assert digest not in cache.store
        assert cache.store.trouble == ""
        assert await cache.keep(content(600)) == digest
        cache.assert_exact()


async def test_a_file_that_cannot_be_opened_is_evicted_and_the_reason_said(tmp_path: Path) -> None:
    """Row 25; B H: whoever asks again must not find it there again."""
    async with opened(tmp_path) as cache:
        digest = await cache.keep(content(600))
        cache.path(digest).unlink()
        cache.path(digest).symlink_to(cache.path(digest))
        assert await cache.store.open(digest) is None
        assert digest not in cache.store
        assert "Too many levels of symbolic links" in cache.store.trouble
        assert not cache.path(digest).is_symlink()


async def test_a_full_disk_pauses_the_store_and_says_why(tmp_path: Path) -> None:
    """Row 25; B A."""
    with small_disk(tmp_path / "disk", MIB) as disk:
        async with opened(disk) as cache:
            body = content(2 * MIB)
            # The disk gives out although it seemed to have room: somebody else wrote there as well.
            incoming = await cache.store.begin(Digest.of(b"other"), 10)
            incoming.size = len(body)
            with pytest.raises(DiskFailure, match="No space left on device"):
                await cache.arrive(incoming, [body])
            assert "No space left" in cache.store.trouble
            assert not cache.store.admits(1)
            assert cache.metrics.registry.get_sample_value("millpond_cache_up") == 0
            with pytest.raises(DiskFailure, match="No space left"):
                await cache.store.begin(Digest.of(b"x"), 1)
            await cache.store.discard(incoming)
            incoming.file.close()
            assert bytes_on_disk(disk) == 0


async def test_what_cannot_be_removed_is_still_accounted_for(tmp_path: Path) -> None:
    """Row 25; A B."""
    async with opened(tmp_path / "cache", max_size=1000) as cache:
        digests = [await cache.keep(content(300, seed)) for seed in range(3)]
        with pinned(cache.path(digests[1]), tmp_path):
            with pytest.raises(DiskFailure, match="the disk refused"):
                await cache.store.begin(Digest.of(b"x"), 900)
            cache.assert_exact()
            assert cache.store.digests() == digests[:2]
        assert [await cache.read(digest) for digest in digests[:2]] == [content(300, 0), content(300, 1)]


async def test_a_directory_that_cannot_be_used_leaves_a_cache_that_keeps_nothing(tmp_path: Path) -> None:
    """Row 26; B."""
    (tmp_path / "file").write_bytes(b"")
    async with opened(tmp_path / "file" / "cache") as cache:
        assert "cannot be used: Not a directory" in cache.store.trouble
        assert not cache.store.admits(1)
        digest = Digest.of(b"x")
        with pytest.raises(DiskFailure, match="cannot be used"):
            await cache.store.put(digest, b"x")
        assert await cache.store.open(digest) is None
        assert await cache.store.verify(digest) is Verdict.GONE
        await cache.cache.tend()  # ends at once: there is nothing to look after

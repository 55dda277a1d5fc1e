"""What a large cache costs: as many operations as a small one. Seconds are shown by `python -m tests.growth`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from proxy.cache.disk import DiskCache
from proxy.cache.sweep import sweep
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from tests.cache.disks import content
from tests.growth.directory import BLOBS_OF_AN_IMAGE, grow, manifest_of, repository
from tests.growth.measure import lag, running, swept
from tests.support.pulls import get

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SMALL, LARGE = 1_000, 10_000
_SAME: Final = 1.5  # what a dictionary that grows on its way may add; a scan of ten times as much would be ten


@dataclass
class Sizes:
    """The caches by their blobs, and the probe that all of them hold."""

    probe: Digest
    directories: dict[int, Path] = field(default_factory=dict)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    """Each in one repository, the worst case: all that a repository holds grows with the cache."""
    sizes = Sizes(Digest.of(b"probe"))
    for blobs in (SMALL, LARGE):
        sizes.directories[blobs] = tmp_path_factory.mktemp("grown") / str(blobs)
        grow(sizes.directories[blobs], blobs, b"probe", images_of_a_repository=LARGE)
    return sizes


class Operations:
    """Counts what Python executes: lines, which loops and comprehensions repeat, and calls into C."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        def trace(_frame: FrameType, _event: str, _argument: Any) -> Any:
            self.count += 1
            return trace

        def profile(_frame: FrameType, event: str, _argument: Any) -> None:
            self.count += event == "c_call"

        before = sys.gettrace(), sys.getprofile()
        sys.setprofile(profile)
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])


def opened(directory: Path, max_size: int = 1 << 40) -> DiskCache:
    return DiskCache(directory, max_size=lambda _: max_size, min_free=lambda _: 0, metrics=Metrics(), clock=time.time)


async def operations(directory: Path, work: Callable[[DiskCache], Awaitable[object]]) -> int:
    """What `work` executes on the event loop over a cache that has just been opened."""
    cache = opened(directory)
    operations = Operations()
    try:
        # The loop's own waiting for threads is not the cache's work, and takes as many turns as it takes.
        with operations.counted():
            await work(cache)
    finally:
        await cache.close()
    return operations.count


async def read_probe(cache: DiskCache, probe: Digest) -> None:
    assert cache.catalog.blob_size(repository(0), probe) == 5
    assert await cache.blobs.read(probe) == b"probe"


async def evict_an_image(cache: DiskCache, image: int) -> None:
    record = cache.catalog.tag(repository(0), f"v{image}")
    assert record
    await cache.blobs.evict(record.digest)
    assert cache.catalog.tag(repository(0), f"v{image}") is None
    assert cache.catalog.media_type(repository(0), record.digest) is None


async def make_room(cache: DiskCache, size: int) -> None:
    """Let something arrive for which `size` bytes, about, have to go."""
    store = cache.blobs
    store._room.max_size = store.accounted  # from now on the cache is full
    body = content(size)
    incoming = await store.begin(Digest.of(body), len(body))
    await store.discard(incoming)
    incoming.file.close()


CASES: Final[dict[str, Callable[[DiskCache, Sizes], Awaitable[object]]]] = {
    "a hit": lambda cache, sizes: read_probe(cache, sizes.probe),
    "the eviction of a manifest": lambda cache, _: evict_an_image(cache, 7),
    "room for an arrival": lambda cache, _: make_room(cache, 100),
    "what is kept": lambda cache, _: cache.blobs.put(Digest.of(b"new"), b"new"),
}


@pytest.mark.parametrize("case", CASES)
async def test_it_takes_as_many_operations_in_a_cache_ten_times_as_large(grown: Sizes, case: str) -> None:
    small, large = [
        await operations(grown.directories[blobs], lambda cache: CASES[case](cache, grown)) for blobs in (SMALL, LARGE)
    ]
    assert large <= small * _SAME, f"{small} operations with {SMALL} blobs, {large} with {LARGE}"


async def test_the_ledger_is_written_row_by_row_however_many_it_has(grown: Sizes) -> None:
    written = []
    for blobs in (SMALL, LARGE):
        cache = opened(grown.directories[blobs])
        journal = cache._journals[0]  # the ledger; pins and the like have their own
        cache.blobs.touch(grown.probe)
        cache.catalog.add_blob(repository(3), grown.probe, 5 + blobs)
        written.append(len(journal._dirty))
        assert await journal.flush()
        await cache.close()
    assert written == [2, 2]


async def test_the_sweep_gives_the_loop_its_turn_after_each_few_hundred_files(grown: Sizes) -> None:
    """As many operations between two turns of the loop, however many files there are."""
    longest = []
    for blobs in (SMALL, LARGE):
        cache = opened(grown.directories[blobs])
        counted, turns = Operations(), [0]

        async def take_turns(counted: Operations = counted, turns: list[int] = turns) -> None:
            while True:
                turns.append(counted.count)
                await asyncio.sleep(0)

        taking = asyncio.create_task(take_turns())
        with counted.counted():
            await sweep(cache.blobs, cache.catalog)
            await asyncio.sleep(0)  # one more turn, that ends the last stretch
        taking.cancel()
        longest.append(max(after - before for before, after in pairwise(turns)))
        assert not cache.blobs.unconfirmed
        await cache.close()
    assert longest[1] <= longest[0] * _SAME, f"{longest} operations between two turns"


async def test_what_one_repository_shares_among_its_images_goes_with_the_last_of_them(tmp_path: Path) -> None:
    """S K: counted, not searched for."""
    grow(tmp_path, 3 * BLOBS_OF_AN_IMAGE, b"probe")
    cache = opened(tmp_path)
    manifests = [manifest_of(cache.catalog, image) for image in range(3)]
    base = Digest.of(f"base of {repository(0)}".encode())
    for digest in manifests:
        assert cache.catalog.blob_size(repository(0), base) is not None
        await cache.blobs.evict(digest)
    assert cache.catalog.blob_size(repository(0), base) is None
    assert cache.catalog.repositories() == []
    await cache.close()


def test_a_grown_cache_is_served_while_it_is_swept_and_the_lag_is_exported(tmp_path: Path) -> None:
    """The program itself: it knows all at once, the sweep finds it so, and the gauge of the loop is read."""
    cache = tmp_path / "cache"
    probe = grow(cache, SMALL, b"probe")
    with running(tmp_path, cache) as (millpond, _):
        known = millpond.metric("millpond_cache_blobs")
        assert known > SMALL
        assert get(f"{millpond.url}/v2/{repository(0).path}/blobs/{probe}").body == b"probe"
        swept(millpond)
        assert millpond.log_lines(event="cache swept", files=known, adopted=0, removed=0)
        p99, longest = lag(millpond)
        assert p99 > 0
        assert longest >= 0
        assert not millpond.complaints()

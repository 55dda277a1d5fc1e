"""Whoever asked for something of the disk may be cancelled at any moment: what is accounted for stays what is there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from proxy.cache.files import Found
from proxy.oci.digest import Digest
from tests.cache.disks import Opened, bytes_on_disk, content, opened, place

pytestmark = pytest.mark.anyio

MAX_SIZE: Final = 1000
# Turns of the event loop after which the caller is cancelled. A call to the disk takes some, never as many twice.
MOMENTS: Final = [turns for turns in range(40) for _ in range(5)]


async def cancelled_after(turns: int, work: Awaitable[object]) -> None:
    """Cancel `work` after so many turns of the event loop, if it has not ended by then."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def there(cache: Opened, body: bytes) -> None:
    digest = Digest.of(body)
    if digest not in cache.store:
        file = place(cache.directory, digest, body)
        cache.store.adopt(Found(digest, len(body), file.stat().st_mtime_ns))


async def make_room(cache: Opened, seed: int) -> None:
    """Everything that is there has to go for it."""
    digest = Digest.of(content(900, seed))
    incoming = await cache.store.begin(digest, 900)
    try:
        await cache.store.discard(incoming)
    finally:
        incoming.file.close()


async def put(cache: Opened, seed: int) -> None:
    """As above, and it stays."""
    await cache.store.put(Digest.of(content(300, seed)), content(300, seed))


async def evict(cache: Opened, _: int) -> None:
    for digest in cache.store.digests():
        await cache.store.evict(digest)


@pytest.mark.parametrize("work", [make_room, put, evict])
async def test_a_caller_that_is_cancelled_leaves_no_byte_that_is_not_accounted_for(
    tmp_path: Path, work: Callable[[Opened, int], Awaitable[None]]
) -> None:
    """A."""
    async with opened(tmp_path, MAX_SIZE) as cache:
        for number, turns in enumerate(MOMENTS):
            for seed in range(3):
                there(cache, content(300, 1000 + seed))
            await cancelled_after(turns, work(cache, number))
            assert cache.store.accounted == bytes_on_disk(tmp_path), f"cancelled after {turns} turns"
            assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_file_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    """What is left to the collector instead complains, and a warning is an error here."""
    before = open_files()
    async with opened(tmp_path, MAX_SIZE) as cache:
        there(cache, content(300, 1))
        for turns in MOMENTS:
            await cancelled_after(turns, open_and_close(cache, Digest.of(content(300, 1))))
    gc.collect()
    assert open_files() <= before


async def open_and_close(cache: Opened, digest: Digest) -> None:
    blob = await cache.store.open(digest)
    assert blob is not None
    blob.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

"""The way of arriving bytes to the file, when whoever sends them is cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.oci.digest import Digest
from proxy.pull.writer import Writer
from tests.cache.disks import content, opened

pytestmark = pytest.mark.anyio

SIZE = 900


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_nobody_writes_to_the_file_after_a_wait_for_it_that_was_cancelled(tmp_path: Path, times: int) -> None:
    """Else a flight would close it below the hands of a thread."""
    async with opened(tmp_path, SIZE) as cache:
        body = content(SIZE, times)
        incoming = await cache.store.begin(Digest.of(body), SIZE)
        landed: list[tuple[int, int]] = []
        writer = Writer(cache.store, incoming, lambda start, stop: landed.append((start, stop)), 0)
        await writer.write(body)
        waiting = asyncio.create_task(writer.drain())
        for _ in range(times):
            await asyncio.sleep(0)
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert landed == [(0, SIZE)], "who waited has gone before the bytes were written"
        assert incoming.path.read_bytes() == body
        await cache.store.discard(incoming)
        incoming.file.close()

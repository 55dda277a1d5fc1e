"""A register: what is noted is there after a restart, and a directory that cannot be used costs no more than that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.cache.ledger import Record
from proxy.cache.register import Register
from tests.cache.disks import opened
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio


async def noted(directory: Path, changes: dict[str, Record | None]) -> None:
    async with opened(directory) as used:
        register = used.cache.register("queue")
        for key, record in changes.items():
            register.note(key, record)


async def test_what_is_noted_is_there_after_a_restart_and_what_is_removed_is_not(tmp_path: Path) -> None:
    await noted(tmp_path, {"a": [1], "b": ["two", None]})
    await noted(tmp_path, {"a": None, "c": []})
    async with opened(tmp_path) as used:
        assert used.cache.register("queue").held == {"b": ["two", None], "c": []}


async def test_it_is_written_while_the_program_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as used:
        register = used.cache.register("queue")
        tending = asyncio.create_task(used.cache.tend())
        register.note("a", [1])
        await wait_until_async(lambda: Register(tmp_path / "queue").held == {"a": [1]}, "the record is written")
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)


async def test_a_directory_that_cannot_be_used_makes_it_forgetful_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with opened(tmp_path / "file") as used:
        register = used.cache.register("queue")
        register.note("a", [1])
        assert register.held == {"a": [1]}
        assert (register.journal, used.store.trouble != "") == (None, True)

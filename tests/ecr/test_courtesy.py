"""Pushes never slow a client."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from proxy.ecr import courtesy as courtesy_module
from proxy.ecr.courtesy import FLOOR_SECONDS, PACE, Courtesy

pytestmark = pytest.mark.anyio

# Takes its share of a tenth of a second.
PART = PACE // 10


class Clients:
    def __init__(self, served: int = 0) -> None:
        self.served = served

    def busy(self) -> bool:
        return self.served > 0


async def test_in_quiet_times_nobody_waits() -> None:
    courtesy = Courtesy(Clients().busy)

    async with asyncio.timeout(5):
        for _ in range(100):
            await courtesy.turn(PART, spare=False)
            await courtesy.turn(PART, spare=True)


async def test_while_clients_are_served_parts_of_all_targets_go_one_by_one_in_their_order() -> None:
    courtesy = Courtesy(Clients(1).busy)
    times: list[tuple[int, float]] = []

    async def part(number: int) -> None:
        await courtesy.turn(PART, spare=False)
        times.append((number, time.monotonic()))

    await asyncio.gather(*(part(number) for number in range(4)))

    assert [number for number, _ in times] == [0, 1, 2, 3]
    gaps = [later - earlier for (_, earlier), (_, later) in pairwise(times)]
    assert min(gaps) >= 0.098


@pytest.mark.parametrize(("count", "share"), [(10 << 20, 0.5), (1 << 20, 0.05), (1000, FLOOR_SECONDS)])
async def test_while_clients_are_served_a_part_waits_its_share_of_the_pace(count: int, share: float) -> None:
    clock = [100.0]
    courtesy = Courtesy(Clients(1).busy, lambda: clock[0])
    await courtesy.turn(10 << 20, spare=False)
    waiting = asyncio.create_task(courtesy.turn(count, spare=False))

    clock[0] += share * 0.9
    done, _ = await asyncio.wait({waiting}, timeout=0.15)
    assert not done

    clock[0] += share * 0.2
    async with asyncio.timeout(5):
        await waiting


async def test_the_end_of_the_last_response_ends_the_waiting() -> None:
    clients = Clients(1)
    courtesy = Courtesy(clients.busy, lambda: 0.0)  # by this clock the pace would never allow another part
    await courtesy.turn(PART, spare=False)
    waiting = [asyncio.create_task(courtesy.turn(PART, spare=False)) for _ in range(3)]
    _, pending = await asyncio.wait(waiting, timeout=0.1)
    assert len(pending) == 3

    clients.served = 0

    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)


async def test_the_moments_between_the_requests_of_one_pull_are_not_quiet() -> None:
    clock = [100.0]
    courtesy = Courtesy(Clients().busy, lambda: clock[0])
    courtesy.served()
    waiting = asyncio.create_task(courtesy.quiet())
    done, _ = await asyncio.wait({waiting}, timeout=0.15)
    assert not done

    clock[0] += 1

    async with asyncio.timeout(5):
        await waiting


async def test_spare_work_waits_for_quiet_first_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courtesy_module, "PATIENCE_SECONDS", 0.3)
    courtesy = Courtesy(Clients(1).busy)
    order: list[str] = []

    async def part(name: str, *, spare: bool) -> None:
        await courtesy.turn(PART, spare=spare)
        order.append(name)

    async with asyncio.timeout(10):
        await asyncio.gather(part("spare", spare=True), part("pulled", spare=False))

    assert order == ["pulled", "spare"]

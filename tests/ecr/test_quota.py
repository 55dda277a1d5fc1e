"""Turns for calls: below AWS's quotas, first come, first served."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from proxy.ecr.errors import Throttled
from proxy.ecr.quota import LONGEST_WAIT, RATES, Quotas

pytestmark = pytest.mark.anyio

HERE = ("111122223333", "us-east-1")


async def take(quotas: Quotas, count: int, operation: str = "Slow") -> list[tuple[int, float]]:
    """(which caller, when), in the order in which they got their turns."""
    turns: list[tuple[int, float]] = []

    async def one(number: int) -> None:
        await quotas.take(*HERE, operation)
        turns.append((number, time.monotonic()))

    await asyncio.gather(*(one(number) for number in range(count)))
    return turns


async def test_turns_come_at_the_rate_and_in_the_order_of_asking() -> None:
    turns = await take(Quotas({"Slow": 50.0}), 40)
    assert [number for number, _ in turns] == list(range(40))
    assert turns[-1][1] - turns[0][1] >= 0.9 * (39 / 50 - 0.125)


async def test_no_second_has_more_images_put_than_ecr_allows() -> None:
    times = [when for _, when in await take(Quotas(), 20, "PutImage")]
    for first, eleventh in itertools.pairwise(times[::10]):
        assert eleventh - first > 0.95


async def test_accounts_regions_and_operations_do_not_share_turns() -> None:
    quotas = Quotas({"Slow": 0.5, "Fast": 0.5}, clock=lambda: 100.0)
    async with asyncio.timeout(1):  # each of them would wait for two seconds behind another
        for account, region, operation in itertools.product(("1", "2"), ("a", "b"), ("Slow", "Fast")):
            await quotas.take(account, region, operation)


async def test_a_turn_that_is_too_far_off_is_refused_at_once() -> None:
    quotas = Quotas({"Slow": 1 / LONGEST_WAIT}, clock=lambda: 100.0)
    await quotas.take(*HERE, "Slow")
    waiting = asyncio.create_task(quotas.take(*HERE, "Slow"))
    await asyncio.sleep(0)
    with pytest.raises(Throttled, match="Slow are waiting"):
        await quotas.take(*HERE, "Slow")
    waiting.cancel()


def test_every_rate_is_below_the_documented_quota() -> None:
    documented = {
        "BatchCheckLayerAvailability": 1000,
        "BatchGetImage": 2000,
        "CompleteLayerUpload": 100,
        "GetAuthorizationToken": 500,
        "GetDownloadUrlForLayer": 3000,
        "InitiateLayerUpload": 100,
        "PutImage": 10,
        "UploadLayerPart": 500,
    }
    assert set(RATES) == set(documented)
    assert all(0 < rate < documented[name] for name, rate in RATES.items())

"""What two looks at the totals say of the time between them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from proxy.observe.events import Served
from proxy.observe.metrics import Metrics
from proxy.observe.rates import Look, Rates, between
from tests.support.waiting import wait_until_async


@dataclass
class _Day:
    """Rates whose clock and port are turned by hand."""

    metrics: Metrics = field(default_factory=Metrics)
    now: float = 100.0
    sent: int = 0

    def __post_init__(self) -> None:
        self.rates = Rates(self.metrics, lambda: self.sent, lambda: self.now)

    def serve(self, *origins: str) -> None:
        for origin in origins:
            self.rates.observe(Served("id", "192.0.2.1", "GET", "/v2/", origin=origin))


def test_rates_are_of_the_seconds_between_two_looks() -> None:
    day = _Day()
    day.serve("upstream")
    before = day.rates.look()
    day.now, day.sent = 102.0, 5000
    day.serve("hit", "joined", "stale", "ecr", "upstream", "")
    day.metrics.fetched_bytes.labels("docker.io").inc(300)
    day.metrics.fetched_bytes.labels("ghcr.io").inc(100)
    rate = between(before, day.rates.look())
    assert (rate.requests, rate.served, rate.fetched) == (3.0, 2500.0, 200.0)
    assert rate.hit_ratio == 3 / 5, "what has no source, such as an error, was neither hit nor miss"


def test_each_reader_has_looks_of_its_own() -> None:
    day = _Day()
    first = day.rates.look()
    day.serve("hit")
    day.now = 101.0
    assert between(first, day.rates.look()).requests == 1.0
    day.now = 102.0
    assert between(first, day.rates.look()).requests == 0.5


def test_where_nothing_was_asked_for_there_is_no_ratio() -> None:
    day = _Day()
    before = day.rates.look()
    day.now = 101.0
    rate = between(before, day.rates.look())
    assert (rate.requests, rate.served, rate.fetched, rate.hit_ratio) == (0.0, 0.0, 0.0, None)


def test_two_looks_in_one_moment_are_no_error() -> None:
    look = Look(at=1.0, requests=5, sourced=5, hits=5, served_bytes=5, fetched_bytes=5)
    assert between(look, look).requests == 0.0


@pytest.mark.anyio
async def test_the_last_seconds_are_kept_for_whoever_comes_later() -> None:
    day = _Day()
    keeping = asyncio.create_task(day.rates.run())
    await asyncio.sleep(0)  # it has had its first look
    day.serve("hit")
    await wait_until_async(lambda: len(day.rates.past()) >= 2, "two seconds have passed")
    keeping.cancel()
    (first, rate), (second, after), *_ = day.rates.past()
    assert first < second <= time.time()
    assert (rate.requests > 0, after.requests) == (True, 0.0)

"""The breaker of a host, by a clock that is told the time."""

from __future__ import annotations

import pytest

from proxy.oci.errors import UpstreamLimited
from proxy.upstream.breaker import MAX_HOSTS, Breaker, BreakerOpen, Breakers
from tests.upstream.conftest import Clock


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with breaker.enter("manifests") as permit:
            permit.failed()


def test_five_failures_in_a_row_open_it(clock: Clock) -> None:
    breaker = Breakers(clock).host("a")
    fail(breaker, 4)
    with breaker.enter("manifests") as permit:
        permit.answered()
    fail(breaker, 5)
    with pytest.raises(BreakerOpen, match="failed 5 times"):
        breaker.enter("blobs")


def test_each_failed_probe_doubles_the_opening_up_to_ten_seconds(clock: Clock) -> None:
    breaker = Breakers(clock).host("a")
    fail(breaker, 5)
    for opening in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        clock.now += opening - 0.01
        with pytest.raises(BreakerOpen):
            breaker.enter("manifests")
        clock.now += 0.02
        fail(breaker)


def test_one_probe_at_a_time_decides_and_success_closes_it(clock: Clock) -> None:
    breaker = Breakers(clock).host("a")
    fail(breaker, 5)
    clock.now += 1.0
    with breaker.enter("manifests") as probe:
        with pytest.raises(BreakerOpen):
            breaker.enter("manifests")
        probe.answered()
    fail(breaker, 4)
    breaker.enter("manifests")


def test_a_probe_whose_caller_leaves_lets_the_next_one_try(clock: Clock) -> None:
    breaker = Breakers(clock).host("a")
    fail(breaker, 5)
    clock.now += 1.0
    with breaker.enter("manifests"):
        pass
    with breaker.enter("manifests") as permit:
        permit.answered()


def test_failures_that_come_late_do_not_lengthen_the_opening(clock: Clock) -> None:
    breaker = Breakers(clock).host("a")
    late = breaker.enter("manifests")
    fail(breaker, 5)
    clock.now += 0.9
    late.failed()
    clock.now += 0.2
    breaker.enter("manifests")


def test_a_429_pauses_its_noun_only(clock: Clock) -> None:
    breaker = Breakers(clock).host("a")
    with breaker.enter("manifests") as permit:
        permit.limited(30.0)
    breaker.enter("blobs")
    clock.now += 10.0
    with pytest.raises(UpstreamLimited) as caught:
        breaker.enter("manifests")
    assert caught.value.retry_after == pytest.approx(20.0)
    clock.now += 20.0
    breaker.enter("manifests")


def test_hosts_have_breakers_of_their_own_and_only_so_many_are_remembered(clock: Clock) -> None:
    breakers = Breakers(clock)
    fail(breakers.host("a"), 5)
    breakers.host("b").enter("manifests")
    for number in range(MAX_HOSTS):
        breakers.host(f"cdn-{number}")
    breakers.host("a").enter("manifests")

"""What has landed of a blob, and what is still to be fetched, against plain sets of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.pull.landed import Landed
from proxy.pull.plan import Plan

_SIZE = 60
_MIB = 1 << 20

spans = st.tuples(st.integers(0, _SIZE), st.integers(0, _SIZE)).map(sorted).filter(lambda span: span[0] < span[1])


@given(st.lists(spans, max_size=20))
def test_a_run_reaches_exactly_as_far_as_its_bytes_are_there(added: list[list[int]]) -> None:
    landed, there = Landed(), set[int]()
    for start, stop in added:
        landed.add(start, stop)
        there |= set(range(start, stop))
    for at in range(_SIZE + 1):
        end = at
        while end in there:
            end += 1
        assert landed.reach(at) == end
    assert landed.front == landed.reach(0)


@given(st.integers(0, 300 * _MIB), st.lists(st.integers(0, 300 * _MIB), max_size=8))
def test_every_byte_is_handed_out_exactly_once_whatever_is_wanted(size: int, wanted: list[int]) -> None:
    plan = Plan(size)
    handed = []
    while stretch := plan.claim():
        handed.append((stretch.start, stretch.stop))
        if wanted:
            plan.want(wanted.pop())
    handed.sort()
    assert [start for start, _ in handed] == [0, *(stop for _, stop in handed)][: len(handed)]
    assert sum(stop - start for start, stop in handed) == size
    assert not plan.unclaimed


def test_what_somebody_waits_for_is_handed_out_next_and_the_rest_from_the_front() -> None:
    plan = Plan(256 * _MIB)
    plan.claim()
    assert plan.want(200 * _MIB)
    wanted, following = plan.claim(), plan.claim()
    assert wanted is not None
    assert following is not None
    assert (wanted.start, following.start) == (200 * _MIB, 8 * _MIB)


def test_what_is_handed_out_already_cannot_be_wanted() -> None:
    plan = Plan(64 * _MIB)
    plan.claim()
    assert not plan.want(0)
    assert not plan.want(64 * _MIB)


def test_what_a_connection_gives_back_is_handed_out_again() -> None:
    plan = Plan(8 * _MIB)
    stretch = plan.claim()
    assert stretch is not None
    assert not plan.unclaimed
    plan.give_back(stretch.start + 5, stretch.stop)
    again = plan.claim()
    assert again is not None
    assert (again.start, again.stop) == (5, 8 * _MIB)

"""Ranges, against a slow oracle that looks at every byte as RFC 9110 describes it."""

from __future__ import annotations

import time
from string import digits
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.oci.errors import RangeInvalid
from proxy.oci.ranges import ByteRange, parse_content_range, parse_range

Answer = list[int] | Literal["whole", "unsatisfiable"]


def oracle(header: str, size: int) -> Answer:
    """The positions that `header` asks for of `size` bytes, each byte judged for itself."""
    unit, equals, ranges = header.partition("=")
    first, dash, last = ranges.strip(" \t").partition("-")
    number = set(digits)
    if unit.lower() != "bytes" or not equals or not dash or not set(first + last) <= number or not first + last:
        return "whole"  # not one range in bytes: the server may ignore it
    if not size:
        return "whole"  # protocol.md, section 6
    if first:
        found = [at for at in range(size) if int(first) <= at and (not last or at <= int(last))]
    else:
        found = [at for at in range(size) if size - at <= int(last)]
    return found or "unsatisfiable"


def answer(header: str, size: int) -> Answer:
    try:
        wanted = parse_range(header, size)
    except RangeInvalid:
        return "unsatisfiable"
    return "whole" if wanted is None else list(range(wanted.start, wanted.stop))


positions = st.one_of(st.just(""), st.integers(0, 60).map(str), st.sampled_from(["0" * 20, "9" * 20]))
headers = st.builds(
    "{}={}{}-{}{}".format,
    st.sampled_from(["bytes", "Bytes", "BYTES", "items", "byte", ""]),
    st.sampled_from(["", " ", "\t"]),
    positions,
    positions,
    st.sampled_from(["", " ", ",", ",1-2", "-"]),
)
plain_headers = st.builds("bytes={}-{}".format, positions, positions)
near_headers = st.one_of(
    plain_headers, headers, st.text("byteskBYTES=-0159, \t٣\u212aſ", max_size=20), st.text(max_size=20)
)


@given(near_headers, st.integers(0, 50))
def test_a_range_is_exactly_the_bytes_that_rfc_9110_says(header: str, size: int) -> None:
    """Rows 18 and 19; W."""
    assert answer(header, size) == oracle(header, size)


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 50), st.integers(0, 1 << 50))
def test_a_range_states_its_own_content_range_and_length(start: int, length: int, beyond: int) -> None:
    size = start + length + beyond
    wanted = parse_range(f"bytes={start}-{start + length - 1}", size)
    assert wanted == ByteRange(start, start + length, size)
    assert wanted.length == length
    assert wanted.content_range == f"bytes {start}-{start + length - 1}/{size}"
    assert parse_content_range(wanted.content_range) == (start, start + length, size)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=500-1499", (500, 1500)),
        ("bytes=500-", (500, 2500)),
        ("bytes=-500", (2000, 2500)),
        ("bytes=2000-5000", (2000, 2500)),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 2500)),
        ("bytes=-9999", (0, 2500)),
        (None, None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("bytes=\u0663-\u0664", None),  # digits, but not those of ASCII
        ("byte\u017f=0-1", None),  # a long s, which is an s to whoever ignores case
        ("", None),
    ],
)
def test_the_conformance_suites_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    found = parse_range(header, 2500)
    assert (found and (found.start, found.stop)) == expected


@pytest.mark.parametrize("header", ["bytes=500-0", "bytes=5-2", "bytes=5000-10000", "bytes=2500-", "bytes=-0"])
def test_a_range_of_nothing_is_refused_with_the_size(header: str) -> None:
    """Row 19; H."""
    with pytest.raises(RangeInvalid, match="2500 bytes") as refused:
        parse_range(header, 2500)
    assert refused.value.size == 2500


@pytest.mark.parametrize(
    "header",
    ["bytes=" + "0-1," * 10_000, "bytes=" + "9" * 100_000 + "-", "bytes=" + " " * 100_000 + "x", "b" * 100_000],
)
def test_ten_thousand_ranges_are_answered_with_the_whole_in_no_time(header: str) -> None:
    """Row 19; H."""
    began = time.process_time()
    assert parse_range(header, 100) is None
    assert time.process_time() - began < 0.5


contents = st.one_of(
    st.builds("bytes {}-{}/{}".format, st.integers(0, 60), st.integers(0, 60), st.integers(0, 60) | st.just("*")),
    st.text("bytes 0159-/*٣", max_size=20),
    st.text(max_size=20),
)


@given(contents)
def test_an_upstreams_content_range_is_believed_only_when_it_makes_sense(header: str) -> None:
    """Row 18; W: a wrong offset is silent corruption."""
    found = parse_content_range(header)
    if found is not None:
        start, stop, size = found
        assert 0 <= start < stop
        assert size is None or stop <= size
        stated = f"bytes {start}-{stop - 1}/{'*' if size is None else size}"
        assert [int(part) for part in _numbers(header)] == [int(part) for part in _numbers(stated)]
        assert header.isascii()


def test_absurd_content_ranges_are_not_believed() -> None:
    for header in ("bytes 5-2/10", "bytes 0-10/10", "bytes */10", "items 0-1/2", "bytes 0-1", "bytes ٣-٤/9", "0-1/2"):
        assert parse_content_range(header) is None, header


def _numbers(header: str) -> list[str]:
    return "".join(character if character in digits else " " for character in header).split()

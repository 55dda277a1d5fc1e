"""Values as people write them: sizes, durations, addresses, hosts, URLs."""

from __future__ import annotations

import contextlib
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import Listen, Size
from proxy.settings.values import base_url, duration, host, positive_duration, positive_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (0, 0),
        (1234, 1234),
        ("1234", 1234),
        ("1234B", 1234),
        ("50GiB", 50 * 2**30),
        ("50Gi", 50 * 2**30),
        ("50gib", 50 * 2**30),
        ("50GB", 50 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("1kB", 1000),
        ("2TiB", 2 * 2**40),
        ("1PB", 10**15),
    ],
)
def test_a_size_is_a_number_of_bytes(text: object, count: int) -> None:
    assert Size.parse(text).resolve(total_bytes=1) == count


@pytest.mark.parametrize(
    "value",
    [
        "",
        "GiB",
        "50G",
        "50g",
        "50M",
        "-1GiB",
        -1,
        "1e9",
        "1,5GiB",
        "0%",
        "101%",
        "80 percent",
        True,
        None,
        [],
        1.5,
        "9" * 40,
    ],
)
def test_what_is_no_size_is_refused_with_what_would_be_right(value: object) -> None:
    with pytest.raises(ValueError, match=r'"50GiB"|"80%"'):
        Size.parse(value)


def test_a_share_is_resolved_against_the_file_system() -> None:
    assert Size.parse("80%").resolve(1000) == 800
    assert Size.parse("12.5%").resolve(1000) == 125
    assert Size.parse("100%").resolve(7) == 7


def test_a_size_that_must_not_be_zero_says_so() -> None:
    with pytest.raises(ValueError, match="above zero"):
        positive_size("0GiB")


@given(
    number=st.decimals(min_value=0, max_value=10**6, places=3),
    unit=st.sampled_from([("KiB", 2**10), ("MB", 10**6), ("GiB", 2**30), ("TB", 10**12)]),
)
def test_a_size_with_a_unit_is_exact(number: Decimal, unit: tuple[str, int]) -> None:
    assert Size.parse(f"{number}{unit[0]}").bytes == math.floor(Fraction(number) * unit[1])


@given(st.integers(min_value=0, max_value=2**60))
def test_a_size_that_is_printed_can_be_read_again(count: int) -> None:
    assert Size.parse(str(Size(count))) == Size(count)


@given(percent=st.integers(min_value=1, max_value=100), total=st.integers(min_value=0, max_value=2**60))
def test_a_share_never_exceeds_the_whole(percent: int, total: int) -> None:
    assert 0 <= Size.parse(f"{percent}%").resolve(total) <= total


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert Size.parse(text).resolve(1) >= 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("30s", 30),
        ("500ms", 0.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        ("7d", 604800),
        ("2w", 1209600),
        ("1D", 86400),
        ("1h500ms", 3600.5),
    ],
)
def test_a_duration_is_in_seconds(value: object, seconds: float) -> None:
    assert duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "5 minutes", "5x", "m", "-5m", -1, "30m1h", "5m5m", True, None, [], math.inf, math.nan, "999999999w"]
)
def test_what_is_no_duration_is_refused_with_what_would_be_right(value: object) -> None:
    with pytest.raises(ValueError, match='"1h30m"'):
        duration(value)


def test_a_deadline_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        positive_duration("0s")


@given(
    hours=st.integers(min_value=0, max_value=1000),
    minutes=st.integers(min_value=0, max_value=59),
    seconds=st.integers(min_value=0, max_value=59),
)
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.text(max_size=30))
def test_any_text_is_a_finite_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= duration(text) < math.inf


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:5000", Listen("0.0.0.0", 5000)),
        (":5000", Listen("0.0.0.0", 5000)),
        ("localhost:0", Listen("localhost", 0)),
        ("[::1]:5000", Listen("::1", 5000)),
        ("[::]:65535", Listen("::", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(text: str, address: Listen) -> None:
    assert Listen.parse(text) == address
    assert Listen.parse(str(address)) == address


@pytest.mark.parametrize(
    "value", ["5000", 5000, "localhost", "::1:5000", "h:65536", "h:-1", "[x]:1", "http://h:1", "", None]
)
def test_what_is_no_address_is_refused_with_what_would_be_right(value: object) -> None:
    with pytest.raises(ValueError, match=r'"0\.0\.0\.0:5000"'):
        Listen.parse(value)


@pytest.mark.parametrize("name", ["docker.io", "localhost", "registry.local:5000", "127.0.0.1:5000", "a_b", "x" * 63])
def test_a_host_may_have_a_port(name: str) -> None:
    assert host(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "Docker.io", "a/b", "https://a", "a:", "a:0", "a:65536", "a:b", "-a", "a.", "a..b", "u@a", "x" * 64, 5, "a\n"],
)
def test_what_is_no_host_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r"ghcr\.io"):
        host(name)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://ghcr.io", "https://ghcr.io"),
        ("http://h:5000/", "http://h:5000"),
        ("https://h/artifactory/api/", "https://h/artifactory/api"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_a_url_may_have_a_port_and_a_path(url: str, kept: str) -> None:
    assert base_url(url) == kept


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ghcr.io", "not an http or https URL"),
        ("ftp://h", "not an http or https URL"),
        ("https://", "not an http or https URL"),
        ("https://h:99999", "not a URL"),
        ("https://h:0", "not an http or https URL"),
        ("https://[::1", "not a URL"),
        ("https://a b", "not an http or https URL"),
        ("https://u:p@h", "must not hold a user name"),
        ("https://h?x=1", "query or a fragment"),
        ("https://h#x", "query or a fragment"),
        (5, "not a URL"),
    ],
)
def test_a_url_that_could_mislead_is_refused(url: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        base_url(url)

"""Quota headers and Retry-After."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.limits import LONGEST_PAUSE, SHORTEST_PAUSE, RateLimit, parse_rate_limit, parse_retry_after


def test_docker_hubs_quota_is_read() -> None:
    headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "20;w=21600",
        "docker-ratelimit-source": "192.0.2.1",
    }
    assert parse_rate_limit(headers.get) == RateLimit(100, 20, 21600, "192.0.2.1")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"ratelimit-limit": "many"}, None),
        ({"ratelimit-remaining": "5"}, RateLimit(None, 5, None, None)),
        ({"ratelimit-limit": " 7 ; w=9 ;x"}, RateLimit(7, None, 9, None)),
        ({"ratelimit-limit": "9" * 40}, RateLimit(999999999999, None, None, None)),
    ],
)
def test_what_is_missing_or_odd_is_left_out(headers: dict[str, str], found: RateLimit | None) -> None:
    assert parse_rate_limit(headers.get) == found


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        (None, 5.0),
        ("7", 7.0),
        ("0", SHORTEST_PAUSE),
        ("-3", 5.0),
        ("999999", LONGEST_PAUSE),
        ("Thu, 01 Jan 1970 00:00:20 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", SHORTEST_PAUSE),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_PAUSE),
        ("soon", 5.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_bounds(value: str | None, pause: float) -> None:
    assert parse_retry_after(value, now=lambda: 10.0) == pause


@given(st.text(max_size=60))
def test_no_header_makes_it_raise(value: str) -> None:
    assert SHORTEST_PAUSE <= parse_retry_after(value) <= LONGEST_PAUSE
    parse_rate_limit(lambda _: value)

"""What upstream says about its quota: Docker Hub's ratelimit headers, and Retry-After."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

# Docker Hub's abuse limit sends no Retry-After; it forgets within seconds.
DEFAULT_PAUSE: Final = 5.0
# "0" or a date just gone by must not turn into a request storm.
SHORTEST_PAUSE: Final = 1.0
# Nothing that upstream sends may silence it for longer; the next refusal pauses again.
LONGEST_PAUSE: Final = 60.0

_QUOTA: Final = re.compile(r"\s*(\d{1,12})(?:\s*;\s*w=(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`remaining` of `limit` pulls in a sliding window of `window` seconds; `source` is the address or account."""

    limit: int | None
    remaining: int | None
    window: int | None
    source: str | None


def parse_rate_limit(header: Callable[[str], str | None]) -> RateLimit | None:
    """The quota in a response whose headers `header` looks up; None when it has none."""
    limit, limit_window = _quota(header("ratelimit-limit"))
    remaining, remaining_window = _quota(header("ratelimit-remaining"))
    if limit is None and remaining is None:
        return None
    source = "".join(c for c in header("docker-ratelimit-source") or "" if c.isprintable())[:64]
    return RateLimit(limit, remaining, limit_window or remaining_window, source or None)


def parse_retry_after(value: str | None, now: Callable[[], float] = time.time) -> float:
    """The pause in seconds that Retry-After asks for, as a number or an HTTP date, within sane bounds."""
    if value is None:
        return DEFAULT_PAUSE
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,12}", text):
        pause = float(text)
    else:
        try:
            pause = parsedate_to_datetime(text).timestamp() - now()
        except (ValueError, OverflowError, IndexError, TypeError):
            return DEFAULT_PAUSE
    return min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE)


def _quota(value: str | None) -> tuple[int | None, int | None]:
    match = _QUOTA.match(value or "")
    if not match:
        return None, None
    return int(match.group(1)), int(match.group(2)) if match.group(2) else None

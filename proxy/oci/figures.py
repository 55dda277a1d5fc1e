"""Sizes and spans of time as people read them."""

from __future__ import annotations

from typing import Final

_SIZES: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_SPANS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))


def sized(count: float) -> str:
    """Bytes, as `12 bytes`, `3.4 MiB`."""
    return next((f"{count / size:.1f} {unit}" for unit, size in _SIZES if count >= size), f"{count:.0f} bytes")


def span_of(seconds: float) -> str:
    """As `40 s`, `5 min`, `3 h`, `2 d`: one unit is as exact as anybody asks how long something was."""
    return next(
        (f"{seconds / size:.0f} {unit}" for unit, size in _SPANS if seconds >= size), f"{max(seconds, 0):.0f} s"
    )

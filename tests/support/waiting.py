"""The only way in which a test waits: for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

_T = TypeVar("_T")

DEADLINE: Final = 60.0  # seconds; a busy two-core machine needs ten for a program to start, never this long
_PAUSE: Final = 0.02  # seconds between looks


def wait_until(condition: Callable[[], _T], what: str, deadline: float = DEADLINE) -> _T:
    """Look until `condition()` is truthy, and return what it returned.

    Raises:
        AssertionError: `deadline` seconds have passed; the message says `what` did not happen.
    """
    end = time.monotonic() + deadline
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{deadline:g} s have passed without this: {what}")
        time.sleep(_PAUSE)
    return result


async def wait_until_async(condition: Callable[[], _T], what: str, deadline: float = DEADLINE) -> _T:
    """`wait_until` for a test that runs on the event loop."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{deadline:g} s have passed without this: {what}")
        await anyio.sleep(_PAUSE)
    return result

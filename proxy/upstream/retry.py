"""Bounded retries of what has a chance: broken connections and gateway errors, with jitter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina

from proxy.upstream.failures import Broken, Internal
from proxy.upstream.transport import ConnectionFailed

# Where one connection in ten fails, one request in 100,000 still does; with three tries it would be one in 1,000, and a
# storm of nodes makes thousands, each of which all nodes wait for.
ATTEMPTS: Final = 5
# All tries together: well within the 30 s after which containerd gives up on a mirror.
TOTAL: Final = 10.0
FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 2.0
JITTER: Final = 0.3

T = TypeVar("T")


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """`call`, tried again when a fresh try can help. Never after a 429, a 4xx, or a certificate that is not trusted."""
    internal_errors = 0

    def worth_it(error: Exception) -> bool:
        nonlocal internal_errors
        internal_errors += isinstance(error, Internal)
        return isinstance(error, (ConnectionFailed, Broken)) or (isinstance(error, Internal) and internal_errors == 1)

    caller = stamina.AsyncRetryingCaller(
        attempts=ATTEMPTS, timeout=TOTAL, wait_initial=FIRST_WAIT, wait_max=LONGEST_WAIT, wait_jitter=JITTER
    )
    return await caller(worth_it, call)

"""How late the event loop is, the time that anything which is due waits for its turn, and how many tasks it has."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from proxy.observe.metrics import Metrics

_PERIOD: Final = 0.05  # seconds between two looks: twenty a second cost nothing, and meet every pause that matters
_REMEMBERED: Final = round(60 / _PERIOD)  # looks that the maximum is over: a minute, longer than a scrape interval


async def watch_loop(metrics: Metrics) -> None:
    """Measure until cancelled.

    Looks are taken at regular times, so that their distribution is what a request meets that comes at any time.
    """
    loop = asyncio.get_running_loop()
    latest: deque[float] = deque([0.0], _REMEMBERED)
    metrics.loop_lag_max.set_function(lambda: max(latest))
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    while True:
        due = loop.time() + _PERIOD
        await asyncio.sleep(_PERIOD)
        lag = max(0.0, loop.time() - due)
        latest.append(lag)
        metrics.loop_lag.observe(lag)

"""Pushes give way: while clients are being served they get little of the machine and its lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

# Bytes a second over all targets while clients are served, in parts of at most 10 MiB: no line that serves a cluster
# notices that, and it still pushes 1.7 TB a day.
PACE: Final = 20 * 1024 * 1024
# Each part is a call as well, however small it is: no more than some thirty a second.
FLOOR_SECONDS: Final = 0.03
# How long a push waits for quiet before it begins, and work that nobody asked for each time; then it takes its turn.
PATIENCE_SECONDS: Final = 5.0
# Between the requests of one pull there are moments without any; only a longer one is quiet.
_QUIET_SECONDS: Final = 0.25
# How soon the end of the last response is noticed. Looking costs nothing beside a part, and no request has to signal.
_LOOK_SECONDS: Final = 0.05


class Courtesy:
    """One for all targets. `busy` says whether a client is being served at this moment."""

    def __init__(self, busy: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._busy = busy
        self._clock = clock
        self._line = asyncio.Lock()  # first come, first served
        self._last = self._served = float("-inf")

    def served(self) -> None:
        """A client has just been served."""
        self._served = self._clock()

    async def turn(self, count: int, *, spare: bool) -> None:
        """Wait until one more part, of `count` bytes, may be sent: not at all in quiet times."""
        if spare:
            await self.quiet()
        share = max(count / PACE, FLOOR_SECONDS)
        async with self._line:
            while self._serving and (pause := self._last + share - self._clock()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(pause, _LOOK_SECONDS))
            self._last = self._clock()

    async def quiet(self) -> None:
        """Wait until no client is being served, for PATIENCE_SECONDS at most."""
        end = self._clock() + PATIENCE_SECONDS
        while self._serving and self._clock() < end:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)

    @property
    def _serving(self) -> bool:
        return self._busy() or self._clock() - self._served < _QUIET_SECONDS

"""How far a flight is, and how fast it has been lately: for whoever looks at it, and for nobody else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

# What "lately" is, in seconds: long enough to be a steady number, short enough to show a stall.
_WINDOW: Final = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A flight at this moment. `size` is None until upstream has agreed; `rate` is in bytes a second; `started` in
    seconds, wall time; `spare`: no client waits for it."""

    digest: str
    repository: str
    upstream: str
    tier: str
    size: int | None
    landed: int
    rate: float
    followers: int
    connections: int
    started: float
    spare: bool


class Pace:
    """Bytes a second over the last _WINDOW seconds, or up to twice that."""

    def __init__(self) -> None:
        now = time.monotonic()
        self._total = 0
        self._latest = now  # when bytes came last
        self._before = self._mark = (now, 0)  # a moment, and the total then

    def add(self, count: int) -> None:
        self._latest = time.monotonic()
        if self._latest - self._mark[0] >= _WINDOW:
            self._before, self._mark = self._mark, (self._latest, self._total)
        self._total += count

    @property
    def total(self) -> int:
        """All bytes so far."""
        return self._total

    @property
    def rate(self) -> float:
        now = time.monotonic()
        if now - self._latest > 2 * _WINDOW:
            return 0.0
        at, total = self._before
        return (self._total - total) / max(now - at, 0.001)

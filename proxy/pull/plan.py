"""What is still to be fetched of a blob, and in which order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

# One request each: large enough that its round trips do not count, small enough that the front never waits long.
_SMALLEST: Final = 8 << 20
_LARGEST: Final = 32 << 20
_SEGMENTS: Final = 32  # a blob is cut into about so many, within these bounds


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes `start` to `stop` of a blob."""

    start: int
    stop: int


class Plan:
    """Hands out the stretches of a blob: those that somebody waits for first, else from the front."""

    def __init__(self, size: int) -> None:
        self._length = min(_LARGEST, max(_SMALLEST, size // _SEGMENTS))
        self._open = [Stretch(0, size)] if size else []  # not handed out yet, in order
        self._wanted: deque[int] = deque()

    def claim(self) -> Stretch | None:
        """The next stretch to fetch; None when all have been handed out."""
        while self._wanted:
            at = self._wanted.popleft()
            if found := self._holding(at):
                return self._cut(found, at)
        return self._cut(self._open[0], self._open[0].start) if self._open else None

    @property
    def unclaimed(self) -> bool:
        """Whether anything has not been handed out yet."""
        return bool(self._open)

    def give_back(self, start: int, stop: int) -> None:
        """Somebody else may fetch these bytes after all."""
        if start < stop:
            self._open.append(Stretch(start, stop))
            self._open.sort(key=lambda stretch: stretch.start)

    def want(self, at: int) -> bool:
        """Somebody waits for the byte at `at`; whether it is still to be claimed, and is next now."""
        waiting = self._holding(at) is not None
        if waiting and at not in self._wanted:
            self._wanted.append(at)
        return waiting

    def _holding(self, at: int) -> Stretch | None:
        return next((stretch for stretch in self._open if stretch.start <= at < stretch.stop), None)

    def _cut(self, whole: Stretch, at: int) -> Stretch:
        """Take the part of `whole` that begins at `at`."""
        self._open.remove(whole)
        stop = min(at + self._length, whole.stop)
        self.give_back(whole.start, at)
        self.give_back(stop, whole.stop)
        return Stretch(at, stop)

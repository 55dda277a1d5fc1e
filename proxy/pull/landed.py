"""Which bytes of a growing file are there."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Landed:
    """A set of byte offsets, kept as disjoint runs in order: a handful, however many bytes."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """The bytes from `start` up to and not including `stop` are there now."""
        first = bisect_left(self._stops, start)  # the first run that touches or follows the new one
        last = bisect_right(self._starts, stop)  # behind the last run that touches it
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def reach(self, at: int) -> int:
        """Where the run of bytes that begins at `at` ends; `at` itself when that byte is not there."""
        run = bisect_right(self._starts, at) - 1
        return max(at, self._stops[run]) if run >= 0 else at

    @property
    def front(self) -> int:
        """The number of bytes that are there without a gap from the start."""
        return self.reach(0)

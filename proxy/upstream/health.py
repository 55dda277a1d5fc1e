"""How an upstream has answered lately, in words that an operator can act on.

One bad answer among a hundred is noise, and one good answer among bad ones is no recovery: what counts is how many of
the last minute's questions went wrong, and whether the latest did in a row. A question is what a pull asks, with its
retries. While nobody asks, nothing new is known, and the last state stays.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from proxy.oci.errors import Denied, MillpondError, Unknown, UpstreamFailure, UpstreamInvalid, UpstreamLimited
from proxy.upstream.breaker import BreakerOpen, Clock

State = Literal["ok", "failing", "limited", "refused", "idle"]

# Seconds that are judged: enough to see a share in, and gone before somebody has got up for what is over.
WINDOW: Final = 60
# They are counted in slices of so many: an answer costs the same however many there are, and so does the memory.
_SLICE: Final = 5
# As many in a row are no accident, for each was tried several times; and fewer in a minute are no share of anything.
IN_A_ROW: Final = 3
# The part of the questions from which on a pull of several blobs rather fails than not.
SHARE: Final = 0.2

_HAVE: Final[dict[State, str]] = {"failing": "have failed", "refused": "were refused"}
_SILENT: Final = "a host that its answers come from has failed too often in a row, and is not asked for a moment"


@dataclass(frozen=True, slots=True)
class Health:
    """`why` is a sentence: what goes wrong, or that it has just ended; empty where nothing did. `since` is when the
    state became so, and `until` when upstream is asked again, None where it may be asked at any time: both are wall
    time in seconds."""

    state: State
    why: str
    since: float | None
    until: float | None


class Pulse:
    """Notes how each question to one upstream ends."""

    def __init__(self, clock: Clock = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._window = _Window()
        self._well = self._ill = 0  # questions in a row, up to the latest
        self._state: State = "idle"
        self._since: float | None = None
        self._limited_until = 0.0  # by the clock, as the next
        self._recovered: float | None = None
        self._said: dict[State, tuple[str, float]] = {}  # the latest trouble of each kind, and its wall time

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question: what it raises is noted."""
        try:
            yield
        except Unknown:
            self.answered()
            raise
        except (Denied, UpstreamFailure, UpstreamInvalid) as error:
            self.failed(error)
            raise
        else:
            self.answered()

    def over(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same chunks; what breaks them off is noted."""
        return _Watched(chunks, self)

    def answered(self) -> None:
        """Upstream works, whatever it said."""
        now = self._clock()
        self._window.count(now, "ok")
        self._well, self._ill = self._well + 1, 0
        if self._state != "ok":
            self._judge(now)

    def failed(self, error: MillpondError) -> None:
        """A question ended with this, or the bytes that answered it."""
        now = self._clock()
        if isinstance(error, UpstreamLimited):
            self._limited_until = now + error.retry_after
            self._note("limited", error)
            self._become("limited", now)
            return
        kind: State = "refused" if isinstance(error, Denied) else "failing"
        if not (isinstance(error, BreakerOpen) and self._window.counts(now)["failing"]):
            self._window.count(now, kind)  # else nobody was asked, and what made it open says more
            self._note(kind, error)
        self._well, self._ill = 0, self._ill + 1
        self._judge(now)

    def health(self, open_for: float | None) -> Health:
        """The state now. A breaker that stays open for so many seconds, or waits for a first good answer (0), comes
        before everything else; None: none is open."""
        now, wall = self._clock(), self._wall()
        if open_for is not None:
            _, broke = self._said.get("failing", ("", None))
            since = self._since if self._state == "failing" else broke
            return Health("failing", self._why("failing", now), since, wall + open_for if open_for else None)
        pause = self._limited_until - now
        until = wall + pause if self._state == "limited" and pause > 0 else None
        return Health(self._state, self._why(self._state, now), self._since, until)

    def _judge(self, now: float) -> None:
        if self._state == "limited" and now < self._limited_until:
            return  # one noun is limited, and what it answers to others does not change that
        counts = self._window.counts(now)
        asked, ill = counts.total(), counts["failing"] + counts["refused"]
        many = ill >= IN_A_ROW and ill >= SHARE * asked
        if self._ill >= IN_A_ROW or many or ill == asked:
            self._become("failing" if counts["failing"] >= counts["refused"] else "refused", now)
        else:
            self._become("ok", now)

    def _become(self, state: State, now: float) -> None:
        if state != self._state:
            self._recovered = now if state == "ok" and self._state in _HAVE else None
            self._state, self._since = state, self._wall()

    def _note(self, kind: State, error: MillpondError) -> None:
        self._said[kind] = str(error), self._wall()

    def _why(self, state: State, now: float) -> str:
        counts = self._window.counts(now)
        if state == "ok":
            if self._recovered is None or now - self._recovered >= WINDOW:
                return ""
            ill, asked = counts["failing"] + counts["refused"], counts.total()
            after = f", after {ill} of the last minute's {asked} questions went wrong" if ill else ""
            return f"recovering: it answers again{after}"
        said, _ = self._said.get(state, (_SILENT if state == "failing" else "", None))
        if state not in _HAVE or counts[state] == counts.total():
            return said
        recovering = "recovering, but " if self._well >= IN_A_ROW else ""
        return f"{recovering}{counts[state]} of the last minute's {counts.total()} questions {_HAVE[state]}: {said}"


class _Window:
    """How many questions of the last minute ended how."""

    def __init__(self) -> None:
        self._slices: deque[tuple[int, Counter[State]]] = deque(maxlen=WINDOW // _SLICE)

    def count(self, now: float, kind: State) -> None:
        number = int(now // _SLICE)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append((number, Counter()))
        self._slices[-1][1][kind] += 1

    def counts(self, now: float) -> Counter[State]:
        oldest = int(now // _SLICE) - WINDOW // _SLICE
        total: Counter[State] = Counter()
        for number, counted in self._slices:
            if number > oldest:
                total.update(counted)
        return total


class _Watched:
    """An iterator, not a generator: a body is often left unread, and nobody would close that."""

    def __init__(self, chunks: AsyncIterator[bytes], pulse: Pulse) -> None:
        self._chunks = chunks
        self._pulse = pulse

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except UpstreamFailure as failure:
            self._pulse.failed(failure)
            raise

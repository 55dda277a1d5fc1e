"""A breaker a host: stop asking whoever does not answer, and wait as long as a 429 says."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from proxy.oci.errors import UpstreamLimited, UpstreamUnreachable

# One bad answer is noise, five in a row are an outage.
FAILURES_TO_OPEN: Final = 5
# Short, because a tag waits for nobody: each second of an open breaker is answered from the cache or not at all.
FIRST_OPENING: Final = 1.0
LONGEST_OPENING: Final = 10.0
# A host that nobody has asked for so long after its opening was a CDN's name of that day: nothing depends on it.
FORGOTTEN_AFTER: Final = 60.0
# Blobs redirect to CDN hosts whose names are upstream's choice; only so many are remembered.
MAX_HOSTS: Final = 256

Clock = Callable[[], float]


class BreakerOpen(UpstreamUnreachable):
    """No request was made: the host has just failed too often."""


class Breakers:
    """The breakers of one upstream, by host."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._hosts: OrderedDict[str, Breaker] = OrderedDict()

    def host(self, authority: str) -> Breaker:
        breaker = self._hosts.get(authority)
        if breaker is None:
            breaker = self._hosts[authority] = Breaker(authority, self._clock)
            while len(self._hosts) > MAX_HOSTS:
                self._hosts.popitem(last=False)
        self._hosts.move_to_end(authority)
        return breaker

    @property
    def open_for(self) -> float | None:
        """Seconds until every host may be asked again, 0 where one has not answered since; None where none is down."""
        return max((left for breaker in self._hosts.values() if (left := breaker.open_for) is not None), default=None)


class Breaker:
    """Closed, open for a while, then half open: one probe at a time decides."""

    def __init__(self, authority: str, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._opening = 0.0  # seconds of the latest opening; 0 while closed
        self._probing = False
        self._paused: dict[str, float] = {}  # noun -> when it may be asked for again

    def enter(self, noun: str) -> Permit:
        """Leave to make one request, to be used as a context manager around it.

        Raises:
            UpstreamLimited: a 429 for this noun is still to be waited for.
            BreakerOpen: the host is taken to be down.
        """
        now = self._clock()
        wait = self._paused.get(noun, now) - now
        if wait > 0:
            raise UpstreamLimited(
                f"{self._authority} limits requests for {noun}; it is asked again in {math.ceil(wait)} s", wait
            )
        if not self._opening:
            return Permit(self, noun, probe=False)
        if now < self._open_until or self._probing:
            raise BreakerOpen(
                f"{self._authority} has failed {self._failures} times in a row, so it was not asked; "
                f"it is tried again within {math.ceil(max(self._open_until - now, 1))} s"
            )
        self._probing = True
        return Permit(self, noun, probe=True)

    @property
    def open_for(self) -> float | None:
        """Seconds until it lets a probe through, 0 where one is due; None where it is closed or forgotten."""
        left = self._open_until - self._clock()
        return max(0.0, left) if self._opening and left > -FORGOTTEN_AFTER else None

    def probed(self) -> None:
        self._probing = False

    def succeeded(self) -> None:
        self._failures, self._opening = 0, 0.0

    def failed(self, *, probe: bool) -> None:
        self._failures += 1
        # While it is open, stragglers from before change nothing; only the probe does.
        if probe or (not self._opening and self._failures >= FAILURES_TO_OPEN):
            self._opening = min(self._opening * 2 or FIRST_OPENING, LONGEST_OPENING)
            self._open_until = self._clock() + self._opening

    def limited(self, noun: str, pause: float) -> None:
        self._paused[noun] = max(self._paused.get(noun, 0.0), self._clock() + pause)


class Permit:
    """One request's leave. Without an outcome (the caller was cancelled) it counts as if it had not been."""

    def __init__(self, breaker: Breaker, noun: str, *, probe: bool) -> None:
        self._breaker = breaker
        self._noun = noun
        self._probe = probe

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._probe:
            self._breaker.probed()

    def answered(self) -> None:
        """The host works, whatever it said."""
        self._breaker.succeeded()

    def failed(self) -> None:
        self._breaker.failed(probe=self._probe)

    def limited(self, pause: float) -> None:
        """A 429: this noun is not asked for again for `pause` seconds."""
        self._breaker.succeeded()
        self._breaker.limited(self._noun, pause)

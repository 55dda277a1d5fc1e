"""How an upstream has answered lately, in words that an operator can act on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from proxy.oci.errors import Denied, MillpondError, Unknown, UpstreamFailure, UpstreamInvalid, UpstreamLimited
from proxy.upstream.breaker import BreakerOpen

State = Literal["ok", "failing", "limited", "refused", "idle"]


@dataclass(frozen=True, slots=True)
class Health:
    """`state` by the latest answer; `why` is empty where it is ok or idle; `since` when it became so, and `until` when
    upstream is asked again, None where it may be asked at any time: both are wall time in seconds."""

    state: State
    why: str
    since: float | None
    until: float | None


class Pulse:
    """Notes how each question to one upstream ends."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest = Health("idle", "", None, None)

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
        if self._latest.state != "ok":
            self._latest = Health("ok", "", self._clock(), None)

    def failed(self, error: MillpondError) -> None:
        """A question ended with this, or the bytes that answered it."""
        if isinstance(error, BreakerOpen) and self._latest.state == "failing":
            return  # what made it open says more
        state: State = "failing"
        until = None
        if isinstance(error, UpstreamLimited):
            state, until = "limited", self._clock() + error.retry_after
        elif isinstance(error, Denied):
            state = "refused"
        since = self._latest.since if self._latest.state == state else self._clock()
        self._latest = Health(state, str(error), since, until)

    def health(self, open_for: float) -> Health:
        """The state now, where a breaker stays open for so many seconds."""
        now, latest = self._clock(), self._latest
        until = latest.until if latest.until and latest.until > now else None
        if open_for > 0 and latest.state == "failing":
            until = now + open_for
        return Health(latest.state, latest.why, latest.since, until)


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

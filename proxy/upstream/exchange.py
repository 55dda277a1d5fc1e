"""One request with what surrounds it: the host's breaker, the quota it reports, the observer, 429 and 5xx."""

from __future__ import annotations

import time
from typing import Final

from proxy.observe import traces
from proxy.oci.errors import UpstreamFailure, UpstreamLimited
from proxy.upstream.breaker import Breakers, Clock
from proxy.upstream.endpoint import Endpoint, Observer
from proxy.upstream.failures import Broken, Internal, explanation
from proxy.upstream.guard import Target
from proxy.upstream.limits import RateLimit, parse_rate_limit, parse_retry_after
from proxy.upstream.transport import Fields, Reply, Transport

# Not 501: it says "never", as a 405 does.
_FAILING: Final = {500: Internal, 502: Broken, 503: Broken, 504: Broken}


class Exchange:
    """Requests to one upstream and the hosts behind it. `rate_limit` is the last that it reported."""

    def __init__(
        self, endpoint: Endpoint, transport: Transport, observer: Observer, clock: Clock = time.monotonic
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._observer = observer
        self._breakers = Breakers(clock)
        self.rate_limit: RateLimit | None = None
        self.rate_limit_seen: float | None = None  # when, in seconds of wall time

    @property
    def open_for(self) -> float | None:
        """Seconds until every host behind this upstream may be asked again, as `Breakers` has it."""
        return self._breakers.open_for

    async def send(self, method: str, target: Target, headers: Fields, noun: str) -> Reply:
        """One request and its reply, which is never a 429 nor a failure of the server.

        Raises:
            UpstreamLimited: a 429, now or a moment ago.
            UpstreamUnreachable, UpstreamTimeout: no answer, a 5xx, or a breaker that is open.
        """
        asked = {"upstream": self._endpoint.name, "host": target.authority, "noun": noun}
        with traces.span(f"upstream {method} {noun}", "client", **asked) as span:
            reply = await self._sent(method, target, headers, noun)
            span.note(status=reply.status)
            return reply

    async def _sent(self, method: str, target: Target, headers: Fields, noun: str) -> Reply:
        with self._breakers.host(target.authority).enter(noun) as permit:
            try:
                reply = await self._transport.send(method, target, headers, bulk=noun == "blobs")
            except UpstreamFailure:
                permit.failed()
                self._observer.request(self._endpoint.name, noun, 0)
                raise
            if reply.status in _FAILING:
                permit.failed()
            elif reply.status == 429:
                permit.limited(parse_retry_after(reply.header("retry-after")))
            else:
                permit.answered()
        self._observer.request(self._endpoint.name, noun, reply.status)
        self._note_quota(reply)
        if reply.status == 429:
            pause = parse_retry_after(reply.header("retry-after"))
            said = await explanation(reply)
            raise UpstreamLimited(
                f"upstream {self._endpoint.name}: {target} limits requests for {noun}{said}; it is asked again in "
                f"{pause:.0f} s (credentials often raise the limit)",
                pause,
            )
        if reply.status in _FAILING:
            said = await explanation(reply)
            raise _FAILING[reply.status](
                f"upstream {self._endpoint.name}: {target} answered {reply.status} to a request for {noun}{said}"
            )
        return reply

    def _note_quota(self, reply: Reply) -> None:
        limit = parse_rate_limit(reply.header)
        if limit is not None:
            self.rate_limit, self.rate_limit_seen = limit, time.time()

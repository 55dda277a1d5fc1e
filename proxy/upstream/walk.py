"""From a path of the registry API to the reply that counts: authenticated, redirects followed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.oci.errors import UpstreamInvalid
from proxy.oci.secret import Secret
from proxy.upstream.auth import Authenticator
from proxy.upstream.endpoint import Endpoint, Timeouts
from proxy.upstream.exchange import Exchange
from proxy.upstream.guard import Guard, Target
from proxy.upstream.retry import retried
from proxy.upstream.transport import Reply

# registry.k8s.io takes two; a browser's twenty would only keep a loop going.
MAX_REDIRECTS: Final = 5

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Walker:
    """Requests about repositories of one upstream."""

    def __init__(
        self, endpoint: Endpoint, guard: Guard, exchange: Exchange, auth: Authenticator, timeouts: Timeouts
    ) -> None:
        self._endpoint = endpoint
        self._guard = guard
        self._exchange = exchange
        self._auth = auth
        self._within = timeouts.whole

    async def fetch(
        self, method: str, target: Target, path: str | None, headers: Mapping[str, str], noun: str
    ) -> Reply:
        """The final reply to a request for `target` at the upstream's own origin, its body unread.

        The opening is tried again where that helps. `path` is the repository, for its scope. 4xx replies are returned.

        Raises:
            Denied, UpstreamFailure, UpstreamInvalid: as the layers below.
        """
        return await retried(lambda: self._resolved(method, target, path, headers, noun))

    async def load(
        self, target: Target, path: str | None, headers: Mapping[str, str], noun: str, limit: int
    ) -> tuple[Reply, bytes]:
        """GET a small answer whole: its body of at most `limit` bytes is part of what is tried again.

        The body is empty, and still to be read from the reply, when the status is not 200.
        """

        async def once() -> tuple[Reply, bytes]:
            reply = await self._resolved("GET", target, path, headers, noun)
            if reply.status != 200:
                return reply, b""
            async with reply:
                return reply, await reply.read(limit, within=self._within)

        return await retried(once)

    async def _resolved(
        self, method: str, target: Target, path: str | None, headers: Mapping[str, str], noun: str
    ) -> Reply:
        """A presigned URL may have expired between its making and its use, so it is made anew once, never kept."""
        reply = await self._followed(method, target, path, headers, noun)
        if method == "GET" and reply.target != target and reply.status in (401, 403):
            await reply.aclose()
            reply = await self._followed(method, target, path, headers, noun)
        return reply

    async def _followed(
        self, method: str, target: Target, path: str | None, headers: Mapping[str, str], noun: str
    ) -> Reply:
        reply, authorization = await self._authorized(method, target, path, headers, noun)
        seen = {target}
        while reply.status in _REDIRECTS:
            await reply.aclose()
            location = reply.header("location")
            if location is None:
                raise UpstreamInvalid(f"upstream {self._endpoint.name}: {target} redirected without saying where to")
            following = self._guard.redirect(target, location)
            if following in seen or len(seen) > MAX_REDIRECTS:
                raise UpstreamInvalid(
                    f"upstream {self._endpoint.name} redirects {noun} in a loop, or more than {MAX_REDIRECTS} times"
                )
            if following.origin != target.origin:
                authorization = {}  # for good: what comes back to the own origin comes from someone else
            target = following
            seen.add(target)
            reply = await self._exchange.send(method, target, {**headers, **authorization}, noun)
        return reply

    async def _authorized(
        self, method: str, target: Target, path: str | None, headers: Mapping[str, str], noun: str
    ) -> tuple[Reply, dict[str, Secret]]:
        """The first hop. What is refused with a header that is stale is asked again without one, for a fresh challenge:
        nvcr.io's is another one after a token has expired."""
        header = await self._auth.header(path)
        reply, sent = await self._send(method, target, headers, header, noun)
        if header is not None and self._auth.is_stale(header, reply.status):
            await reply.aclose()
            self._auth.drop(path, header)
            reply, sent = await self._send(method, target, headers, None, noun)
        challenges = reply.headers("www-authenticate")
        if reply.status == 401 and challenges:
            await reply.aclose()
            answer = await self._auth.answer(path, challenges)
            reply, sent = await self._send(method, target, headers, answer, noun)
        return reply, sent

    async def _send(
        self, method: str, target: Target, headers: Mapping[str, str], header: Secret | None, noun: str
    ) -> tuple[Reply, dict[str, Secret]]:
        sent = {"Authorization": header} if header else {}
        return await self._exchange.send(method, target, {**headers, **sent}, noun), sent

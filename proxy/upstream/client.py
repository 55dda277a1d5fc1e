"""`Registry`: one upstream as a source of manifests and blobs. The table of contents of this package.

retry   what has a chance, five times            retry.py
walk    redirects by hand, 401 answered          walk.py, guard.py
auth    tokens, one fetch for many callers       auth.py, challenge.py
exchange  breaker, quota, 429 and 5xx            exchange.py, breaker.py, limits.py
transport the HTTP client                        transport/
health  how it has answered lately               health.py
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal, NoReturn

from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, DigestInvalid, UpstreamInvalid
from proxy.oci.manifest import ACCEPT, MAX_MANIFEST, Manifest, parse_manifest
from proxy.oci.names import Reference, Tag
from proxy.oci.ranges import parse_content_range
from proxy.oci.source import BlobStream
from proxy.upstream.auth import Authenticator
from proxy.upstream.breaker import Clock
from proxy.upstream.endpoint import Endpoint, Observer, Silence, Timeouts
from proxy.upstream.exchange import Exchange
from proxy.upstream.failures import refusal
from proxy.upstream.guard import Guard, Target
from proxy.upstream.health import Health, Pulse
from proxy.upstream.limits import RateLimit
from proxy.upstream.listing import Lists, Referrers, TagPage
from proxy.upstream.transport import Reply, Transport
from proxy.upstream.walk import Walker

Identity = Literal["anonymous", "password", "aws"]

# A client's further types are passed on, so that a registry which needs the exact type finds it; but only so many.
MAX_EXTRA_TYPES: Final = 20

# Schema 1 is never asked for (its digest is not that of its bytes), nor */*, which makes Quay convert to it.
_EXTRA_TYPE: Final = re.compile(r"application/vnd\.(?!docker\.distribution\.manifest\.v1\+)[a-z0-9.+_-]{1,100}\+json\Z")

# A registry that does not do HEAD for blobs: public.ecr.aws says 401, presigned URLs for GET say 403.
_HEAD_REFUSED: Final = frozenset({401, 403, 405, 501})


class Registry:
    """One upstream, as a `proxy.oci.source.Source`. Connects lazily; `aclose` when done."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  frozen
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._observer = observer or Silence()
        self._clock = clock
        self._retired: list[tuple[Authenticator, Transport]] = []
        self._begin(endpoint, timeouts)

    def _begin(self, endpoint: Endpoint, timeouts: Timeouts) -> None:
        self._endpoint = endpoint
        self._guard = Guard(endpoint)
        self._transport = Transport(endpoint, timeouts, self._guard)
        self._exchange = Exchange(endpoint, self._transport, self._observer, self._clock)
        self._auth = Authenticator(
            endpoint, self._guard, self._exchange, timeouts=timeouts, observer=self._observer, clock=self._clock
        )
        self._walker = Walker(endpoint, self._guard, self._exchange, self._auth, timeouts)
        self._lists = Lists(endpoint, self._guard, self._walker)
        self._pulse = Pulse(self._clock)
        self._heads_blobs = True  # until it has been seen not to

    @property
    def kind(self) -> str:
        return "upstream"

    @property
    def url(self) -> str:
        """Where it is; never with a user or password in it."""
        return self._endpoint.url

    @property
    def identity(self) -> Identity:
        """Who Millpond is there: what kind of credentials is configured."""
        if self._endpoint.login is not None:
            return "aws"
        return "password" if self._endpoint.has_credentials else "anonymous"

    @property
    def uses_tokens(self) -> bool:
        """Whether upstream's latest challenge was for a bearer token."""
        return self._auth.uses_tokens

    @property
    def rate_limit(self) -> RateLimit | None:
        """The quota that upstream reported last."""
        return self._exchange.rate_limit

    @property
    def rate_limit_seen(self) -> float | None:
        """When it did, in seconds of wall time."""
        return self._exchange.rate_limit_seen

    @property
    def health(self) -> Health:
        """How it has answered lately."""
        return self._pulse.health(self._exchange.open_for)

    async def resolve(self, path: str, tag: Tag, accept: Sequence[str] = ()) -> Digest | None:
        """What the tag points at, by HEAD, which Docker Hub does not count. None where upstream does not say."""
        target, headers = self._manifest(path, tag, accept)
        with self._pulse.asking():
            async with await self._walker.fetch("HEAD", target, path, headers, "manifests") as reply:
                if reply.status in (405, 501):
                    return None
                if reply.status != 200:
                    await self._refuse(reply, "manifests", path)
                return self._stated_digest(reply)

    async def manifest(self, path: str, reference: Reference, accept: Sequence[str] = ()) -> Manifest:
        """The manifest; its bytes hash to `reference` if that is a digest, else to the digest that upstream states."""
        target, headers = self._manifest(path, reference, accept)
        with self._pulse.asking():
            reply, body = await self._walker.load(target, path, headers, "manifests", MAX_MANIFEST)
            if reply.status != 200:
                await self._refuse(reply, "manifests", path)
            digest = reference if isinstance(reference, Digest) else self._stated_digest(reply)
            return parse_manifest(body, reply.header("content-type") or "", digest)

    async def blob_size(self, path: str, digest: Digest) -> int:
        """The size in bytes, by HEAD; by a GET of its first byte where HEAD is refused or does not say."""
        with self._pulse.asking():
            return await self._blob_size(path, digest)

    @asynccontextmanager
    async def blob(
        self, path: str, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[BlobStream]:
        """Open the blob from `start` to `stop`; all of it where upstream ignores ranges. Redirects are resolved anew.

        Leaving early closes the connection. Only the opening is retried: what breaks later is the reader's to resume.
        """
        last = "" if stop is None else stop - 1
        range_ = f"bytes={start}-{last}" if start or stop is not None else None
        async with AsyncExitStack() as opened:
            with self._pulse.asking():
                reply = await opened.enter_async_context(await self._blob("GET", path, digest, range_))
                if reply.status == 206:
                    size, at, ranged = self._size_after(reply, start), start, True
                elif reply.status == 200:
                    size, at, ranged = reply.length, 0, False
                else:
                    await self._refuse(reply, "blobs", path)
            yield BlobStream(size, at, self._pulse.over(reply), ranged)

    async def tags(self, path: str, n: int | None = None, last: str | None = None) -> TagPage:
        """One page of upstream's tags, at most `n` of them, after `last`. NameUnknown on 404."""
        with self._pulse.asking():
            return await self._lists.tags(path, n, last)

    async def referrers(self, path: str, digest: Digest, artifact_type: str | None = None) -> Referrers:
        """All of upstream's pages merged into one index, bounded. ManifestUnknown where it has no such API (404)."""
        with self._pulse.asking():
            return await self._lists.referrers(path, digest, artifact_type)

    async def ping(self) -> None:
        """GET /v2/ with authentication. Raises what a pull would, with what to do about it."""
        try:
            async with await self._walker.fetch("GET", self._guard.api("/v2/"), None, {}, "ping") as reply:
                if reply.status != 200:
                    await self._refuse(reply, "ping", None)
        except Denied:
            # Without credentials a token is for a repository; that it is not one for /v2/ says nothing.
            if self._endpoint.has_credentials or not self._auth.uses_tokens:
                raise

    def renew(self, endpoint: Endpoint, timeouts: Timeouts) -> Awaitable[None]:
        """From now on it is reached so, with fresh connections and tokens; what is under way goes on as it began.
        What is returned is to be awaited: it has the old connections closed when they have served."""
        auth, transport = self._auth, self._transport
        self._begin(endpoint, timeouts)
        self._retired = [(old, wire) for old, wire in self._retired if not wire.over]
        self._retired.append((auth, transport))
        return transport.retire()

    async def aclose(self) -> None:
        """End token fetches and connections. The registry can not be used after it."""
        for auth, transport in (*self._retired, (self._auth, self._transport)):
            await auth.aclose()
            await transport.aclose()

    def _manifest(self, path: str, reference: Reference, accept: Sequence[str]) -> tuple[Target, dict[str, str]]:
        return self._guard.api(f"/v2/{path}/manifests/{reference}"), {"Accept": _accept(accept)}

    async def _blob_size(self, path: str, digest: Digest) -> int:
        if self._heads_blobs:
            async with await self._blob("HEAD", path, digest) as reply:
                # An empty answer to HEAD is more often a missing length than an empty blob.
                if reply.status == 200 and reply.length:
                    return reply.length
                if reply.status != 200 and reply.status not in _HEAD_REFUSED:
                    await self._refuse(reply, "blobs", path)
                refused = reply.status in _HEAD_REFUSED
        else:
            refused = True
        async with await self._blob("GET", path, digest, "bytes=0-0") as reply:
            size = self._size_of_first_byte(reply)
            if size is None:
                await self._refuse(reply, "blobs", path)
        self._heads_blobs = not refused
        return size

    async def _blob(self, method: str, path: str, digest: Digest, range_: str | None = None) -> Reply:
        target = self._guard.api(f"/v2/{path}/blobs/{digest}")
        return await self._walker.fetch(method, target, path, {"Range": range_} if range_ else {}, "blobs")

    def _stated_digest(self, reply: Reply) -> Digest | None:
        text = reply.header("docker-content-digest")
        try:
            return Digest.parse(text.strip()) if text else None
        except DigestInvalid as error:
            raise UpstreamInvalid(f"upstream {self._endpoint.name}: Docker-Content-Digest: {error}") from None

    def _size_after(self, reply: Reply, start: int) -> int | None:
        found = parse_content_range(reply.header("content-range") or "")
        if found is None or found[0] != start:
            # containerd would take these bytes for the ones it asked for.
            raise UpstreamInvalid(
                f"upstream {self._endpoint.name}: {reply.target} answered another range than the one from {start} on"
            )
        return found[2]

    def _size_of_first_byte(self, reply: Reply) -> int | None:
        if reply.status == 200:
            size = reply.length
        elif reply.status == 206:
            size = self._size_after(reply, 0)
        elif reply.status == 416 and (reply.header("content-range") or "").replace(" ", "") == "bytes*/0":
            size = 0
        else:
            return None
        if size is None:
            raise UpstreamInvalid(f"upstream {self._endpoint.name}: {reply.target} does not say how large the blob is")
        return size

    async def _refuse(self, reply: Reply, noun: str, path: str | None) -> NoReturn:
        raise await refusal(reply, self._endpoint, noun, path)


def _accept(extra: Sequence[str]) -> str:
    """ACCEPT and the further types of `extra`, whose items may be whole header lines with parameters."""
    types = [item.partition(";")[0].strip().lower() for line in extra for item in line[:8192].split(",")]
    further = [item for item in types if _EXTRA_TYPE.match(item)]
    return ", ".join(dict.fromkeys((*ACCEPT, *further[:MAX_EXTRA_TYPES])))

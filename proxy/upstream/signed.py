"""Content behind a presigned URL: one plain GET, with no credentials beside those in the URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from proxy.oci.errors import BlobUnknown, Denied, UpstreamInvalid, UpstreamUnreachable
from proxy.oci.ranges import parse_content_range
from proxy.oci.source import BlobStream
from proxy.upstream.addresses import Reach, reach_of
from proxy.upstream.endpoint import Endpoint, Timeouts
from proxy.upstream.guard import Guard, Target, literal_reach, parse_target
from proxy.upstream.transport import Reply, Transport

# Somebody else has the same bytes, so storage that does not answer is left much sooner than an upstream.
TIMEOUTS: Final = Timeouts(connect=3.0, read=5.0, pool=5.0, whole=30.0)


class SignedUrls:
    """GETs of presigned URLs. They are secrets: no error names more of one than its host. `aclose` when done."""

    def __init__(self, timeouts: Timeouts = TIMEOUTS) -> None:
        # The guard and the transport are made for an upstream; here each URL comes with a host of its own.
        endpoint = Endpoint("ecr", "https://amazonaws.com")
        self._transport = Transport(endpoint, timeouts, _Anywhere(endpoint))

    @asynccontextmanager
    async def blob(self, url: str, start: int = 0, stop: int | None = None) -> AsyncIterator[BlobStream]:
        """Open what `url` names from byte `start` up to and not including `stop`. Leaving early closes the connection.

        Raises:
            Denied: the URL has expired, or storage refuses it.
            BlobUnknown: there is nothing.
            UpstreamFailure, UpstreamInvalid: no answer, or none that can be used; a redirect is one of those.
        """
        target = _target(url)
        last = "" if stop is None else stop - 1
        headers = {"Range": f"bytes={start}-{last}"} if start or stop is not None else {}
        async with await self._transport.send("GET", target, headers, bulk=True) as reply:
            if reply.status == 206:
                yield BlobStream(_size_after(reply, start), start, reply, ranged=True)
            elif reply.status == 200:
                yield BlobStream(reply.length, 0, reply)
            else:
                raise _refusal(reply)

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Anywhere(Guard):
    """The URL comes from AWS by a signed call: its storage may be public, or a VPC endpoint at a private address."""

    def admit(self, host: str, addresses: Iterable[str]) -> None:
        if any(reach_of(address) is Reach.FORBIDDEN for address in addresses):
            raise _forbidden(host)


def _target(url: str) -> Target:
    try:
        target = parse_target(url)
    except ValueError as error:
        raise UpstreamInvalid(f"ECR gave a download URL that cannot be used: {error}") from None
    if literal_reach(target.host) is Reach.FORBIDDEN:
        raise _forbidden(target.host)
    return target


def _forbidden(host: str) -> UpstreamInvalid:
    return UpstreamInvalid(f"ECR's download URL leads to {host}, where no storage can be; no connection was made")


def _size_after(reply: Reply, start: int) -> int | None:
    found = parse_content_range(reply.header("content-range") or "")
    if found is None or found[0] != start:
        raise UpstreamInvalid(f"{reply.target} answered another range than the one from {start} on")
    return found[2]


def _refusal(reply: Reply) -> Exception:
    said = f"{reply.target} answered {reply.status} to a presigned URL"
    if reply.status in (400, 401, 403):  # S3 says 400 where it is the session that signed the URL that has expired
        return Denied(f"{said}: it has expired, or a policy forbids the download")
    if reply.status == 404:
        return BlobUnknown(said)
    if reply.status >= 500 or reply.status == 429:
        return UpstreamUnreachable(said)
    return UpstreamInvalid(said)

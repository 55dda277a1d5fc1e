"""Images for whoever pushes them on: from memory and disk, out of the flights, or through a pull of their own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace
from typing import Final

from proxy.cache.calls import ended
from proxy.ecr.supply import Companion, QuotaReserved
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, DiskFailure, Unknown
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Repository, Tag
from proxy.pull.blob import Blob
from proxy.pull.blobs import Blobs
from proxy.pull.homes import Homes
from proxy.pull.listings import Listings
from proxy.pull.manifests import Manifests
from proxy.pull.piece import Piece, Segment
from proxy.upstream.client import Registry
from proxy.upstream.limits import RateLimit

# The part of upstream's quota that is left to clients.
RESERVE: Final = 0.25
# What upstream said of its quota so long ago may no longer hold; one more question brings a new word.
QUOTA_SECONDS: Final = 900.0
# Cosign's names for what belongs to an image, behind the image's own digest.
_COSIGN: Final = (".sig", ".att", ".sbom")


class PullSupply:
    """Fulfils `proxy.ecr.supply.Supply`."""

    def __init__(
        self,
        manifests: Manifests,
        blobs: Blobs,
        listings: Listings,
        registries: Mapping[str, Registry],
        *,
        clock: Callable[[], float] = time.monotonic,
        homes: Homes | None = None,
    ) -> None:
        """`registries` are the upstreams by name; `clock` is monotonic, in seconds; `homes` are there where several
        instances share the blobs."""
        self._manifests = manifests
        self._blobs = blobs
        self._listings = listings
        self._registries = registries
        self._clock = clock
        self._homes = homes
        self._said: dict[str, tuple[RateLimit, float]] = {}  # by upstream: its last word on its quota, and when

    def known(self, repository: Repository, digest: Digest) -> Manifest | None:
        return self._manifests.remembered(repository, digest)

    async def manifest(self, repository: Repository, reference: Reference, *, spare: bool) -> Manifest:
        if spare:
            if isinstance(reference, Digest) and (cached := await self._manifests.cached(repository, reference)):
                return cached
            self._leave_reserve(repository.upstream)
        return (await self._manifests.get(repository, reference, ())).manifest

    async def companions(self, repository: Repository, digest: Digest) -> Sequence[Companion]:
        """Each once, in the order: cosign's tags, referrers."""
        base = digest.replace(":", "-")
        found = [await self._tagged(repository, Tag(base + suffix)) for suffix in _COSIGN]
        found += await self._referrers(repository, digest, Tag(base))
        return [companion for companion in dict.fromkeys(found) if companion is not None]

    @asynccontextmanager
    async def blob(self, repository: Repository, digest: Digest, *, spare: bool) -> AsyncIterator[_Content]:
        with closing(await self._opened(repository, digest, spare=spare)) as blob:
            async with aclosing(_Content(blob)) as content:
                yield content

    async def _opened(self, repository: Repository, digest: Digest, *, spare: bool) -> Blob:
        if self._homes and not self._blobs.at_hand(digest) and (blob := await self._homes.open(repository, digest)):
            return blob
        return await self._blobs.open(repository, digest, spare=spare)

    async def _tagged(self, repository: Repository, tag: Tag) -> Companion | None:
        """What upstream has under this tag, by HEAD, which costs no quota."""
        try:
            digest = await self._registries[repository.upstream].resolve(repository.path, tag)
        except (Unknown, Denied):
            return None
        if digest is None:
            return None
        return Companion(digest, tag)

    async def _referrers(self, repository: Repository, digest: Digest, fallback: Tag) -> list[Companion | None]:
        """What refers to it; by the specification's fallback tag where upstream has no API for that."""
        try:
            index = (await self._listings.referrers(repository, digest)).manifest
        except Denied:
            return []
        except Unknown:
            tagged = await self._tagged(repository, fallback)
            if tagged is None:
                return []
            index = await self.manifest(repository, tagged.digest, spare=True)
            return [*(Companion(child.digest) for child in index.children), tagged]
        return [Companion(child.digest) for child in index.children]

    def _leave_reserve(self, upstream: str) -> None:
        limit = self._registries[upstream].rate_limit
        if limit is None or limit.limit is None or limit.remaining is None:
            return
        said, since = self._said.get(upstream, (None, 0.0))
        if said is not limit:
            since = self._clock()
            self._said[upstream] = (limit, since)
        if limit.remaining < RESERVE * limit.limit and self._clock() - since < QUOTA_SECONDS:
            raise QuotaReserved(
                f"upstream {upstream} says that {limit.remaining} of {limit.limit} pulls are left, for clients only"
            )


class _Content:
    """Fulfils `proxy.ecr.supply.Content`: parts in order are of one reading to the blob's end, which stays open between
    them. Past the disk that is one connection; each part by itself would be one, and the last one, which has to be
    verified, the whole blob again."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._reading: AsyncGenerator[Piece, None] | None = None
        self._at = 0  # where it is
        self._rest: Piece | None = None  # of its last piece: a range of a file, or a chunk

    @property
    def size(self) -> int:
        return self._blob.size

    async def arrived(self, stop: int) -> None:
        await self._blob.arrived(stop)

    async def read(self, start: int, stop: int) -> bytes:
        reading = self._reading
        if reading is None or self._at != start:
            await self.aclose()
            reading = self._reading = self._blob.read(start, self.size)
            self._at = start
        parts: list[bytes] = []
        try:
            while self._at < stop:
                piece = await anext(reading) if self._rest is None else self._rest
                piece, self._rest = _cut(piece, stop - self._at)
                self._at += _length(piece)
                parts += await _read(piece) if isinstance(piece, Segment) else [piece]
        except BaseException:
            await self.aclose()  # it has lost its place
            raise
        return parts[0] if len(parts) == 1 else await asyncio.to_thread(b"".join, parts)

    async def aclose(self) -> None:
        reading, self._reading, self._rest = self._reading, None, None
        if reading is not None:
            await reading.aclose()


async def _read(piece: Segment) -> list[bytes]:
    """Its bytes; a caller that is cancelled closes the file, and does so after the thread has read."""
    return await ended(asyncio.create_task(asyncio.to_thread(_bytes_of, piece)))


def _cut(piece: Piece, count: int) -> tuple[Piece, Piece | None]:
    """The first `count` bytes, and what is left."""
    if _length(piece) <= count:
        return piece, None
    if isinstance(piece, Segment):
        return replace(piece, count=count), replace(piece, offset=piece.offset + count, count=piece.count - count)
    return piece[:count], piece[count:]


def _length(piece: Piece) -> int:
    return piece.count if isinstance(piece, Segment) else len(piece)


def _bytes_of(segment: Segment) -> list[bytes]:
    """What the segment holds. Raises DiskFailure when the disk does not give it."""
    parts, at, stop = [], segment.offset, segment.offset + segment.count
    while at < stop:
        try:
            part = os.pread(segment.file.fileno(), stop - at, at)
        except OSError as error:
            raise DiskFailure(f"the disk refused: {error.strerror or error}") from error
        if not part:
            raise DiskFailure(f"the file of the blob ends at byte {at}")
        parts.append(part)
        at += len(part)
    return parts

"""What the ECR tier needs of the cache above it: images to push, what was pulled, and where to keep its queue."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Repository, Tag


class Content(Protocol):
    """An open blob, which may still be arriving. `size` is in bytes."""

    @property
    def size(self) -> int: ...

    async def arrived(self, stop: int) -> None:
        """Wait until all bytes up to `stop` are there, or will not come: `read` tells. Nothing is fetched out of order
        for it. At once where nothing is arriving: the blob is on disk, or what is read passes it by.

        Raises:
            UpstreamFailure: nothing has come for too long.
        """

    async def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes from `start` to `stop`, once they are there. What ends at the blob's last byte has been
        verified. Any order, any number of times, but one reading at a time; in order, it downloads nothing twice.

        Raises:
            UpstreamFailure, UpstreamInvalid: they will not come.
        """


class QuotaReserved(Exception):
    """Upstream's rate limit is nearly used up, and what is left is for clients."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A manifest that belongs to another: a signature, an attestation, a referrer."""

    digest: Digest
    tag: Tag | None = None


class Supply(Protocol):
    """Every image that can be pushed: from memory and disk, out of the flights, or from upstream.

    Everything raises as `proxy.oci.source.Source` does: Unknown, Denied, UpstreamFailure, UpstreamInvalid.
    """

    def known(self, repository: Repository, digest: Digest) -> Manifest | None:
        """The manifest, if it is in memory. Costs nothing."""

    async def manifest(self, repository: Repository, reference: Reference, *, spare: bool) -> Manifest:
        """The manifest. `spare`: no client has asked for it, so upstream's rate limit must not be used up for it.

        Raises:
            QuotaReserved: only where `spare`.
        """

    async def companions(self, repository: Repository, digest: Digest) -> Sequence[Companion]:
        """Signatures and attestations by cosign's tags, and referrers; none where upstream has no answer."""

    def blob(self, repository: Repository, digest: Digest, *, spare: bool) -> AbstractAsyncContextManager[Content]:
        """Open the blob. It joins a flight, or starts one: with one connection only where `spare`."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image of the cache. `moment`, in wall clock seconds, is when upstream last confirmed the tag, or when it was
    last used where it is known by its digest alone; `children` are those of an index that are cached too."""

    repository: Repository
    digest: Digest
    tag: Tag | None
    moment: float
    children: tuple[Digest, ...] = ()

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


class Records(Protocol):
    """A durable mapping of short strings to JSON lists, written a moment after each note."""

    def note(self, key: str, record: list[Any] | None) -> None:
        """Have `record` written (None: removed). Never blocks."""

    async def flush(self) -> None:
        """Have all that is noted by now on the disk, unless the disk refuses it."""

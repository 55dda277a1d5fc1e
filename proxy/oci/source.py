"""What a pull needs of whoever has the bytes: one small protocol that every remote tier fulfils."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Tag


@dataclass(frozen=True, slots=True)
class BlobStream:
    """An open download. `chunks` yields what follows `start`, in order, as it arrives, never content-decoded.

    `size` is the whole blob's, in bytes, or None where the source does not say. `ranged` says that a range was asked
    for and is what comes. `chunks` may end early or run long: whoever reads verifies. It raises UpstreamFailure when
    the connection breaks.
    """

    size: int | None
    start: int
    chunks: AsyncIterator[bytes]
    ranged: bool = False


class Source(Protocol):
    """A remote registry. `path` is the repository's name as the source knows it.

    Every method raises Unknown (its noun's) and Denied when the source says so, UpstreamFailure when it cannot
    answer, and UpstreamInvalid when its answer cannot be trusted. Every wait has a deadline.
    """

    @property
    def kind(self) -> str:
        """What X-Millpond calls it: `upstream` or `ecr`."""

    async def resolve(self, path: str, tag: Tag, accept: Sequence[str] = ()) -> Digest | None:
        """What the tag points at, without downloading it; None where the source does not say."""

    async def manifest(self, path: str, reference: Reference, accept: Sequence[str] = ()) -> Manifest:
        """The manifest, its digest verified when `reference` is one."""

    async def blob_size(self, path: str, digest: Digest) -> int:
        """The size of a blob in bytes, without downloading it."""

    def blob(
        self, path: str, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Open the blob from byte `start` up to and not including `stop`, to its end by default.

        The stream's own `start` is 0, and it goes to the end, when the source ignores ranges.
        """

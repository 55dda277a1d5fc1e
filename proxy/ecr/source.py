"""ECR as a source: what was pushed to one target is read back from it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from proxy.ecr.errors import EcrError, Refused, Rejected, RepositoryMissing
from proxy.ecr.target import Target
from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown, Denied, ManifestUnknown, NameUnknown, Unknown, UpstreamUnreachable
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Tag
from proxy.oci.source import BlobStream

if TYPE_CHECKING:
    from proxy.ecr.api import Api

# A large blob is fetched in many ranges: one call names them all. ECR's URLs live for an hour.
URL_SECONDS: Final = 300.0
# Far more blobs than arrive at once.
URLS: Final = 1000


class FetchSigned(Protocol):
    """Opens a presigned URL from byte `start` up to and not including `stop`; Denied when it has expired."""

    def __call__(self, url: str, start: int, stop: int | None) -> AbstractAsyncContextManager[BlobStream]: ...


class EcrSource:
    """One target, as a `proxy.oci.source.Source` whose `path` is the repository's name in ECR.

    Raises NameUnknown where ECR has no such repository. No sha512: ECR has none.
    """

    def __init__(self, api: Api, fetch: FetchSigned, clock: Callable[[], float] = time.monotonic) -> None:
        self.target: Final[Target] = api.target
        self._api = api
        self._fetch = fetch
        self._clock = clock
        self._urls: OrderedDict[tuple[str, Digest], tuple[str, float]] = OrderedDict()

    @property
    def kind(self) -> str:
        return "ecr"

    async def resolve(self, path: str, tag: Tag, accept: Sequence[str] = ()) -> Digest:
        """What the tag points at. ECR gives the manifest with it, so this costs no less than `manifest`."""
        return (await self.manifest(path, tag, accept)).digest

    async def manifest(self, path: str, reference: Reference, accept: Sequence[str] = ()) -> Manifest:  # noqa: ARG002  ECR never converts
        with self._translated(ManifestUnknown, path, reference):
            found = (await self._api.images(path, [reference])).get(reference)
        if found is None:
            raise ManifestUnknown(f"{self._where(path)} has no {reference}")
        return found

    async def blob_size(self, path: str, digest: Digest) -> int:
        with self._translated(BlobUnknown, path, digest):
            return await self._api.layer_size(path, digest)

    @asynccontextmanager
    async def blob(
        self, path: str, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[BlobStream]:
        """Open the layer from `start` to `stop`, over S3. A URL that has expired meanwhile is asked for anew, once."""
        async with AsyncExitStack() as opened:
            with self._translated(BlobUnknown, path, digest):
                url, kept = await self._url(path, digest)
                try:
                    stream = await opened.enter_async_context(self._fetch(url, start, stop))
                except Denied:
                    if not kept:
                        raise
                    self._urls.pop((path, digest), None)
                    url, _ = await self._url(path, digest)
                    stream = await opened.enter_async_context(self._fetch(url, start, stop))
            yield stream

    async def _url(self, path: str, digest: Digest) -> tuple[str, bool]:
        """A URL for the layer, and whether it was at hand."""
        url, until = self._urls.get((path, digest), ("", 0.0))
        if self._clock() < until:
            return url, True
        url = await self._api.layer_url(path, digest)
        self._urls[path, digest] = (url, self._clock() + URL_SECONDS)
        self._urls.move_to_end((path, digest))
        if len(self._urls) > URLS:
            self._urls.popitem(last=False)
        return url, False

    @contextmanager
    def _translated(self, unknown: type[Unknown], path: str, item: str) -> Iterator[None]:
        """ECR's errors as a source's."""
        try:
            yield
        except RepositoryMissing:
            raise NameUnknown(f"{self._where(path)} does not exist") from None
        except Refused as error:
            raise Denied(f"{self._where(path)}: {error}") from None
        except Rejected as error:  # nothing of that kind is ever there
            raise unknown(f"{self._where(path)} cannot have {item}: {error}") from None
        except EcrError as error:  # Passing, above all
            raise UpstreamUnreachable(f"{self._where(path)}: {error}") from None

    def _where(self, path: str) -> str:
        return f"{self.target.registry}/{path}"

"""Content that comes from elsewhere than an upstream: verified like any other, and kept within the same budget."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Final

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog, TagRecord
from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid, DiskFailure
from proxy.oci.figures import sized
from proxy.oci.manifest import Manifest
from proxy.oci.names import Image

_PIECE: Final = 1 << 20


class Intake:
    """Fills a cache. `clock` is wall time in seconds: tags count as confirmed at the moment they come in."""

    def __init__(self, store: BlobStore, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock

    def lacking(self, content: Mapping[Digest, int], whole: int = 0) -> list[Digest]:
        """What of `content` (sizes in bytes) is not in the cache.

        Raises:
            DiskFailure: `whole` bytes, of which this is a part, have no place in the budget.
        """
        if not self._store.admits(whole):
            raise DiskFailure(self._store.trouble or f"{sized(whole)} are more than cache.max_size; make that larger")
        return [digest for digest in content if digest not in self._store]

    async def blob(self, digest: Digest, size: int, chunks: AsyncIterable[bytes]) -> None:
        """Keep a blob of `size` bytes.

        Raises:
            DigestInvalid: what came does not hash to `digest`; nothing of it is kept.
            DiskFailure: there is no room, or the disk refuses.
        """
        incoming = await self._store.begin(digest, size)
        try:
            async for piece in _pieces(chunks):
                if incoming.written + len(piece) > size:
                    break
                await self._store.write(incoming, incoming.written, [piece])
                await self._store.hash(incoming, incoming.written)
        except BaseException:
            await self._store.discard(incoming)
            raise
        else:
            await (self._store.commit if incoming.verified else self._store.discard)(incoming)
        finally:
            incoming.file.close()
        if not incoming.verified:
            raise DigestInvalid(f"{digest} is damaged: what came does not hash to its name; export it once more")

    async def manifest(self, image: Image, manifest: Manifest) -> None:
        """Keep a manifest, which hashes to its digest, as one of `image`'s repository; under its tag if it has one.

        Raises:
            DiskFailure: there is no room, or the disk refuses.
        """
        await self._store.put(manifest.digest, manifest.body)
        self._catalog.add_manifest(image.repository, manifest)
        if image.tag:
            self._catalog.set_tag(image.repository, image.tag, TagRecord(manifest.digest, self._clock()))


async def _pieces(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: each is written and hashed on a thread, which is not to be woken for little."""
    waiting = bytearray()
    async for chunk in chunks:
        waiting += chunk
        if len(waiting) >= _PIECE:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)

"""What an operator changes of what is cached: pin, unpin, purge, refresh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from proxy.cache.disk import DiskCache
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, RequestError, Unknown
from proxy.oci.names import Image, Reference, Repository, Tag, parse_image
from proxy.pull.images import Images
from proxy.pull.manifests import Answer

# Repositories in which a purge looks for others that need the same before the event loop has its turn.
_STEP: Final = 50

Row = dict[str, Any]
Revalidate = Callable[[Repository, Tag], Awaitable[Answer]]
"""`Manifests.revalidate`, or what raises MillpondError where there are no upstreams to ask."""


class NotPinned(Unknown):
    """There is no such pin."""


class Conflict(MillpondError):
    """It cannot be done as things stand; the message says what has to be done before."""


class Keeping:
    """Changes to the cache. Names are as `parse_image` reads them, and every method raises what that raises."""

    def __init__(
        self, cache: DiskCache, images: Images, locate: Callable[[str], Repository], revalidate: Revalidate
    ) -> None:
        """`locate` knows what a repository's name means here."""
        self._store = cache.blobs
        self._catalog = cache.catalog
        self._pins = cache.pins
        self._images = images
        self._locate = locate
        self._revalidate = revalidate

    def pin(self, name: str) -> Row:
        """Keep an image, and all that it names, whatever has to make room: {"image", "digests", "bytes"}, which are
        what of it is on disk. What is pulled of it later stays as well; a tag's pin goes with the tag.

        Raises:
            ManifestUnknown: it is not cached.
            RequestError: too many are pinned.
        """
        image = parse_image(name, self._locate)
        pin = self._pins.pin(image.repository, image.reference, self._images.find(image).digest)
        return self._changed("image pinned", image, self._on_disk(pin.held))

    def unpin(self, name: str) -> Row:
        """Let an image go again when room is needed: {"image", "digests", "bytes"}, which are what may go now.

        Raises:
            NotPinned: it is not pinned by this name.
        """
        image = parse_image(name, self._locate)
        pin = self._pins.unpin(image.repository, image.reference)
        if pin is None:
            raise NotPinned(f"{image} is not pinned{self._pinned_as(image)}")
        free = {digest for digest in pin.held if not self._pins.holds(digest)}
        return self._changed("image unpinned", image, self._on_disk(free))

    async def purge(self, name: str) -> Row:
        """Remove an image, and what no other image names, from the disk: {"image", "digests", "bytes"} that are gone.
        A tag goes alone where others point at the same; a digest takes its tags along. Copies in ECR stay.

        Raises:
            ManifestUnknown: it is not cached.
            Conflict: it is pinned, or part of another image.
        """
        image = parse_image(name, self._locate)
        repository, digest = image.repository, self._images.find(image).digest
        names: list[Reference] = [image.reference]
        if image.digest is not None:
            names += self._tags(repository, digest)
        for pin in filter(None, (self._pins.get(repository, reference) for reference in names)):
            raise Conflict(f"{pin.image} is pinned; unpin it first, then purge it")
        if image.digest is not None and self._catalog.is_named(repository, digest):
            raise Conflict(f"{image} is part of another image of {repository}; purge that, and it goes along")
        if image.digest is None and image.tag is not None:
            self._catalog.drop_tag(repository, image.tag)
            if self._tags(repository, digest) or self._catalog.is_named(repository, digest):
                return self._changed("image purged", image, {})
        return self._changed("image purged", image, await self._remove(repository, digest))

    async def refresh(self, name: str) -> Row:
        """Ask upstream now where a tag points: {"image", "before", "after", "changed", "confirmed"}. Without
        `confirmed` upstream could not say, and ECR's word stands in. What is new of it comes with the next pull.

        Raises:
            RequestError: a digest, which never moves.
            ManifestUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        image = parse_image(name, self._locate)
        if image.tag is None or image.digest is not None:
            raise RequestError(f"{image} is a digest, which never changes; name a tag to refresh")
        record = self._catalog.tag(image.repository, image.tag)
        before = record.digest if record else None
        answer = await self._revalidate(image.repository, image.tag)
        after = answer.manifest.digest
        structlog.get_logger().info("image refreshed", image=str(image), before=before, after=after)
        return {
            "image": str(image),
            "before": before,
            "after": after,
            "changed": after != before,
            "confirmed": answer.confirmed,
        }

    async def _remove(self, repository: Repository, root: Digest) -> dict[Digest, int]:
        """Take a manifest out of its repository, and off the disk whatever nobody else needs; that, with its sizes."""
        parts = [root, *(digest for digest, _ in self._catalog.named(repository, root))]
        self._catalog.drop_manifest(repository, root)
        for part in parts:  # from an index down: its images go where they are no images by themselves
            if not self._tags(repository, part) and not self._catalog.is_named(repository, part):
                self._catalog.drop_manifest(repository, part)
        gone = self._on_disk(await self._unneeded(parts))
        for digest in [part for part in parts if part in gone]:
            if self._pins.holds(digest):
                del gone[digest]  # a pin keeps more than is known: its manifest may be damaged
            else:
                await self._store.evict(digest)
        return gone

    async def _unneeded(self, parts: list[Digest]) -> set[Digest]:
        """Those that no repository holds as a manifest, and no manifest names."""
        left = {part for part in parts if not self._catalog.holders(part)}
        for looked, repository in enumerate(self._catalog.repositories()):
            left = {part for part in left if not self._catalog.is_named(repository, part)}
            if looked % _STEP == 0:
                await asyncio.sleep(0)
        return left

    def _tags(self, repository: Repository, digest: Digest) -> list[Tag]:
        return [Tag(tag) for tag in self._catalog.tags_of(repository, digest)]

    def _on_disk(self, digests: set[Digest]) -> dict[Digest, int]:
        return {digest: self._store.size(digest) for digest in digests if digest in self._store}

    def _pinned_as(self, image: Image) -> str:
        """By which other name an image is kept, as the end of a sentence."""
        record = self._catalog.tag(image.repository, image.tag) if image.tag else None
        digest = image.digest or (record.digest if record else None)
        pins = (pin for pin in self._pins if pin.repository == image.repository and digest in pin.held)
        return f" by this name, but it is kept by the pin of {pin.image}" if (pin := next(pins, None)) else ""

    def _changed(self, event: str, image: Image, sizes: dict[Digest, int]) -> Row:
        row = {"image": str(image), "digests": len(sizes), "bytes": sum(sizes.values())}
        structlog.get_logger().info(event, **row)
        return row

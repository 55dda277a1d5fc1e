"""What is cached, as images: searched, looked at, and what goes next. Nothing here counts as a use.

`proxy.pull.keeping` changes what these show.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from proxy.cache.catalog import Cached
from proxy.cache.disk import DiskCache
from proxy.oci.digest import Digest
from proxy.oci.errors import ManifestUnknown, RequestError, UpstreamInvalid
from proxy.oci.manifest import INDEXES, Manifest, parse_manifest, platform_of
from proxy.oci.names import Image, Repository, Tag, parse_image

# Images of one answer, and digests of one: what a page shows, and a few milliseconds of the event loop.
MAX_IMAGES: Final = 200
MAX_EVICTIONS: Final = 200
# Children and blobs of one image in its detail. Real ones have tens; the sizes are of all.
MAX_PARTS: Final = 1_000
# A search's text: longer than any image's name with its digest.
MAX_QUERY: Final = 500
# Rows or digests that are looked at before the event loop has its turn: about a millisecond of it.
_STEP: Final = 500
# Manifests whose platforms are remembered, for they never change: some megabytes.
_REMEMBERED: Final = 4_096
# Platforms of one index that are shown: more than any has, and a bound for a hostile one.
_PLATFORMS: Final = 100
# An image's configuration that is read for its platform. Real ones have some kilobytes.
_MAX_CONFIG: Final = 1 << 20
_CONFIGS: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
# What stands in an index beside its platforms (attestations).
_NO_PLATFORM: Final = "unknown/unknown"

Row = dict[str, Any]
Held = Callable[[Repository, Digest], Mapping[str, str]]
"""Which ECR targets hold an image: "yes", "no" or "unknown", by the target's name."""


@dataclass(slots=True)
class _Measure:
    """Bytes of an image: all that it names as far as that is known, and what of it is on disk."""

    size: int
    present: int
    whole: bool

    def row(self) -> Row:
        return {"size": self.size, "present": self.present}


class Images:
    """Reads of the cache's catalogue. Each answer is bounded, and gives way to the event loop."""

    def __init__(self, cache: DiskCache, locate: Callable[[str], Repository], held: Held = lambda *_: {}) -> None:
        """`locate` knows what a repository's name means here."""
        self._store = cache.blobs
        self._catalog = cache.catalog
        self._pins = cache.pins
        self._locate = locate
        self._held = held
        self._platforms: OrderedDict[Digest, list[tuple[Digest, str | None]]] = OrderedDict()

    async def search(self, query: str = "", limit: int = 50, after: str | None = None) -> Row:
        """A page of images in the order of their names: {"images": [...], "total", "next"}.

        `query` is a part of name:tag@digest, or a glob (with * ? or []), which may begin at any part of the name;
        `after` is `next` of the page before. `total` counts all that match. Each image: {"name", "tag", "digest",
        "media_type", "size", "present", "platforms", "checked", "used", "pinned", "held": {"disk", …}}; tag and checked
        are None for what was pulled by digest; `platforms` are those on disk; disk is "whole" where all that the image
        names is there, other platforms included, else "part"; pinned is said of this very name.

        Raises:
            RequestError: the query is too long, or `after` is none.
        """
        matches, place = _matcher(query), _place(after)
        limit = max(1, min(limit, MAX_IMAGES))
        page: list[tuple[Repository, Cached]] = []
        total, more = 0, False
        async for repository, image in self._walk():
            if not matches(f"{repository}:{image.tag}" if image.tag else str(repository), image.digest):
                continue
            total += 1
            if place is None or (str(repository), _suffix(image)) > place:
                more = len(page) == limit
                if not more:
                    page.append((repository, image))
        last = f"{page[-1][0]}{_suffix(page[-1][1])}" if page and more else None
        return {"images": [await self._row(*each) for each in page], "total": total, "next": last}

    async def one(self, name: str) -> Row:
        """One image as in `search`, with {"children": [{"digest", "platform", "size", "present"}], "tags": [...] (that
        point at the same), "blobs": [{"digest", "size", "on_disk"}]}; at most MAX_PARTS of each.

        Raises:
            ManifestUnknown: it is not cached.
            NameUnknown, NameInvalid, TagInvalid, DigestInvalid: as `parse_image`.
        """
        image = parse_image(name, self._locate)
        repository, found = image.repository, self.find(image)
        row = await self._row(repository, found)
        platforms = dict(await self._platforms_of(repository, found.digest))
        parts = self._catalog.names(repository, found.digest) if self._is_index(repository, found.digest) else ()
        children = []
        for child in parts[:MAX_PARTS]:
            measure = await self._measure(repository, child)
            children.append({"digest": child, "platform": platforms.get(child), **measure.row()})
        manifests = set(parts)
        blobs = (each for each in self._catalog.named(repository, found.digest) if each[0] not in manifests)
        return {
            **row,
            "children": children,
            "tags": self._catalog.tags_of(repository, found.digest),
            "blobs": [
                {"digest": digest, "size": size, "on_disk": digest in self._store}
                for digest, size in islice(blobs, MAX_PARTS)
            ],
        }

    def find(self, image: Image) -> Cached:
        """The image as the cache has it. Raises ManifestUnknown."""
        repository, record = image.repository, None
        if image.digest is None and image.tag is not None:
            record = self._catalog.tag(repository, image.tag)
        digest = record.digest if record else image.digest
        if digest is None or self._catalog.media_type(repository, digest) is None:
            raise ManifestUnknown(f"{image} is not cached; pull it, or bring it with `millpond warm {image}`")
        return Cached(image.tag if record else None, digest, record.checked if record else None)

    async def evictions(self, limit: int = 50) -> Row:
        """What goes next when room is needed: {"next": [{"digest", "size", "used", "image", "pinned"}]}. `image` is one
        that names it, None where none does; nothing pinned is among them."""
        going = self._store.next_to_go(max(1, min(limit, MAX_EVICTIONS)))
        names = await self._owners({digest for digest, _ in going})
        return {
            "next": [
                {"digest": digest, "size": entry.size, "used": entry.used, "image": names.get(digest), "pinned": False}
                for digest, entry in going
            ]
        }

    async def _walk(self) -> AsyncIterator[tuple[Repository, Cached]]:
        """Every image, by name. What changes meanwhile may be seen or not."""
        looked = 0
        for repository in sorted(self._catalog.repositories(), key=str):
            for image in sorted(self._catalog.images(repository), key=_suffix):
                yield repository, image
                looked += 1
                if looked % _STEP == 0:
                    await asyncio.sleep(0)

    async def _row(self, repository: Repository, image: Cached) -> Row:
        digest = image.digest
        measure = await self._measure(repository, digest)
        platforms = await self._platforms_of(repository, digest)
        here = {platform for manifest, platform in platforms if self._has(repository, manifest)}
        return {
            "name": str(repository),
            "tag": image.tag,
            "digest": digest,
            "media_type": self._catalog.media_type(repository, digest),
            **measure.row(),
            "platforms": sorted(platform for platform in here if platform and platform != _NO_PLATFORM),
            "checked": image.checked,
            "used": self._store.used(digest),
            "pinned": self._pins.get(repository, Tag(image.tag) if image.tag else digest) is not None,
            "held": {"disk": "whole" if measure.whole else "part", **self._held(repository, digest)},
        }

    async def _measure(self, repository: Repository, digest: Digest) -> _Measure:
        """Of an index whose images were not all pulled, the others are no more than their manifests."""
        here = self._size(digest)
        measure = _Measure(here or self._catalog.stated_size(repository, digest), here, digest in self._store)
        for looked, (name, size) in enumerate(self._catalog.named(repository, digest), 1):
            measure.size += size
            if name in self._store:
                measure.present += self._size(name)
            else:
                measure.whole = False
            if looked % _STEP == 0:
                await asyncio.sleep(0)
        if measure.whole and self._is_index(repository, digest):
            # The bytes of a child may be there for another repository: what it names is not known here then.
            measure.whole = all(self._has(repository, child) for child in self._catalog.names(repository, digest))
        return measure

    def _size(self, digest: Digest) -> int:
        return self._store.size(digest) if digest in self._store else 0

    def _has(self, repository: Repository, manifest: Digest) -> bool:
        return manifest in self._store and self._catalog.media_type(repository, manifest) is not None

    def _is_index(self, repository: Repository, digest: Digest) -> bool:
        return self._catalog.media_type(repository, digest) in INDEXES

    async def _platforms_of(self, repository: Repository, digest: Digest) -> list[tuple[Digest, str | None]]:
        """The images of an index, or the image itself, each with its platform as far as the disk knows it."""
        if (known := self._platforms.get(digest)) is not None:
            self._platforms.move_to_end(digest)
            return known
        media_type = self._catalog.media_type(repository, digest)
        body = await self._store.read(digest, use=False)
        if media_type is None or body is None:
            return []
        try:
            manifest = await asyncio.to_thread(parse_manifest, body, media_type, digest)
        except UpstreamInvalid:
            return []  # the next pull finds out, and mends it
        if manifest.is_index:
            found = [(child.digest, child.platform) for child in manifest.children[:_PLATFORMS]]
        elif (platform := await self._configured(manifest)) is None:
            return []  # its configuration may come yet
        else:
            found = [(digest, platform)]
        self._platforms[digest] = found
        if len(self._platforms) > _REMEMBERED:
            self._platforms.popitem(last=False)
        return found

    async def _configured(self, manifest: Manifest) -> str | None:
        """The platform that an image's configuration states; None where it is not on disk, or says nothing of it."""
        config = next((blob for blob in manifest.blobs if blob.media_type in _CONFIGS), None)
        if config is None or config.size > _MAX_CONFIG:
            return None
        body = await self._store.read(config.digest, use=False)
        try:
            return platform_of(json.loads(body)) if body is not None else None
        except (ValueError, RecursionError):
            return None

    async def _owners(self, wanted: set[Digest]) -> dict[Digest, str]:
        """An image for each of the digests that is one, or that one names."""
        found: dict[Digest, str] = {}
        for repository in self._catalog.repositories():
            await asyncio.sleep(0)
            catalog = self._catalog
            here = [
                digest
                for digest in wanted
                if catalog.is_named(repository, digest) or catalog.media_type(repository, digest)
            ]
            if not here:
                continue
            owners = await self._owners_in(repository)
            for digest in here:
                root = digest
                while not (tags := catalog.tags_of(repository, root)) and root in owners:
                    root = owners[root]
                found[digest] = f"{repository}:{tags[0]}" if tags else f"{repository}@{root}"
            wanted = wanted.difference(here)
        return found

    async def _owners_in(self, repository: Repository) -> dict[Digest, Digest]:
        """A manifest that names it, for whatever a repository's manifests name."""
        owners: dict[Digest, Digest] = {}
        for looked, manifest in enumerate(self._catalog.manifests(repository)):
            owners.update(dict.fromkeys(self._catalog.names(repository, manifest), manifest))
            if looked % 100 == 0:
                await asyncio.sleep(0)
        return owners


def _suffix(image: Cached) -> str:
    """What stands behind the repository in an image's name."""
    return f":{image.tag}" if image.tag else f"@{image.digest}"


def _place(after: str | None) -> tuple[str, str] | None:
    """A page's last image, in the order of the pages."""
    if after is None:
        return None
    name, mark, rest = after.partition("@") if "@" in after else after.rpartition(":")
    if not name or not rest:
        raise RequestError("`after` is not what an earlier answer gave as `next`; leave it out to begin anew")
    return name, mark + rest


def _matcher(query: str) -> Callable[[str, Digest], bool]:
    """Whether a name and its digest fit the query."""
    if len(query) > MAX_QUERY:
        raise RequestError(f"the search has {len(query)} characters; up to {MAX_QUERY} are looked for")
    text = query.strip().lower()
    if not any(mark in text for mark in "*?["):
        return lambda name, digest: text in f"{name}@{digest}".lower()
    # In front of it may stand the parts of the name that people leave out, behind it what they do not know.
    globs = [re.compile(fnmatch.translate(head + text + tail)) for head in ("", "*/") for tail in ("", "@*")]
    return lambda name, digest: any(glob.match(f"{name}@{digest}".lower()) for glob in globs)

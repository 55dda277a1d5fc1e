"""What an image consists of, as far as a place has it: manifests, and the blobs that they name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from proxy.cache.layout import Damaged
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, UpstreamInvalid
from proxy.oci.manifest import Descriptor, Manifest, parse_manifest

# An index of indexes exists; one that goes on and on is made to be followed without end.
_DEPTH: Final = 4
# What stands beside the platforms of an index: attestations.
_NO_PLATFORM: Final = frozenset({None, "unknown/unknown"})


class Incomplete(MillpondError):
    """The place does not have what the image needs."""


class Place(Protocol):
    """Where content lies: the cache's disk, a layout."""

    def read(self, digest: Digest) -> bytes | None:
        """A manifest, not verified; None where it is not there."""

    def size(self, digest: Digest) -> int | None:
        """Bytes of the file; None where there is none."""


@dataclass(slots=True)
class Tree:
    """`manifests` of an image, each behind all that it names, and `blobs` with their sizes. `left_out` are entries of
    indexes that the place has not, or that were not wanted."""

    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, int] = field(default_factory=dict)
    left_out: list[Descriptor] = field(default_factory=list)

    @property
    def root(self) -> Manifest:
        return list(self.manifests.values())[-1]

    def sizes(self) -> Iterator[tuple[Digest, int]]:
        """All of it, blobs first: the order in which it is written down, so that what is there is whole."""
        yield from self.blobs.items()
        yield from ((digest, len(manifest.body)) for digest, manifest in self.manifests.items())


def tree(root: Descriptor, place: Place, platforms: Collection[str] = ()) -> Tree:
    """All of an image that `place` has; of an index, those `platforms` only where there are any.

    Raises:
        Incomplete: it has not all of the image, or of an index not a single platform.
        Damaged: a manifest is not what its digest says, or none at all.
    """
    found = Tree()
    _climb(root, place, platforms, found, 0)
    return found


def _climb(root: Descriptor, place: Place, platforms: Collection[str], found: Tree, depth: int) -> None:
    if root.digest in found.manifests:
        return
    body = place.read(root.digest)
    if body is None or depth > _DEPTH:
        raise Incomplete(f"the manifest {root.digest} is not there")
    try:
        manifest = parse_manifest(body, root.media_type, root.digest)
    except UpstreamInvalid:
        raise Damaged(f"the manifest {root.digest} is damaged") from None
    if manifest.is_index:
        _children(manifest, place, platforms, found, depth)
    else:
        blobs = {blob.digest: blob.size for blob in manifest.blobs if not blob.is_foreign}
        if missing := [digest for digest, size in blobs.items() if place.size(digest) != size]:
            raise Incomplete(f"{len(missing)} of its {len(blobs)} blobs are not there")
        found.blobs |= blobs
    found.manifests[manifest.digest] = manifest


def _children(index: Manifest, place: Place, platforms: Collection[str], found: Tree, depth: int) -> None:
    images, why = 0, "it names none"
    for child in index.children:
        if platforms and child.platform not in _NO_PLATFORM and not _matches(child.platform, platforms):
            found.left_out.append(child)
            why = f"none is for {', '.join(platforms)}"
            continue
        try:
            _climb(child, place, platforms, found, depth + 1)
            images += child.platform != "unknown/unknown"
        except Incomplete as error:
            found.left_out.append(child)
            why = str(error)
    if index.children and not images:
        raise Incomplete(f"not one of its platforms is whole: {why}")


def _matches(platform: str | None, wanted: Collection[str]) -> bool:
    """`linux/arm64` also means its variants, as `linux/arm64/v8` is written by some."""
    return any(platform == each or (platform or "").startswith(f"{each}/") for each in wanted)

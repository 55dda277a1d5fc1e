"""What the upstream of the machine holds: a few images that share layers, and more bytes than the cache may keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.support import images
from tests.support.images import Manifest
from tests.support.scripted import ScriptedUpstream

KIB: Final = 1 << 10
MIB: Final = 1 << 20
# Less than all layers together, so that pulling evicts, and less than "vast", which therefore passes through.
BUDGET: Final = 6 * MIB

REPOSITORY: Final = "library/app"
# Upstream knows it, and it holds none of the blobs: what is on disk must not be given out in its name.
ELSEWHERE: Final = "library/elsewhere"


@dataclass(frozen=True, slots=True)
class Part:
    """Something with a digest: a blob, or a manifest with its media type."""

    name: str
    digest: str
    content: bytes = field(repr=False)
    media_type: str = ""

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def noun(self) -> str:
        return "manifests" if self.media_type else "blobs"

    @property
    def path(self) -> str:
        """Below a registry's URL, as upstream has it."""
        return f"/v2/{REPOSITORY}/{self.noun}/{self.digest}"


def _noise(size: int, seed: int) -> images.Blob:
    return images.blob(b"".join(images.noise(size, 7000 + seed)))


_LAYERS: Final = {
    "tiny": _noise(1000, 1),
    "small": _noise(200 * KIB, 2),
    "held": _noise(256 * KIB, 3),  # exactly what the program of the machine holds back
    "medium": _noise(MIB + 1, 4),
    "shared": _noise(2 * MIB + 512 * KIB, 5),  # large enough for several connections, as the machine has set them
    "large": _noise(3 * MIB + 7, 6),
    "vast": _noise(7 * MIB, 7),
    "empty": images.blob(b""),
    "loose": _noise(MIB + 300 * KIB, 8),  # no manifest names it, so that its size is learnt from upstream alone
}


def _image(note: str, *layers: str) -> Manifest:
    return images.artifact(images.OCI_CONFIG, [_LAYERS[name] for name in layers], artifact_type=f"application/{note}")


_FIRST: Final = _image("first", "tiny", "small", "medium", "shared")
_SECOND: Final = _image("second", "held", "shared", "large")
IMAGES: Final = {
    "first": _FIRST,
    "second": _SECOND,
    "both": images.index([_FIRST, _SECOND]),
    "third": _image("third", "tiny", "vast", "empty"),
}
BLOBS: Final = {name: Part(name, layer.digest, layer.read()) for name, layer in _LAYERS.items()}
MANIFESTS: Final = {name: Part(name, made.digest, made.body, made.media_type) for name, made in IMAGES.items()}
PARTS: Final = {**BLOBS, **MANIFESTS}
CONFIG: Final = Part("config", images.blob(b"{}").digest, b"{}")
BY_DIGEST: Final = {part.digest: part for part in (*PARTS.values(), CONFIG)}
TAGS: Final = {"one": "first", "two": "both"}


def blobs_of(name: str) -> list[Part]:
    """Every blob of an image, its configuration too."""
    return [BY_DIGEST[digest] for digest in IMAGES[name].all_blobs()]


def manifests_of(name: str) -> list[Part]:
    """The manifests that a client asks for by digest once it knows the image: the children of an index."""
    return [BY_DIGEST[child.digest] for child in IMAGES[name].children]


def fill(upstream: ScriptedUpstream) -> None:
    """Let `upstream` hold all of it."""
    for name, image in IMAGES.items():
        upstream.add(image, REPOSITORY, *(tag for tag, pointed in TAGS.items() if pointed == name))
    for name in ("loose", "empty"):
        upstream.add_blob(REPOSITORY, BLOBS[name].content)
    upstream.add_manifest(ELSEWHERE, b"{}", images.OCI_MANIFEST, "none")

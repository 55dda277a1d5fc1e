"""What the registry behind Millpond holds for the suite: every kind of manifest that a pull can meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import images
from tests.support.images import Manifest

REPOSITORY: Final = "conformance/shelf"


@dataclass(frozen=True, slots=True)
class Shelf:
    """`roots` have the tags that they are held under; `subjects` are what the referrers API is asked about."""

    roots: dict[Manifest, tuple[str, ...]]
    subjects: tuple[str, ...] = ()

    @property
    def tags(self) -> list[str]:
        return [tag for tags in self.roots.values() for tag in tags]

    @property
    def manifests(self) -> list[str]:
        return list(dict.fromkeys(part.digest for root in self.roots for part in root.walk()))

    @property
    def blobs(self) -> list[str]:
        return list(dict.fromkeys(digest for root in self.roots for digest in root.all_blobs()))


def make(directory: Path, *, referrers: bool) -> Shelf:
    """A shelf; with `referrers` also what the suite asks only a registry that has that API."""
    amd64 = images.simple_image(directory, seed=901, layers=3)
    arm64 = images.simple_image(directory, seed=902, architecture="arm64")
    both = images.index([amd64, arm64])
    docker = images.index([images.simple_image(directory, seed=903, docker=True)], docker=True)
    foreign = images.image([images.layer(directory, 4096, seed=904), images.foreign_layer("https://example.test/x")])
    empty = images.artifact(images.EMPTY_CONFIG, [images.blob(b"")])
    bare = images.artifact(images.EMPTY_CONFIG, [], artifact_type="application/vnd.example.bare")
    signed_as, signed = images.signature(amd64)
    roots = {
        both: ("latest", "1.0"),
        images.index([both]): ("nested",),
        docker: ("docker",),
        foreign: ("foreign",),
        images.chart(): ("chart-1.0",),
        empty: ("empty-layer",),
        bare: ("no-layers",),
        signed: (signed_as,),
    }
    if not referrers:
        return Shelf(roots)
    notes = [
        images.artifact(images.EMPTY_CONFIG, [], subject=both, artifact_type=f"application/vnd.example.{kind}")
        for kind in ("sbom", "signature")
    ]
    sha512 = images.Manifest(both.media_type, both.body, both.blobs, both.children, algorithm="sha512")
    return Shelf({**roots, sha512: (), **dict.fromkeys(notes, ())}, (both.digest, amd64.digest))

"""What a registry holds: repositories with images, tags, layers and uploads. No rules here, only state."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support import images


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A manifest or an index as it was put. `pushed` is a Unix time."""

    body: bytes = field(repr=False)
    media_type: str
    pushed: float = field(default_factory=time.time, compare=False)

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"

    @property
    def children(self) -> list[str]:
        """Digests of the manifests that it names."""
        return [entry["digest"] for entry in json.loads(self.body).get("manifests", [])]

    @property
    def layers(self) -> list[str]:
        """Digests of the blobs that it names, the config first. Foreign layers live elsewhere and are left out."""
        document = json.loads(self.body)
        named = [document["config"]] if "config" in document else []
        named += [entry for entry in document.get("layers", []) if not entry.get("urls")]
        return [entry["digest"] for entry in named]


@dataclass
class Upload:
    """A layer that is arriving. `parts` are in order, without gaps; `hashed` is of all of them."""

    upload_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    parts: list[bytes] = field(default_factory=list, repr=False)
    hashed: Any = field(default_factory=hashlib.sha256, repr=False)
    size: int = 0


@dataclass
class FakeRepository:
    """`settings` are the parameters of CreateRepository, defaults filled in; `known` are all digests that were ever
    here, so that what was lost differs from what never came; `scans` are by digest."""

    name: str
    account: str
    region: str
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    images: dict[str, StoredImage] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    layers: dict[str, bytes] = field(default_factory=dict, repr=False)
    uploads: dict[str, Upload] = field(default_factory=dict)
    lifecycle_policy: str | None = None
    policy: str | None = None
    known: set[str] = field(default_factory=set)
    scans: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return f"arn:aws:ecr:{self.region}:{self.account}:repository/{self.name}"

    def image(self, reference: str) -> StoredImage | None:
        """By digest or by tag."""
        return self.images.get(self.tags.get(reference, reference))

    def tags_of(self, digest: str) -> list[str]:
        return sorted(tag for tag, held in self.tags.items() if held == digest)

    def references(self, layer: str) -> bool:
        """Whether an image names this layer."""
        return any(layer in image.layers for image in self.images.values())

    def missing(self, reference: str) -> list[str]:
        """All that is not here of the image, its children and their layers; nothing: it is complete."""
        return list(self._missing(reference))

    def _missing(self, reference: str) -> Iterator[str]:
        image = self.image(reference)
        if image is None:
            yield reference
            return
        yield from (digest for digest in image.layers if digest not in self.layers)
        for child in image.children:
            yield from self._missing(child)

    def scan(self, digest: str, status: str = "COMPLETE", **counts: int) -> None:
        """Have an image scanned, whenever it comes; `counts` are findings by severity."""
        self.scans[digest] = status, counts

    def lose_image(self, digest: str) -> None:
        """As a lifecycle policy does it: the image, its tags, and the layers that no other one names."""
        gone = self.images.pop(digest)
        self.tags = {tag: held for tag, held in self.tags.items() if held != digest}
        for layer in gone.layers:
            if not self.references(layer):
                self.layers.pop(layer, None)


@dataclass
class FakeRegistry:
    """ECR of one account in one region."""

    account: str
    region: str
    repositories: dict[str, FakeRepository] = field(default_factory=dict)

    def image(self, name: str, reference: str) -> StoredImage | None:
        """An image by digest or tag; None: there is no such image, or no such repository."""
        repository = self.repositories.get(name)
        return repository.image(reference) if repository else None

    def missing(self, name: str, reference: str) -> list[str]:
        """`FakeRepository.missing`, where the whole repository may be missing too."""
        repository = self.repositories.get(name)
        return repository.missing(reference) if repository else [reference]

    def add(self, image: images.Manifest, name: str, *tags: str) -> FakeRepository:
        """Have a whole image, index or artifact here, as if somebody had pushed it."""
        repository = self.repositories.setdefault(name, FakeRepository(name, self.account, self.region))
        for blob in image.all_blobs().values():
            repository.layers[blob.digest] = blob.read()
        for part in image.walk():
            repository.images[part.digest] = StoredImage(part.body, part.media_type)
        repository.tags.update(dict.fromkeys(tags, image.digest))
        repository.known |= {*repository.layers, *repository.images}
        return repository

"""What one repository was seen to hold: its tags, its manifests, and what these name."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.oci.digest import Digest
from proxy.oci.manifest import INDEXES


@dataclass(frozen=True, slots=True)
class TagRecord:
    """Where a tag pointed when upstream last confirmed it (`checked`, wall time in seconds)."""

    digest: Digest
    checked: float


@dataclass(frozen=True, slots=True)
class Known:
    """A manifest that a repository holds: its type, and the digests of what it names."""

    media_type: str
    names: tuple[Digest, ...]


@dataclass(slots=True)
class Holdings:
    """What one repository was seen to hold. Whatever goes is found by its key: nothing here is ever searched."""

    tags: dict[str, TagRecord] = field(default_factory=dict)
    tagged: dict[Digest, set[str]] = field(default_factory=dict)  # the same, by where they point
    manifests: dict[Digest, Known] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)  # of what the manifests name
    children: set[Digest] = field(default_factory=set)  # of those, what indexes alone name
    shared: dict[Digest, int] = field(default_factory=dict)  # how many more name it, of what several name

    def point(self, tag: str, record: TagRecord) -> None:
        self.unpoint(tag)
        self.tags[tag] = record
        self.tagged.setdefault(record.digest, set()).add(tag)

    def unpoint(self, tag: str) -> bool:
        """Whether there was such a tag."""
        if (record := self.tags.pop(tag, None)) is None:
            return False
        others = self.tagged[record.digest]
        others.remove(tag)
        if not others:
            del self.tagged[record.digest]
        return True

    def add(self, digest: Digest, media_type: str, names: Iterable[tuple[Digest, int]]) -> None:
        if digest in self.manifests:
            self.remove(digest)
        sizes = tuple(names)
        self.manifests[digest] = Known(sys.intern(media_type), tuple(name for name, _ in sizes))
        index = media_type in INDEXES
        for name, size in sizes:
            if name in self.sizes:
                self.shared[name] = self.shared.get(name, 0) + 1
            elif index:
                self.children.add(name)
            if not index:
                self.children.discard(name)
            self.sizes[name] = size

    def remove(self, digest: Digest) -> None:
        for name in self.manifests.pop(digest).names:
            others = self.shared.pop(name, 0)
            if others > 1:
                self.shared[name] = others - 1
            elif not others:
                del self.sizes[name]
                self.children.discard(name)

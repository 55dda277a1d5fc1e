"""What the cache knows beside the bytes: where tags point, and which repository was seen to hold what.

All of it lives in memory; every change is noted for the ledger. A blob's bytes are shared by all repositories, the
right to be served is not: only a repository that was seen to hold a digest gives it out (CVE-2024-39897).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from proxy.cache.ledger import Record
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.manifest import Manifest
from proxy.oci.names import Repository


@dataclass(frozen=True, slots=True)
class TagRecord:
    """Where a tag pointed when upstream last confirmed it (`checked`, wall time in seconds)."""

    digest: Digest
    checked: float


@dataclass(frozen=True, slots=True)
class _Known:
    """A manifest that a repository holds: its type, and the digests and sizes of what it names."""

    media_type: str
    names: tuple[tuple[Digest, int], ...]


class Catalog:
    """Tags, manifests and blobs by repository.

    `name` of a tag is any string: beside tags it is used for other answers that are revalidated (referrers).
    """

    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note
        self._tags: dict[Repository, dict[str, TagRecord]] = {}
        self._manifests: dict[Repository, dict[Digest, _Known]] = {}
        self._held: dict[Repository, dict[Digest, int]] = {}
        self._holders: dict[Digest, set[Repository]] = {}  # of manifests, so that an evicted one is found at once
        self._seen: dict[Digest, dict[Repository, int]] = {}  # blobs that upstream confirmed, with no manifest at hand

    # Tags

    def tag(self, repository: Repository, name: str) -> TagRecord | None:
        return self._tags.get(repository, {}).get(name)

    def set_tag(self, repository: Repository, name: str, record: TagRecord) -> None:
        self._tags.setdefault(repository, {})[name] = record
        self._note(f"t {repository} {name}", [record.digest, record.checked])

    def drop_tag(self, repository: Repository, name: str) -> None:
        if self._tags.get(repository, {}).pop(name, None):
            self._note(f"t {repository} {name}", None)

    def tags(self, repository: Repository) -> list[str]:
        """Every tag known of the repository, in lexical order."""
        return sorted(name for name in self._tags.get(repository, {}) if "/" not in name)

    # What a repository holds

    def media_type(self, repository: Repository, digest: Digest) -> str | None:
        """The type of a manifest that the repository holds, or None."""
        known = self._manifests.get(repository, {}).get(digest)
        return known.media_type if known else None

    def blob_size(self, repository: Repository, digest: Digest) -> int | None:
        """The size of a blob that the repository was seen to hold, or None."""
        size = self._held.get(repository, {}).get(digest)
        return self._seen.get(digest, {}).get(repository) if size is None else size

    def add_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """The repository holds this manifest, and so the blobs and manifests that it names."""
        names = tuple((found.digest, found.size) for found in (*manifest.children, *manifest.blobs))
        self._add(repository, manifest.digest, _Known(manifest.media_type, names))
        self._note(f"m {repository} {manifest.digest}", [manifest.media_type, *names])

    def add_blob(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream says that the repository holds this blob."""
        if self.blob_size(repository, digest) != size:
            self._seen.setdefault(digest, {})[repository] = size
            self._note(f"h {repository} {digest}", [size])

    def forget(self, digest: Digest) -> None:
        """The bytes of this digest are gone. Of a manifest, so is what was known through it."""
        for repository in self._seen.pop(digest, ()):
            self._note(f"h {repository} {digest}", None)
        for repository in self._holders.pop(digest, ()):
            manifests = self._manifests[repository]
            gone = manifests.pop(digest)
            self._note(f"m {repository} {digest}", None)
            still = {found for known in manifests.values() for found, _ in known.names}
            held = self._held.get(repository, {})
            for name, _ in gone.names:
                if name not in still:
                    held.pop(name, None)
            for tag, record in list(self._tags.get(repository, {}).items()):
                if record.digest == digest:
                    self.drop_tag(repository, tag)

    def repositories(self) -> list[Repository]:
        """Every repository of which a manifest is cached."""
        return [repository for repository, found in self._manifests.items() if found]

    # Ledger

    def restore(self, records: Mapping[str, Record]) -> None:
        """Fill the catalog from the ledger, at start. Records that make no sense are skipped: upstream knows better."""
        for key, record in records.items():
            kind, _, rest = key.partition(" ")
            name, _, item = rest.partition(" ")
            try:
                if kind == "t":
                    tags = self._tags.setdefault(_repository(name), {})
                    tags[item] = TagRecord(Digest.parse(str(record[0])), float(record[1]))
                elif kind == "m":
                    media_type, *names = record
                    parsed = tuple((Digest.parse(str(found)), int(size)) for found, size in names)
                    self._add(_repository(name), Digest.parse(item), _Known(str(media_type), parsed))
                elif kind == "h":
                    self._seen.setdefault(Digest.parse(item), {})[_repository(name)] = int(record[0])
            except (ValueError, TypeError, IndexError, OverflowError, MillpondError):
                continue

    def records(self) -> dict[str, Record]:
        """Everything as records of the ledger."""
        found: dict[str, Record] = {}
        for repository, tags in self._tags.items():
            found |= {f"t {repository} {name}": [record.digest, record.checked] for name, record in tags.items()}
        for repository, manifests in self._manifests.items():
            for digest, known in manifests.items():
                found[f"m {repository} {digest}"] = [known.media_type, *known.names]
        for digest, seen in self._seen.items():
            found |= {f"h {repository} {digest}": [size] for repository, size in seen.items()}
        return found

    def keep_only(self, present: Iterable[Digest]) -> None:
        """Forget every manifest whose bytes are not among `present`."""
        for digest in (self._holders.keys() | self._seen.keys()) - set(present):
            self.forget(digest)

    def _add(self, repository: Repository, digest: Digest, known: _Known) -> None:
        self._manifests.setdefault(repository, {})[digest] = known
        self._holders.setdefault(digest, set()).add(repository)
        self._held.setdefault(repository, {}).update(known.names)


def _repository(text: str) -> Repository:
    upstream, _, path = text.partition("/")
    return Repository.parse(upstream, path)

"""What the cache knows beside the bytes: where tags point, and which repository was seen to hold what.

All of it lives in memory; every change is noted for the ledger. A blob's bytes are shared by all repositories, the
right to be served is not: only a repository that was seen to hold a digest gives it out (CVE-2024-39897).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Final

from proxy.cache.holdings import Holdings, TagRecord
from proxy.cache.ledger import Record
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.manifest import INDEXES, Manifest
from proxy.oci.names import Repository

__all__ = ["Cached", "Catalog", "TagRecord"]

# Of a ledger that is read, neighbouring records are mostly of few repositories.
_RECENT_NAMES: Final = 4096


@dataclass(frozen=True, slots=True)
class Cached:
    """An image as a repository has it: by a tag, with the moment of its last confirmation, or by its digest alone."""

    tag: str | None
    digest: Digest
    checked: float | None


class Catalog:
    """Tags, manifests and blobs by repository.

    `name` of a tag is any string: beside tags it is used for other answers that are revalidated (referrers).
    """

    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note
        self._holdings: dict[Repository, Holdings] = {}
        self._holders: dict[Digest, set[Repository]] = {}  # of manifests, so that an evicted one is found at once
        self._seen: dict[Digest, dict[Repository, int]] = {}  # blobs that upstream confirmed, with no manifest at hand
        self._told: Callable[[Repository, Digest, str | None], None] = _tell_nobody
        self._unpointed: Callable[[Repository, Digest, str], None] = _tell_nobody

    def watch(self, told: Callable[[Repository, Digest, str | None], None]) -> None:
        """From now on `told(repository, digest, tag)` hears where each tag points, again with each confirmation, and
        with None as the tag of each manifest that a repository holds."""
        self._told = told

    def watch_departures(self, unpointed: Callable[[Repository, Digest, str], None]) -> None:
        """From now on `unpointed(repository, digest, tag)` hears of each tag that goes because its manifest does."""
        self._unpointed = unpointed

    # Tags

    def tag(self, repository: Repository, name: str) -> TagRecord | None:
        holdings = self._holdings.get(repository)
        return holdings.tags.get(name) if holdings else None

    def set_tag(self, repository: Repository, name: str, record: TagRecord) -> None:
        self._of(repository).point(name, record)
        self._note(f"t {repository} {name}", [record.digest, record.checked])
        self._told(repository, record.digest, name)

    def drop_tag(self, repository: Repository, name: str) -> None:
        holdings = self._holdings.get(repository)
        if holdings and holdings.unpoint(name):
            self._note(f"t {repository} {name}", None)
            self._tidy(repository, holdings)

    def tags(self, repository: Repository) -> list[str]:
        """Every tag known of the repository, in lexical order."""
        holdings = self._holdings.get(repository)
        return sorted(name for name in holdings.tags if "/" not in name) if holdings else []

    def tags_of(self, repository: Repository, digest: Digest) -> list[str]:
        """The tags that point at a manifest, in lexical order."""
        holdings = self._holdings.get(repository)
        return sorted(name for name in holdings.tagged.get(digest, ()) if "/" not in name) if holdings else []

    def images(self, repository: Repository) -> Iterator[Cached]:
        """What is an image by itself: whatever has a tag, and each manifest that neither a tag nor another manifest
        names. The repository may change meanwhile."""
        holdings = self._holdings.get(repository)
        if holdings is None:
            return
        for name, record in list(holdings.tags.items()):
            if "/" not in name and record.digest in holdings.manifests:
                yield Cached(name, record.digest, record.checked)
        for digest in list(holdings.manifests):
            if digest not in holdings.tagged and digest not in holdings.sizes:
                yield Cached(None, digest, None)

    # What a repository holds

    def media_type(self, repository: Repository, digest: Digest) -> str | None:
        """The type of a manifest that the repository holds, or None."""
        holdings = self._holdings.get(repository)
        known = holdings.manifests.get(digest) if holdings else None
        return known.media_type if known else None

    def blob_size(self, repository: Repository, digest: Digest) -> int | None:
        """The size of a blob that the repository was seen to hold, or None. What an index names is none: some
        registries take one without a look for that, so that naming would be enough to be given another's blob."""
        holdings = self._holdings.get(repository)
        size = holdings.sizes.get(digest) if holdings and digest not in holdings.children else None
        return self._seen.get(digest, {}).get(repository) if size is None else size

    def stated_size(self, repository: Repository, digest: Digest) -> int:
        """The size by which a manifest of the repository names it; 0 where none does."""
        holdings = self._holdings.get(repository)
        return holdings.sizes.get(digest, 0) if holdings else 0

    def names(self, repository: Repository, digest: Digest) -> tuple[Digest, ...]:
        """What a manifest of the repository names itself; nothing where there is no such manifest."""
        holdings = self._holdings.get(repository)
        known = holdings.manifests.get(digest) if holdings else None
        return known.names if known else ()

    def named(self, repository: Repository, digest: Digest) -> Iterator[tuple[Digest, int]]:
        """All that a manifest names, and what the images of an index name, each once and with its size, in bytes. The
        repository may change meanwhile."""
        seen, waiting = {digest}, [digest]
        while waiting:
            manifest = waiting.pop()
            index = self.media_type(repository, manifest) in INDEXES
            for name in self.names(repository, manifest):
                if name not in seen:
                    seen.add(name)
                    if index:
                        waiting.append(name)
                    yield name, self.stated_size(repository, name)

    def manifests(self, repository: Repository) -> list[Digest]:
        """Every manifest that the repository holds."""
        holdings = self._holdings.get(repository)
        return list(holdings.manifests) if holdings else []

    def is_named(self, repository: Repository, digest: Digest) -> bool:
        """Whether a manifest of the repository names it."""
        holdings = self._holdings.get(repository)
        return holdings is not None and digest in holdings.sizes

    def holders(self, digest: Digest) -> set[Repository]:
        """The repositories that hold a manifest."""
        return set(self._holders.get(digest, ()))

    def add_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """The repository holds this manifest, and so the blobs and manifests that it names: but for foreign layers,
        which no registry has looked for when it took the manifest."""
        held = (*manifest.children, *(blob for blob in manifest.blobs if not blob.is_foreign))
        names = tuple((found.digest, found.size) for found in held)
        self._add(repository, manifest.digest, manifest.media_type, names)
        self._note(f"m {repository} {manifest.digest}", [manifest.media_type, *names])
        self._told(repository, manifest.digest, None)

    def add_blob(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream says that the repository holds this blob."""
        if self.blob_size(repository, digest) != size:
            self._seen.setdefault(digest, {})[repository] = size
            self._note(f"h {repository} {digest}", [size])

    def forget(self, digest: Digest) -> None:
        """The bytes of this digest are gone. Of a manifest, so is what was known through it.

        Costs what the manifest names, however large the cache and its repository are.
        """
        for repository in self._seen.pop(digest, ()):
            self._note(f"h {repository} {digest}", None)
        for repository in self.holders(digest):
            self.drop_manifest(repository, digest)

    def drop_manifest(self, repository: Repository, digest: Digest) -> None:
        """The repository no longer holds this manifest: its tags go, and what was known through it."""
        holders = self._holders.get(digest, set())
        if repository not in holders:
            return
        holders.remove(repository)
        if not holders:
            del self._holders[digest]
        holdings = self._holdings[repository]
        holdings.remove(digest)
        self._note(f"m {repository} {digest}", None)
        for tag in list(holdings.tagged.get(digest, ())):
            holdings.unpoint(tag)
            self._note(f"t {repository} {tag}", None)
            self._unpointed(repository, digest, tag)
        self._tidy(repository, holdings)

    def repositories(self) -> list[Repository]:
        """Every repository of which a manifest is cached."""
        return [repository for repository, holdings in self._holdings.items() if holdings.manifests]

    def digests(self) -> list[Digest]:
        """What anything is known of."""
        return [*self._holders, *self._seen]

    # Ledger

    def restore(self, records: Mapping[str, Record], parse: Callable[[str], Digest] = Digest.parse) -> None:
        """Take in records of the ledger, at start. Those that make no sense are skipped: upstream knows better.

        `parse` makes digests of text, and may give the same object for the same text.
        """
        for key, record in records.items():
            kind, _, rest = key.partition(" ")
            name, _, item = rest.partition(" ")
            try:
                if kind == "t":
                    tag = TagRecord(parse(str(record[0])), _moment(record[1]))
                    self._of(_repository(name)).point(item, tag)
                elif kind == "m":
                    media_type, *names = record
                    parsed = [(parse(str(found)), _size(size)) for found, size in names]
                    self._add(_repository(name), parse(item), str(media_type), parsed)
                elif kind == "h":
                    size, digest = _size(record[0]), parse(item)
                    self._seen.setdefault(digest, {})[_repository(name)] = size
            except (ValueError, TypeError, IndexError, OverflowError, MillpondError):
                continue

    def records(self) -> dict[str, Record]:
        """Everything as records of the ledger."""
        found: dict[str, Record] = {}
        for repository, holdings in self._holdings.items():
            for name, record in holdings.tags.items():
                found[f"t {repository} {name}"] = [record.digest, record.checked]
            for digest, known in holdings.manifests.items():
                names = ((named, holdings.sizes[named]) for named in known.names)
                found[f"m {repository} {digest}"] = [known.media_type, *names]
        for digest, seen in self._seen.items():
            found |= {f"h {repository} {digest}": [size] for repository, size in seen.items()}
        return found

    def keep_only(self, present: Container[Digest], among: Iterable[Digest] | None = None) -> None:
        """Forget what is not `present`; of all that is known, or only of `among`."""
        for digest in self.digests() if among is None else among:
            if digest not in present:
                self.forget(digest)

    def _of(self, repository: Repository) -> Holdings:
        return self._holdings.setdefault(repository, Holdings())

    def _add(
        self, repository: Repository, digest: Digest, media_type: str, names: Iterable[tuple[Digest, int]]
    ) -> None:
        self._of(repository).add(digest, media_type, names)
        self._holders.setdefault(digest, set()).add(repository)

    def _tidy(self, repository: Repository, holdings: Holdings) -> None:
        if not holdings.tags and not holdings.manifests:
            del self._holdings[repository]


def _tell_nobody(_repository: Repository, _digest: Digest, _tag: str | None) -> None:
    """Nobody watches."""


@lru_cache(_RECENT_NAMES)
def _repository(text: str) -> Repository:
    upstream, _, path = text.partition("/")
    return Repository.parse(upstream, path)


def _size(value: object) -> int:
    """It goes out as Content-Length."""
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError("not a size")
    return value


def _moment(value: float) -> float:
    """JSON has NaN and Infinity here: such a tag would never stand in for an upstream that fails."""
    if not isfinite(value):
        raise ValueError("not a moment")
    return float(value)

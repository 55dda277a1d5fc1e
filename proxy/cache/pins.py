"""Pins: images that never make room for others, with all that they name. Durable.

A pin by tag follows its tag when that moves. Where upstream has deleted the tag, or its manifest was damaged, what it
pointed at last stays until the tag is seen again, or unpinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from proxy.cache.catalog import Catalog
from proxy.cache.index import Index
from proxy.cache.register import Register
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, RequestError
from proxy.oci.names import Image, Reference, Repository, Tag, parse_reference

# Each has the digests of one image in memory, some kilobytes. More of them is a cache whose max_size is too small.
MAX_PINS: Final = 10_000


@dataclass(slots=True)
class Pin:
    """`digest` is what is kept, with all that it names; `since` is wall time in seconds."""

    repository: Repository
    reference: Reference
    digest: Digest
    since: float
    held: set[Digest] = field(default_factory=set, repr=False)

    @property
    def image(self) -> Image:
        reference = self.reference
        return Image(self.repository, *((reference, None) if isinstance(reference, Tag) else (None, reference)))


class Pins:
    """What is pinned. All methods are for the event loop, and none of them blocks."""

    def __init__(self, register: Register, catalog: Catalog, index: Index, clock: Callable[[], float]) -> None:
        """`register` keeps the pins over a restart; `index` is told what must stay."""
        self._register = register
        self._catalog = catalog
        self._index = index
        self._clock = clock
        self._pins: dict[Repository, dict[Reference, Pin]] = {}
        self._holders: Counter[Digest] = Counter()  # pins that hold it
        self._restore()
        catalog.watch(self._seen)

    def __iter__(self) -> Iterator[Pin]:
        for pins in self._pins.values():
            yield from pins.values()

    def __len__(self) -> int:
        return sum(map(len, self._pins.values()))

    def get(self, repository: Repository, reference: Reference) -> Pin | None:
        return self._pins.get(repository, {}).get(reference)

    def holds(self, digest: Digest) -> bool:
        """Whether some pin keeps it."""
        return digest in self._holders

    def pin(self, repository: Repository, reference: Reference, digest: Digest) -> Pin:
        """Keep the image, which is `digest` at the moment. Once pinned, it stays as it is.

        Raises:
            RequestError: there are MAX_PINS.
        """
        if found := self.get(repository, reference):
            return found
        if len(self) >= MAX_PINS:
            raise RequestError(f"{MAX_PINS} images are pinned, which is the limit; unpin some")
        pin = Pin(repository, reference, digest, self._clock())
        self._enter(pin)
        self._save(pin)
        return pin

    def unpin(self, repository: Repository, reference: Reference) -> Pin | None:
        """The pin that is no more; None where there was none. What no other pin holds may go again."""
        pins = self._pins.get(repository, {})
        pin = pins.pop(reference, None)
        if pin is None:
            return None
        if not pins:
            del self._pins[repository]
        self._release(pin.held)
        self._register.note(_key(pin), None)
        return pin

    def _seen(self, repository: Repository, digest: Digest, tag: str | None) -> None:
        """The catalog has learned of a manifest, or where a tag points."""
        pins = self._pins.get(repository)
        if pins is None:
            return
        if tag is None:
            for pin in pins.values():
                if digest in pin.held:
                    self._hold(pin, self._catalog.named(repository, digest))
        elif (moved := pins.get(Tag(tag))) and moved.digest != digest:
            before, moved.held, moved.digest = moved.held, set(), digest
            self._hold(moved, self._catalog.named(repository, digest))
            self._release(before)
            self._save(moved)

    def _restore(self) -> None:
        for key, record in list(self._register.held.items()):
            try:
                name, _, reference = key.partition(" ")
                upstream, _, path = name.partition("/")
                digest, since = record
                pin = Pin(
                    Repository.parse(upstream, path),
                    parse_reference(reference),
                    Digest.parse(str(digest)),
                    float(since),
                )
            except (ValueError, TypeError, MillpondError):
                self._register.note(key, None)  # it says nothing that could be kept
                continue
            if isinstance(pin.reference, Tag) and (tag := self._catalog.tag(pin.repository, pin.reference)):
                pin.digest = tag.digest
            self._enter(pin)

    def _enter(self, pin: Pin) -> None:
        self._pins.setdefault(pin.repository, {})[pin.reference] = pin
        self._hold(pin, self._catalog.named(pin.repository, pin.digest))

    def _hold(self, pin: Pin, named: Iterable[tuple[Digest, int]]) -> None:
        for digest in (pin.digest, *(name for name, _ in named)):
            if digest not in pin.held:
                pin.held.add(digest)
                self._holders[digest] += 1
                self._index.hold(digest)

    def _release(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            self._holders[digest] -= 1
            if not self._holders[digest]:
                del self._holders[digest]
                self._index.release(digest)

    def _save(self, pin: Pin) -> None:
        self._register.note(_key(pin), [pin.digest, pin.since])


def _key(pin: Pin) -> str:
    return f"{pin.repository} {pin.reference}"

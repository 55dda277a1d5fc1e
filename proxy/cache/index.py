"""The index: which blobs are on disk, in order of last use, and how many bytes they are. Memory only, no I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite

from proxy.cache.ledger import Record
from proxy.oci.digest import Digest


@dataclass(slots=True)
class Entry:
    """A blob on disk: its size in bytes, its file's modification time in nanoseconds, and its last use (wall time)."""

    size: int
    changed: int
    used: float


class Index:
    """Iterating yields the digests, least recently used first. Every change is noted for the ledger."""

    def __init__(
        self, note: Callable[..., None], forgotten: Callable[[Digest], None], clock: Callable[[], float]
    ) -> None:
        """`note(key, record, lazy=)` writes behind; `forgotten(digest)` is told of what is gone."""
        self._note = note
        self._forgotten = forgotten
        self._clock = clock
        self._entries: OrderedDict[Digest, Entry] = OrderedDict()
        self.bytes = 0
        # What the ledger says, and no sweep has found yet. Kept, for to list all entries takes a tenth of a second.
        self.unconfirmed: set[Digest] = set()

    def __contains__(self, digest: object) -> bool:
        return digest in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._entries)

    def get(self, digest: Digest) -> Entry | None:
        return self._entries.get(digest)

    def touch(self, digest: Digest) -> None:
        """The blob was used just now."""
        if entry := self._entries.get(digest):
            entry.used = self._clock()
            self._entries.move_to_end(digest)
            self._note_entry(digest, entry, lazy=True)

    def add(self, digest: Digest, size: int, changed: int, used: float | None = None) -> None:
        """The blob is on disk, and was last used then, or now."""
        self._pop(digest)
        self._insert(digest, Entry(size, changed, self._clock() if used is None else used))

    def forget(self, digest: Digest) -> Entry | None:
        """The blob is gone; what was known of it, if anything."""
        entry = self._pop(digest)
        if entry is not None:
            self._note(f"b {digest}", None)
            self._forgotten(digest)
        return entry

    def oldest(self, size: int) -> list[tuple[Digest, Entry]]:
        """The least recently used blobs that are `size` bytes together, or a little more."""
        found = []
        for digest, entry in self._entries.items():
            if size <= 0:
                break
            size -= entry.size
            found.append((digest, entry))
        return found

    def readmit(self, gone: Iterable[tuple[Digest, Entry]]) -> None:
        """Take back blobs that were forgotten and are on disk still, as the least recently used."""
        for digest, entry in gone:
            if digest not in self._entries:
                self._insert(digest, entry)
                self._entries.move_to_end(digest, last=False)

    def restore(self, records: Iterable[tuple[Digest, Record]]) -> None:
        """Fill from the ledger, at start. A record that makes no sense is left for the sweep to find."""
        entries: dict[Digest, Entry] = {}
        for digest, record in records:
            try:
                size, changed, used = record
                entry = Entry(int(size), int(changed), float(used))
            except (TypeError, ValueError, OverflowError):
                continue
            if entry.size >= 0 and isfinite(entry.used):  # JSON has NaN here, which has no place in an order
                entries[digest] = entry
        self._entries = OrderedDict(
            (digest, entries[digest]) for digest in sorted(entries, key=lambda key: entries[key].used)
        )
        now = self._clock()
        # Once they are in order: a clock that was set back must not make them the newest for ever.
        for entry in entries.values():
            entry.used = min(entry.used, now)
        self.bytes = sum(entry.size for entry in self._entries.values())
        self.unconfirmed = set(self._entries)

    def records(self) -> dict[str, Record]:
        """Every entry as a record of the ledger."""
        return {f"b {digest}": [e.size, e.changed, e.used] for digest, e in self._entries.items()}

    def _insert(self, digest: Digest, entry: Entry) -> None:
        self._entries[digest] = entry
        self.bytes += entry.size
        self._note_entry(digest, entry)

    def _pop(self, digest: Digest) -> Entry | None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self.bytes -= entry.size
        return entry

    def _note_entry(self, digest: Digest, entry: Entry, *, lazy: bool = False) -> None:
        self._note(f"b {digest}", [entry.size, entry.changed, entry.used], lazy=lazy)

"""The index: which blobs are on disk, in order of last use, and how many bytes they are. Memory only, no I/O.

What is held (pinned) stands apart from what may go: whoever looks for room never has to step over it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from math import isfinite

from proxy.cache.departures import Why
from proxy.cache.ledger import Record
from proxy.oci.digest import Digest


@dataclass(slots=True)
class Entry:
    """A blob on disk: its size in bytes, its file's modification time in nanoseconds, and its last use (wall time)."""

    size: int
    changed: int
    used: float


class Index:
    """Iterating yields the digests, least recently used first, and behind them those that are held. Every change is
    noted for the ledger."""

    def __init__(
        self, note: Callable[..., None], forgotten: Callable[[Digest], None], clock: Callable[[], float]
    ) -> None:
        """`note(key, record, lazy=)` writes behind; `forgotten(digest)` is told of what is gone."""
        self._note = note
        self._forgotten = forgotten
        self._clock = clock
        self._left: Callable[[Digest, Why], None] = _tell_nobody
        self._entries: OrderedDict[Digest, Entry] = OrderedDict()  # what may go
        self._kept: dict[Digest, Entry] = {}  # what is held
        self._held: set[Digest] = set()  # the same, and what is to be held once it is here
        self.bytes = 0  # of all
        self.held_bytes = 0
        # What the ledger says, and no sweep has found yet. Kept, for to list all entries takes a tenth of a second.
        self.unconfirmed: set[Digest] = set()

    def __contains__(self, digest: object) -> bool:
        return digest in self._entries or digest in self._kept

    def __len__(self) -> int:
        return len(self._entries) + len(self._kept)

    def __iter__(self) -> Iterator[Digest]:
        return chain(self._entries, self._kept)

    def get(self, digest: Digest) -> Entry | None:
        return self._entries.get(digest) or self._kept.get(digest)

    def holds(self, digest: Digest) -> bool:
        """Whether it must not go to make room, on disk or not."""
        return digest in self._held

    def hold(self, digest: Digest) -> None:
        """From now on it does not go to make room; it need not be here yet."""
        self._held.add(digest)
        if entry := self._entries.pop(digest, None):
            self._kept[digest] = entry
            self.held_bytes += entry.size

    def release(self, digest: Digest) -> None:
        """It may go again. That counts as a use: whoever had it held until now may well want it still."""
        self._held.discard(digest)
        if entry := self._kept.pop(digest, None):
            self._entries[digest] = entry
            self.held_bytes -= entry.size
            self.touch(digest)

    def touch(self, digest: Digest) -> None:
        """The blob was used just now."""
        if entry := self._entries.get(digest):
            entry.used = self._clock()
            self._entries.move_to_end(digest)
        elif entry := self._kept.get(digest):
            entry.used = self._clock()
        else:
            return
        self._note_entry(digest, entry, lazy=True)

    def add(self, digest: Digest, size: int, changed: int, used: float | None = None) -> None:
        """The blob is on disk, and was last used then, or now."""
        self._pop(digest)
        self._insert(digest, Entry(size, changed, self._clock() if used is None else used))

    def watch(self, left: Callable[[Digest, Why], None]) -> None:
        """From now on `left(digest, why)` hears of each blob that goes."""
        self._left = left

    def forget(self, digest: Digest, why: Why = "missing") -> Entry | None:
        """The blob is gone; what was known of it, if anything."""
        entry = self._pop(digest)
        if entry is not None:
            self._note(f"b {digest}", None)
            self._left(digest, why)
            self._forgotten(digest)
        return entry

    def oldest(self, size: int) -> list[tuple[Digest, Entry]]:
        """The least recently used blobs that are `size` bytes together, or a little more. None of them is held."""
        found = []
        for digest, entry in self._entries.items():
            if size <= 0:
                break
            size -= entry.size
            found.append((digest, entry))
        return found

    def next_to_go(self, count: int) -> list[tuple[Digest, Entry]]:
        """The least recently used blobs, so many of them. None of them is held."""
        return list(islice(self._entries.items(), count))

    def readmit(self, gone: Iterable[tuple[Digest, Entry]]) -> None:
        """Take back blobs that were forgotten and are on disk still, as the least recently used."""
        for digest, entry in gone:
            if digest not in self:
                self._insert(digest, entry)
                if digest in self._entries:
                    self._entries.move_to_end(digest, last=False)

    def restore(self, records: Iterable[tuple[Digest, Record]]) -> None:
        """Fill from the ledger, at start, before anything is held. A record that makes no sense is left for the sweep
        to find."""
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
        return {f"b {digest}": [e.size, e.changed, e.used] for digest, e in self._all()}

    def _all(self) -> Iterator[tuple[Digest, Entry]]:
        return chain(self._entries.items(), self._kept.items())

    def _insert(self, digest: Digest, entry: Entry) -> None:
        if digest in self._held:
            self._kept[digest] = entry
            self.held_bytes += entry.size
        else:
            self._entries[digest] = entry
        self.bytes += entry.size
        self._note_entry(digest, entry)

    def _pop(self, digest: Digest) -> Entry | None:
        entry = self._entries.pop(digest, None)
        if entry is None and (entry := self._kept.pop(digest, None)) is not None:
            self.held_bytes -= entry.size
        if entry is not None:
            self.bytes -= entry.size
        return entry

    def _note_entry(self, digest: Digest, entry: Entry, *, lazy: bool = False) -> None:
        self._note(f"b {digest}", [entry.size, entry.changed, entry.used], lazy=lazy)


def _tell_nobody(_digest: Digest, _why: Why) -> None:
    """Until somebody watches."""

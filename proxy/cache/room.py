"""The room on disk: how many bytes may be there, what was promised to what is arriving, and who has to go for it.

Memory only, no I/O.
"""

from __future__ import annotations

import structlog

from proxy.cache.files import IncomingFile
from proxy.cache.index import Entry, Index
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure
from proxy.oci.figures import sized


class Room:
    """A budget of bytes. What is there makes room for what arrives, least recently used first."""

    def __init__(self, index: Index, max_size: int, min_free: int) -> None:
        self._index = index
        self.max_size = max_size  # bytes that may be stored
        self.min_free = min_free  # bytes that the file system is to have left
        self.crowded = ""  # why what is pinned left no room for what arrived last; empty when it did
        self._arriving: set[IncomingFile] = set()
        self._reserved = 0  # bytes promised to what is arriving

    @property
    def accounted(self) -> int:
        """Bytes accounted for: stored, and promised to what is arriving."""
        return self._index.bytes + self._reserved

    def refuses(self, size: int) -> str:
        """Why so many bytes have no place even in an empty cache; empty when they have."""
        return "" if size <= self.max_size else f"{sized(size)} are more than cache.max_size ({sized(self.max_size)})"

    def promise(self, incoming: IncomingFile, free: int) -> list[tuple[Digest, Entry]]:
        """Promise a file its size where the file system has `free` bytes left, and name who goes for it: the index has
        forgotten them. No await: two arrivals cannot be promised the same.

        Raises:
            DiskFailure: it has no place. Nothing was forgotten.
        """
        # What others were promised and have not written yet is still counted as free by the file system.
        unwritten = self._reserved - sum(other.written for other in self._arriving)
        lacking = max(self.accounted + incoming.size - self.max_size, unwritten + incoming.size + self.min_free - free)
        if lacking > self._index.bytes - self._index.held_bytes:
            raise self._refusal(incoming.size, free)
        self.crowded = ""
        victims = self._index.oldest(lacking)
        for digest, _ in victims:
            self._index.forget(digest, "evicted")
        self._arriving.add(incoming)
        self._reserved += incoming.size
        return victims

    def release(self, incoming: IncomingFile) -> None:
        """The promise is over: the file is stored, or will never be."""
        self._arriving.remove(incoming)
        self._reserved -= incoming.size

    def _refusal(self, size: int, free: int) -> DiskFailure:
        held = self._index.held_bytes
        pinned = f" and {sized(held)} that are pinned (unpin an image to make room)" if held else ""
        reason = (
            f"no room for {sized(size)} beside {sized(self._reserved)} that are arriving{pinned}: cache.max_size is "
            f"{sized(self.max_size)}, {sized(free)} are free, cache.min_free keeps {sized(self.min_free)} of them"
        )
        if held:  # else it passes: what arrives will have landed, and may go
            if not self.crowded:  # once, however many pulls pass through
                structlog.get_logger().warning("no room in the disk cache, pulls pass through", reason=reason)
            self.crowded = reason
        return DiskFailure(reason)

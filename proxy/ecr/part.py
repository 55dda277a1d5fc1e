"""The body of UploadLayerPart, made in small steps.

A part of 10 MiB becomes 14 MB of base64 inside JSON. Made in one go, as botocore does it, that holds the
interpreter's lock for tens of milliseconds, in which no client is served. Here each piece is encoded when it is first
read, so that hashing and sending, which do not need the lock, come in between.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Final

# Bytes of the part in one step: 0.2 ms with the lock held. A multiple of three, so that the pieces' base64 joins up.
PIECE: Final = 192 * 1024


class PartBody:
    """A request's body as botocore takes it: it reads it to sign it, goes back, and reads it again to send it."""

    def __init__(self, head: bytes, part: bytes, tail: bytes) -> None:
        """`part` goes between `head` and `tail` as base64."""
        self._ends = head, tail
        self._part = memoryview(part)
        self._pieces: list[bytes] = []  # as far as they have been made
        self._next = 0
        self._size = len(head) + (len(part) + 2) // 3 * 4 + len(tail)
        self._steps = self._encoded()

    def __len__(self) -> int:
        return self._size

    def read(self, _size: int = -1) -> bytes:
        """The next piece, whatever size is asked for: blocks of 16 KiB, as urllib3 asks for, would cost a call each."""
        if self._next == len(self._pieces):
            piece = next(self._steps, b"")
            if not piece:
                return b""
            self._pieces.append(piece)
        piece = self._pieces[self._next]
        self._next += 1
        return piece

    def seek(self, position: int) -> None:
        """Back to the beginning, which is the only place that anybody goes back to."""
        if position != 0:
            raise ValueError("the body of a part is read from its beginning")
        self._next = 0

    def tell(self) -> int:
        return sum(len(piece) for piece in self._pieces[: self._next])

    def _encoded(self) -> Iterator[bytes]:
        yield self._ends[0]
        for start in range(0, len(self._part), PIECE):
            yield binascii.b2a_base64(self._part[start : start + PIECE], newline=False)
        yield self._ends[1]

"""A blob's content on its way to a reader: a part of a file wherever it is on the disk, else bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `offset` to `offset + count` of an open file, to be sent without copying them through Python."""

    file: FileIO
    offset: int
    count: int


Piece = Segment | bytes

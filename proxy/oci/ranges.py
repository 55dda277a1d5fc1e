"""The Range header of RFC 9110, as far as a registry serves it: one range, exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from proxy.oci.errors import RangeInvalid

# Nothing longer can be one sane range; it also bounds the work that a hostile header causes.
_MAX_HEADER: Final = 64
_SINGLE: Final = re.compile(r"bytes=\s*(\d*)-(\d*)\s*\Z", re.IGNORECASE | re.ASCII)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` up to and not including `stop`, of content that has `size` bytes."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        """The Content-Range header of a 206 with this range."""
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range that `header` asks for of `size` bytes; None where the whole content is the right answer.

    The whole is right when there is no header, when it is of another unit or not a range at all, when it asks for
    several ranges (RFC 9110 lets a server ignore those), and for empty content, of which no range exists.

    Raises:
        RangeInvalid: the range starts at or beyond the end, is empty, or ends before it starts.
    """
    if header is None or size == 0 or len(header) > _MAX_HEADER:
        return None
    match = _SINGLE.match(header)
    if not match or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start = int(first)
        stop = min(int(last) + 1, size) if last else size
    if start >= size or stop <= start:
        raise RangeInvalid(size)
    return ByteRange(start, stop, size)


def parse_content_range(header: str) -> tuple[int, int, int | None] | None:
    """(start, stop, size or None for `*`) of an upstream's Content-Range; None when it is malformed or absurd."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if not match:
        return None
    start, stop = int(match.group(1)), int(match.group(2)) + 1
    size = None if match.group(3) == "*" else int(match.group(3))
    if stop <= start or (size is not None and stop > size):
        return None
    return start, stop, size

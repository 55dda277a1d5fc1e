"""How many connections may bring one blob, and how many all of an upstream's blobs together."""

from __future__ import annotations

import time
from typing import Final

# Beyond each blob's first connection; what registries and their CDNs take from one address without complaint.
_EXTRA: Final = 32
# An upstream that ignored ranges or refused a second connection is asked for whole blobs for so long.
_WARY_SECONDS: Final = 600.0


class Lanes:
    """The connections to one upstream beyond the first of each blob."""

    def __init__(self, per_blob: int) -> None:
        """`per_blob` connections at most bring one blob; 1 turns parallel fetching off."""
        self._per_blob = per_blob
        self._free = _EXTRA
        self._wary_until = 0.0

    @property
    def per_blob(self) -> int:
        """Connections that one blob may have now."""
        return 1 if time.monotonic() < self._wary_until else self._per_blob

    def take(self) -> bool:
        """Reserve one more connection; whoever got it gives it back."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        self._free += 1

    def beware(self) -> None:
        """Upstream does not bear ranges, or several connections: leave both alone for a while."""
        self._wary_until = time.monotonic() + _WARY_SECONDS

"""How long an answer stands: tags by policy, refusals for moments."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from proxy.oci.errors import MillpondError

# With a cached answer at hand upstream gets so many seconds to confirm it; after that the check goes on without us.
PATIENCE: Final = 5.0
# Long enough to absorb a stampede for something that does not exist, short enough that a push just made is seen.
_REFUSAL_SECONDS: Final = 5.0
# Names come from clients; what is remembered of wrong ones is bounded.
_REFUSALS: Final = 10_000


@dataclass(frozen=True, slots=True)
class TagPolicy:
    """How one upstream's tags age. Times in seconds."""

    ttl: float = 300.0  # revalidate with upstream after this
    stale_for: float = 7 * 86400.0  # serve the last known digest so long beyond, while upstream fails
    keep_deleted: bool = False  # serve the last known digest of a tag that upstream has deleted

    def fresh(self, checked: float, now: float) -> bool:
        """Whether a tag confirmed at `checked` needs no asking. One from the future does: a clock was wrong then."""
        return 0 <= now - checked < self.ttl

    def usable(self, checked: float, now: float) -> bool:
        """Whether a tag confirmed at `checked` may stand in for an upstream that fails. One from the future may for
        no longer than one from the past: a wrong clock must not make it immortal."""
        return abs(now - checked) < self.ttl + self.stale_for


class Refusals:
    """What upstream refused a moment ago (unknown, denied), so that it is not asked again at once."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, tuple[float, MillpondError]] = OrderedDict()

    def remember(self, *key: object, refusal: MillpondError) -> None:
        self._known[key] = (time.monotonic() + _REFUSAL_SECONDS, refusal)
        self._known.move_to_end(key)
        if len(self._known) > _REFUSALS:
            self._known.popitem(last=False)

    def check(self, *key: object) -> None:
        """Raise the refusal that is remembered for `key`, if any."""
        if entry := self._known.get(key):
            until, refusal = entry
            if time.monotonic() < until:
                raise type(refusal)(*refusal.args)
            del self._known[key]

"""What was in the cache and is no more, and why it went: so that a miss can be told from a first pull."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from proxy.cache.register import Register
from proxy.oci.digest import Digest
from proxy.oci.names import Repository

Why = Literal["evicted", "damaged", "missing", "purged", "deleted"]
"""evicted: to make room; missing: the file was gone; purged: by an operator; deleted: a tag, at upstream."""

# Digests and tags that are remembered, by some hundred bytes each; those that went longest ago are forgotten first.
MAX_DEPARTURES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Departure:
    """Why something went, and how many seconds ago."""

    why: Why
    age: float


class Departures:
    """Digests, and the tags that pointed at them. Durable, and bounded."""

    def __init__(self, register: Register, clock: Callable[[], float], most: int = MAX_DEPARTURES) -> None:
        self._register = register
        self._clock = clock
        self._most = most
        known = [(key, record) for key, record in register.held.items() if _makes_sense(record)]
        self._records: OrderedDict[str, list[Any]] = OrderedDict(sorted(known, key=lambda item: float(item[1][0])))

    def left(self, digest: Digest, why: Why) -> None:
        """The bytes of this digest are gone."""
        self._keep(digest, [self._clock(), why])

    def unpointed(self, repository: Repository, digest: Digest, tag: str) -> None:
        """The tag is no longer known, for the manifest that it pointed at has gone, or is about to go."""
        self._keep(f"{repository}:{tag}", [self._clock(), digest])

    def deleted(self, repository: Repository, tag: str) -> None:
        """Upstream no longer has the tag."""
        self._keep(f"{repository}:{tag}", [self._clock(), "deleted"])

    def returned(self, repository: Repository, tag: str) -> None:
        """The tag is known again."""
        if self._records.pop(f"{repository}:{tag}", None):
            self._register.note(f"{repository}:{tag}", None)

    def of(self, digest: Digest) -> Departure | None:
        """Why a digest that is not here went the last time; None where nobody remembers that it was here."""
        record = self._records.get(digest)
        if record is None or record[1] not in get_args(Why):
            return None
        return Departure(record[1], self._clock() - record[0])

    def of_tag(self, repository: Repository, tag: str) -> Departure | None:
        """The same of a tag."""
        record = self._records.get(f"{repository}:{tag}")
        if record is None:
            return None
        if record[1] == "deleted":
            return Departure("deleted", self._clock() - record[0])
        # Where its manifest is still here, for another repository, this one was told to let go of it.
        return self.of(Digest(record[1])) or Departure("purged", self._clock() - record[0])

    def _keep(self, key: str, record: list[Any]) -> None:
        self._records[key] = record
        self._records.move_to_end(key)
        self._register.note(key, record)
        while len(self._records) > self._most:
            self._register.note(self._records.popitem(last=False)[0], None)


def _makes_sense(record: list[Any]) -> bool:
    return len(record) == 2 and isinstance(record[0], float) and math.isfinite(record[0]) and isinstance(record[1], str)

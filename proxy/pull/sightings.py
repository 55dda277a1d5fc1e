"""What each tag was seen to point at, and since when. Durable: the age of a digest outlives the process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.cache.register import Register
from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid
from proxy.oci.names import Repository, Tag

# Of one tag. What moves hourly has more digests within a week: some of those that it passes over never come of age.
MAX_SIGHTINGS: Final = 64
# Old ones that are kept of each tag: where upstream has deleted the newest of them, the next one still stands in.
MAX_SETTLED: Final = 4
# Tags that are remembered, by some hundred bytes each; the one that was asked for least lately is forgotten first.
MAX_TAGS: Final = 100_000


@dataclass(slots=True)
class Sighting:
    """A digest that a tag pointed at. `first` is wall time in seconds. `withdrawn`: the tag went back from it."""

    digest: Digest
    first: float
    withdrawn: bool = False


class Sightings:
    def __init__(self, register: Register, max_tags: int = MAX_TAGS) -> None:
        self._register = register
        self._max_tags = max_tags
        self._records = OrderedDict(register.held)

    def apart(self, repository: Repository, tag: Tag | None) -> Sightings:
        """What is known of one tag, to go on with by itself: nothing that is seen there is kept."""
        key = f"{repository} {tag}"
        register = Register(None)
        if key in self._records:
            register.held[key] = self._records[key]
        return Sightings(register, self._max_tags)

    def see(
        self,
        repository: Repository,
        tag: Tag,
        digest: Digest,
        *,
        now: float,
        settled: Callable[[Sighting], bool],
        confirmed: bool,
    ) -> list[Sighting]:
        """The tag points at `digest`. All that it was seen to point at, in the order in which they were first seen.

        `settled` says which are old enough to be served: of those the newest are kept. Without `confirmed` upstream
        has not said so itself: then it is no news of what the tag pointed at before.
        """
        key = f"{repository} {tag}"
        history = _read(self._records.get(key), now)
        number = next((number for number, one in enumerate(history) if one.digest == digest), len(history))
        if number == len(history):
            history.append(Sighting(digest, now))
        for one in history[number:] if confirmed else ():
            # A tag that goes back disowns what it pointed at since; one that comes to it again takes it up again.
            one.withdrawn = one.digest != digest
        history = _pruned(history, digest, settled)
        record = [[one.digest, one.first, int(one.withdrawn)] for one in history]
        if record != self._records.get(key):
            self._records[key] = record
            self._register.note(key, record)
        self._records.move_to_end(key)
        while len(self._records) > self._max_tags:
            self._register.note(self._records.popitem(last=False)[0], None)
        return history


def _read(record: object, now: float) -> list[Sighting]:
    """A record's sightings. What makes no sense is left out: that digest is new again, and nobody gets it too early."""
    found = []
    for entry in record if isinstance(record, list) else ():
        try:
            digest, seen, withdrawn = entry
            # Seen in the future, or never: a clock was wrong then, and the wait begins now.
            first = float(seen) if 0 < float(seen) <= now else now
            found.append(Sighting(Digest.parse(str(digest)), first, bool(withdrawn)))
        except (TypeError, ValueError, OverflowError, DigestInvalid):
            continue
    return found


def _pruned(history: list[Sighting], current: Digest, settled: Callable[[Sighting], bool]) -> list[Sighting]:
    old = [one.digest for one in history if settled(one) and not one.withdrawn and one.digest != current]
    surplus = set(old[:-MAX_SETTLED])
    kept = [one for one in history if one.digest not in surplus]
    while len(kept) > MAX_SIGHTINGS:
        # The older ones are nearer to their age, the newest is what the tag is: the one before it goes.
        kept.remove(next(one for one in reversed(kept[:-1]) if one.digest != current))
    return kept

"""Tags that move are followed only after a while: by then, what is bad about a new image is mostly known.

The age of a digest counts from when Millpond itself first saw the tag point at it. Until it is old enough, the tag
stands for the newest digest before it that is. What is pulled by digest is pinned already, and waits for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from proxy.oci.digest import Digest
from proxy.oci.errors import PolicyDenied
from proxy.oci.names import Repository, Tag
from proxy.pull.decisions import SECTION, Decisions, named
from proxy.pull.rules import Cooldown
from proxy.pull.sightings import Sighting, Sightings

# Cosign's tags and the specification's fallback for referrers: what they name belongs to one digest, and is as pinned.
_BY_DIGEST: Final = re.compile(r"sha(?:256-[a-f0-9]{64}|512-[a-f0-9]{128})(?:\.[a-z]+)?\Z")

_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def names_digest(tag: Tag) -> bool:
    """Whether the tag is a way to write a digest, and so no version that moves."""
    return _BY_DIGEST.match(tag) is not None


@dataclass(frozen=True, slots=True)
class Held:
    """A tag whose digest is too new. `older` are those that stand in for it, the newest first."""

    rule: str
    image: str
    digest: Digest
    first: float
    min_age: float
    older: Sequence[Digest]

    @property
    def until(self) -> str:
        return _moment(self.first + self.min_age)


class Cooldowns:
    def __init__(
        self, rules: Sequence[Cooldown], sightings: Sightings, decisions: Decisions, clock: Callable[[], float]
    ) -> None:
        """`clock` is wall time that never jumps, in seconds."""
        self._rules = rules
        self._sightings = sightings
        self._decisions = decisions
        self._clock = clock

    def rehearsal(self, repository: Repository, tag: Tag | None, decisions: Decisions) -> Cooldowns:
        """The same for one tag, without consequences: what is seen then is forgotten again."""
        return Cooldowns(self._rules, self._sightings.apart(repository, tag), decisions, self._clock)

    def judge(self, repository: Repository, tag: Tag, digest: Digest, *, confirmed: bool) -> Held | None:
        """The tag points at `digest`, as upstream has `confirmed`: None where that may be served under it."""
        name = str(repository)
        number = next((number for number, rule in enumerate(self._rules) if rule.images.match(name)), None)
        if number is None or names_digest(tag):
            return None
        rule, key, image, now = self._rules[number], f"cooldown[{number}]", named(repository, tag), self._clock()
        settled = partial(_settled, rule, now)
        # Exempt or not, its age counts from now.
        history = self._sightings.see(repository, tag, digest, now=now, settled=settled, confirmed=confirmed)
        current = next(one for one in history if one.digest == digest)
        if rule.exempt.match(image, named(repository, digest)):
            self._decisions.say(key, "exempted", image, digest=digest)
            return None
        if settled(current):
            self._decisions.say(key, "passed", image, digest=digest)
            return None
        older = [one.digest for one in reversed(history) if settled(one) and not one.withdrawn]
        return Held(key, image, digest, current.first, rule.min_age, older)

    def served(self, held: Held, digest: Digest) -> None:
        """`digest` was served in its stead."""
        self._decisions.say(held.rule, "held", held.image, digest=digest, newer=held.digest, until=held.until)

    def refusal(self, held: Held) -> PolicyDenied:
        """What a client is told where nothing can stand in."""
        rule = f"{SECTION}.{held.rule}"
        self._decisions.say(held.rule, "refused", held.image, digest=held.digest, until=held.until)
        return PolicyDenied(
            f"{held.image} was first seen to be {held.digest} at {_moment(held.first)}, and {rule} holds back what is "
            f"newer than {_span(held.min_age)}: it passes at {held.until}. In an emergency pull it by that digest, or "
            f"have {held.image} written into {rule}.exempt"
        )


def _settled(rule: Cooldown, now: float, one: Sighting) -> bool:
    return now - one.first >= rule.min_age or one.first < rule.trusted_until


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    """`7d`, `1d12h`: as the configuration has it."""
    parts, left = [], round(seconds)
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"

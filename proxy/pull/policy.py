"""What may be pulled whoever asks: blocked digests, images by digest only, and tags that have to wait.

Nothing here asks anybody or has a place in the cache: an image that is refused stays where it is, as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import NoReturn

from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import PolicyDenied
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Repository, Tag
from proxy.pull.cooldown import Cooldowns, names_digest
from proxy.pull.decisions import SECTION, Decisions, Told, Unsaid, named, untold
from proxy.pull.rules import Rules
from proxy.pull.sightings import Sightings


class Policy:
    """Every method raises PolicyDenied, with the rule and what to do, where a rule forbids it."""

    def __init__(
        self,
        rules: Rules,
        sightings: Sightings,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
        told: Told = untold,
    ) -> None:
        """`clock` is wall time that never jumps, in seconds; `told` is called for each decision."""
        self._decisions = Decisions(metrics, told)
        self._clock = clock
        self._sightings = sightings
        self.renew(rules)

    def renew(self, rules: Rules, sightings: Sightings | None = None) -> None:
        """From now on these are the rules; `sightings` take the place of those so far."""
        self._sightings = sightings or self._sightings
        self.cooldowns = Cooldowns(rules.cooldown, self._sightings, self._decisions, self._clock)
        self.idle = not (rules.cooldown or rules.require_digest or rules.block)
        """Whether there is no rule that could forbid anything: the many who have none shall not pay for it."""
        self._require_digest = rules.require_digest
        self._blocked = {
            digest: (f"block[{number}]", reason) for number, (digest, reason) in enumerate(rules.block.items())
        }

    def rehearsal(self, repository: Repository, tag: Tag | None) -> Policy:
        """The same rules, to be asked what they would say of this: it is not counted, logged or remembered."""
        twin, unsaid = copy(self), Unsaid()
        twin._decisions = unsaid  # noqa: SLF001  its own kind
        twin.cooldowns = self.cooldowns.rehearsal(repository, tag, unsaid)
        return twin

    def check_reference(self, repository: Repository, reference: Reference) -> None:
        """Before anybody is asked for a manifest."""
        if not isinstance(reference, Tag):
            self.check_digest(repository, reference)
            return
        if self._require_digest is None or names_digest(reference):
            return
        number = self._require_digest.first(str(repository))
        if number is not None:
            rule, image = f"require_digest[{number}]", named(repository, reference)
            self._decisions.say(rule, "refused", image)
            raise PolicyDenied(
                f"{image} is a tag, and {SECTION}.{rule} wants {repository} to be pulled by digest only: write the "
                f"digest that you have checked, {repository}@sha256:…"
            )

    def check_digest(self, repository: Repository, digest: Digest) -> None:
        """A manifest or a blob, before it is given out, wherever it is."""
        if digest in self._blocked:
            self._refuse(repository, digest, digest)

    def check_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """A manifest is at hand: neither it nor what it names may be blocked."""
        self.check_digest(repository, manifest.digest)
        if self._blocked:
            for part in (*manifest.children, *manifest.blobs):
                if part.digest in self._blocked:
                    self._refuse(repository, manifest.digest, part.digest)

    def _refuse(self, repository: Repository, asked: Digest, blocked: Digest) -> NoReturn:
        rule, reason = self._blocked[blocked]
        image = named(repository, asked)
        self._decisions.say(rule, "refused", image, blocked=blocked, reason=reason)
        what = image if asked == blocked else f"{image} contains {blocked}, which"
        raise PolicyDenied(f"{what} is blocked by {SECTION}.{rule}: {reason}")

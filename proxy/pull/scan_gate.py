"""Images that ECR has scanned and found bad are refused; what nobody has scanned yet is a matter of policy.

The gate stands before clients only: an image has to be pushed to be scanned.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import structlog

from proxy.ecr.errors import Rejected
from proxy.ecr.scan import ABSENT, UNSCANNED, Scan
from proxy.ecr.target import Target
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, PolicyDenied
from proxy.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from proxy.oci.names import Reference, Repository, Tag
from proxy.pull.decisions import SECTION, Decisions, Told, Unsaid, named, untold
from proxy.pull.rules import ScanRule
from proxy.pull.shared import Shared

# A client waits for no longer; containerd gives a mirror 30 s, of which upstream may need most.
ANSWER_SECONDS: Final = 3.0
# Whoever asks ECR goes on without them: with many images at once, the turns of `proxy.ecr.quota` come later than that.
ASK_SECONDS: Final = 40.0
# Enhanced scanning goes on finding; a quarter of an hour late is soon enough, and spares ECR a question a pull.
DONE_SECONDS: Final = 900.0
# A scan that is under way, or an ECR that fails: nodes try again within a minute, and shall not storm ECR meanwhile.
OPEN_SECONDS: Final = 10.0
# What ECR said last counts while it cannot be asked, but not for ever.
KEPT_SECONDS: Final = 86400.0
# Images whose scans are remembered, by some hundred bytes each.
_REMEMBERED: Final = 10_000

_KEY: Final = "scan_gate"
_UNKNOWN: Final = "UNKNOWN"
_IMAGES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
# ECR looks into layers of root file systems. Signatures, attestations and charts have none, and nothing to be found in.
_LAYERS: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


class Scans(Protocol):
    """Who is asked for scans: `proxy.ecr.api.Api`."""

    target: Target

    async def scan(self, name: str, digest: Digest) -> Scan: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """A scan; asked for again at `due`, worth nothing after `until` (monotonic)."""

    scan: Scan
    due: float
    until: float


class ScanGate:
    """One rule, and what is known of the images that it is about."""

    def __init__(
        self,
        rule: ScanRule,
        scans: Scans,
        *,
        push: Callable[[Repository, Digest, Tag | None], object],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        told: Told = untold,
    ) -> None:
        """`push` has an image brought to the target; `clock` is monotonic, in seconds; `told` is called for each
        decision."""
        self._rule = rule
        self._scans = scans
        self._push = push
        self._decisions = Decisions(metrics, told)
        self._clock = clock
        self._known: OrderedDict[tuple[Repository, Digest], _Known] = OrderedDict()
        self._asking: Shared[Scan] = Shared()

    def renew(self, rule: ScanRule) -> None:
        """From now on this is the rule; its target stays who it is."""
        self._rule = rule

    async def check(self, repository: Repository, reference: Reference, manifest: Manifest) -> None:
        """A client is about to get `manifest`. Raises PolicyDenied when it may not."""
        if self._concerns(repository, manifest):
            scan = await self._scan(repository, manifest.digest, reference if isinstance(reference, Tag) else None)
            self._decide(named(repository, manifest.digest), scan, self._decisions)

    def rehearse(self, repository: Repository, manifest: Manifest) -> None:
        """What `check` would raise, by what is known of the scan already. Nobody is asked, and nothing is decided."""
        known = self._known.get((repository, manifest.digest))
        if known is not None and self._concerns(repository, manifest):
            self._decide(named(repository, manifest.digest), known.scan, Unsaid())

    def _concerns(self, repository: Repository, manifest: Manifest) -> bool:
        return self._rule.images.match(str(repository)) and _is_image(manifest)

    def _decide(self, image: str, scan: Scan, decisions: Decisions) -> None:
        if not scan.done:
            self._unscanned(image, scan, decisions)
        elif found := scan.at_least(self._rule.severity):
            decisions.say(_KEY, "refused", image, findings=found)
            raise PolicyDenied(
                f"ECR's scan of {image} in {self._rule.target} reports {_summed(found)}, and {SECTION}.{_KEY} allows "
                f"none at or above {self._rule.severity}: use a version in which this is mended"
            )
        else:
            decisions.say(_KEY, "passed", image)

    async def close(self) -> None:
        await self._asking.close()

    def _unscanned(self, image: str, scan: Scan, decisions: Decisions) -> None:
        if not self._rule.refuse_unscanned:
            decisions.say(_KEY, "unscanned", image, status=scan.status)
            return
        decisions.say(_KEY, "refused", image, status=scan.status)
        hint = _HINTS.get(scan.status, "ECR says that it cannot scan it; have it taken out of {key}.images")
        raise PolicyDenied(
            f"{image} has no finished scan in {self._rule.target} ({scan.status}), and {SECTION}.{_KEY} refuses what "
            f"is not scanned: {hint.format(target=self._rule.target, key=f'{SECTION}.{_KEY}')}"
        )

    async def _scan(self, repository: Repository, digest: Digest, tag: Tag | None) -> Scan:
        known = self._known.get((repository, digest))
        if known is None or self._clock() >= known.due:
            asking = self._asking.run((repository, digest), partial(self._ask, repository, digest, tag))
            try:
                return (await asyncio.wait_for(asking, ANSWER_SECONDS))[0]
            except TimeoutError:  # it goes on, for whoever asks next
                return self._without(repository, digest, f"no answer within {ANSWER_SECONDS:g} s")
        self._known.move_to_end((repository, digest))
        return known.scan

    async def _ask(self, repository: Repository, digest: Digest, tag: Tag | None) -> Scan:
        now, key = self._clock(), (repository, digest)
        try:
            scan = await self._asked(repository, digest)
        except (MillpondError, TimeoutError) as failure:
            return self._without(repository, digest, str(failure) or f"no answer within {ASK_SECONDS:g} s")
        self._remember(key, _Known(scan, now + (DONE_SECONDS if scan.done else OPEN_SECONDS), now + KEPT_SECONDS))
        if scan.status == ABSENT and self._rule.refuse_unscanned:
            self._push(repository, digest, tag)  # nobody gets it before, so nobody's pull would bring it there
        return scan

    def _without(self, repository: Repository, digest: Digest, why: str) -> Scan:
        """What ECR said last stands in for a while."""
        now, key = self._clock(), (repository, digest)
        known = self._known.get(key)
        structlog.get_logger().warning(
            "scan not known", target=self._rule.target, image=named(repository, digest), why=why
        )
        known = known if known and now < known.until else _Known(Scan(_UNKNOWN), now, now)
        self._remember(key, replace(known, due=now + OPEN_SECONDS))
        return known.scan

    async def _asked(self, repository: Repository, digest: Digest) -> Scan:
        target = self._scans.target
        if repository.upstream not in target.upstreams:
            return Scan(_NEVER)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._scans.scan(target.repository_name(repository), digest)
        except Rejected:
            return Scan(_NEVER)  # a name or an algorithm that ECR does not have

    def _remember(self, key: tuple[Repository, Digest], known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


_NEVER: Final = "NOT_TAKEN"
_SOON: Final = "try again in a minute"
_HINTS: Final = {
    ABSENT: f"it is being pushed there; {_SOON}, or see `millpond ecr status`",
    "IN_PROGRESS": f"the scan is under way; {_SOON}",
    "PENDING": f"the scan is under way; {_SOON}",
    UNSCANNED: "turn on scanning for the repository in ECR, or start a scan of the image there",
    _UNKNOWN: "ECR cannot be asked at the moment; the log says why",
    _NEVER: "{target} takes no images of this kind; have it taken out of {key}.images",
}


def _is_image(manifest: Manifest) -> bool:
    return manifest.media_type in _IMAGES and any(part.media_type.startswith(_LAYERS) for part in manifest.blobs)


def _summed(found: dict[str, int]) -> str:
    total = sum(found.values())
    each = ", ".join(f"{count} {name}" for name, count in found.items())
    return f"{total} {'finding' if total == 1 else 'findings'} ({each})"

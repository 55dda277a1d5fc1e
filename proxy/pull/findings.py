"""What can be found out about an image without bringing or changing anything: the ground of an explanation.

What the next pull would ask upstream is asked here too, within the bounds of `proxy.pull.questions`, and never

- where the pull would be refused before it is asked: who may not pull an image learns nothing of it here either;
- where so little of a rate limit is left that it is kept for clients;
- for a stranger who names what is not in the cache: private names could be tried with Millpond's credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.departures import Departures
from proxy.ecr.job import job_key
from proxy.ecr.tier import JobStatus, TargetStatus
from proxy.oci.digest import Digest
from proxy.oci.errors import PolicyDenied, UpstreamInvalid
from proxy.oci.figures import sized
from proxy.oci.manifest import Manifest, parse_manifest
from proxy.oci.names import Image, Repository, Tag
from proxy.pull.blobs import Blobs
from proxy.pull.causes import Facts
from proxy.pull.freshness import TagPolicy
from proxy.pull.near import Near
from proxy.pull.policy import Policy
from proxy.pull.questions import Questions, quota_of, reserved
from proxy.pull.reasons import Reasons
from proxy.pull.scan_gate import ScanGate
from proxy.upstream.client import Registry

# Manifests of one image that are looked into: more than any has, and a bound for a hostile one.
MAX_MANIFESTS: Final = 100

DISK: Final = "disk"
_ARRIVING: Final = "a flight that is under way"
_UPSTREAM: Final = "upstream"

_TOO_MANY: Final = "explanations have asked upstreams for much in the last seconds; ask again in a few"
_STRANGER: Final = "nobody has pulled it here, and about such an image upstream is asked for the operator only; sign in"


class Verdict(Protocol):
    """What the rules of access say of one user: `proxy.edge.rules.Verdict`."""

    @property
    def allowed(self) -> bool: ...
    @property
    def why(self) -> str: ...
    @property
    def depends(self) -> bool: ...


class Ecr(Protocol):
    """`proxy.ecr.tier.EcrTier`, as far as it is asked."""

    def targets(self) -> list[TargetStatus]: ...
    def job(self, key: str) -> JobStatus | None: ...


@dataclass(frozen=True, slots=True)
class Sights:
    """What an explanation is made of; each is looked at anew.

    `locate` knows what a repository's name means here; `policies` and `registries` are by upstream. `verdict(user,
    repository, tag)` is what the rules of access say, None without any. `last(image)` is the newest pull of an image by
    its full name, a row of the history. `clock` is wall time that never jumps, in seconds.
    """

    locate: Callable[[str], Repository]
    blobs: Blobs
    store: BlobStore
    catalog: Catalog
    departures: Departures
    policies: Mapping[str, TagPolicy]
    registries: Mapping[str, Registry]
    clock: Callable[[], float]
    near: Sequence[Near] = ()
    policy: Callable[[], Policy | None] = lambda: None
    gate: ScanGate | None = None
    ecr: Ecr | None = None
    verdict: Callable[[str, Repository, Tag | None], Verdict | None] = lambda *_: None
    last: Callable[[str], Mapping[str, Any] | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Standing:
    """How one ECR target is, and how far the image is there: `job` None is not known, `trouble` may be empty."""

    target: TargetStatus
    job: JobStatus | None
    trouble: str


@dataclass(slots=True)
class Content:
    """What is known of an image's content. `places` has for each blob where the next pull would get it, and its size;
    `unpulled` are images of the index that are not on disk, `parts` the digests of all that is named."""

    manifests: int = 0
    places: dict[Digest, tuple[str, int]] = field(default_factory=dict)
    parts: list[Digest] = field(default_factory=list)
    unpulled: int = 0


class Findings:
    """What is found out about one image, for one explanation."""

    def __init__(self, sights: Sights, asked_for: str, image: Image, user: str) -> None:
        self.sights = sights
        self.asked_for = asked_for
        self.image = image
        self.repository = image.repository
        self.user = user
        # A client that has both asks for the digest.
        self.tag = image.tag if image.digest is None else None
        self.registry = sights.registries[image.repository.upstream]
        self.facts = Facts(str(image), image.repository.upstream, sights.clock(), by_tag=self.tag is not None)
        self.content = Content()
        self.standings: list[Standing] = []
        self._known = False  # the cache has heard of the image

    async def gather(self, questions: Questions, *, trusted: bool) -> None:
        """Find it out; without `trusted` it is for a stranger."""
        self._remember()
        await self._look_inside()
        verdict = self.sights.verdict(self.user, self.repository, self.tag)
        self.facts.denied = "" if verdict is None or verdict.allowed else verdict.why
        if not self.facts.denied and (question := self._question()):
            await self._ask(questions, *question, trusted=trusted)
        quota = quota_of(self.registry, self.facts.now)
        if quota is not None and quota.remaining == 0:
            self.facts.exhausted = f"it says that 0 of {quota.limit or 'its'} pulls are left"
        self._judge()
        self.standings = (
            [self._standing(self.sights.ecr, target) for target in self.sights.ecr.targets()] if self.sights.ecr else []
        )
        self.facts.ecr = {each.target.name: each.trouble for each in self.standings if each.trouble}

    def _remember(self) -> None:
        """The cache's own knowledge of the name."""
        facts, sights = self.facts, self.sights
        policy = sights.policies[facts.upstream]
        record = sights.catalog.tag(self.repository, self.tag) if self.tag else None
        facts.digest = record.digest if record else self.image.digest
        facts.here = facts.digest is not None and self._holds(facts.digest)
        self._known = facts.here or record is not None
        facts.ttl, facts.keeps_deleted = policy.ttl, policy.keep_deleted
        if record is not None:
            facts.checked = record.checked
            facts.fresh = facts.here and policy.fresh(record.checked, facts.now)
            facts.usable = facts.here and policy.usable(record.checked, facts.now)
        facts.disk = sights.store.trouble or sights.store.crowded
        facts.last = sights.last(facts.image)
        copies = (near.name for near in sights.near if not near.rests and near.copy_of(self.repository))
        facts.copied = next(copies, "")

    def _holds(self, manifest: Digest) -> bool:
        known = self.sights.catalog.media_type(self.repository, manifest) is not None
        return known and manifest in self.sights.store

    async def _look_inside(self) -> None:
        """Where the next pull would get each blob that the images on disk name."""
        facts, content = self.facts, self.content
        waiting = [facts.digest] if facts.digest is not None and facts.here else []
        seen = set(waiting)
        while waiting and content.manifests < MAX_MANIFESTS:
            manifest = await self._manifest(waiting.pop())
            if manifest is None:
                if not content.manifests:  # the image itself: it was damaged
                    facts.here = facts.fresh = facts.usable = False
                continue
            content.manifests += 1
            self._look_through(manifest)
            content.parts += [manifest.digest, *(part.digest for part in (*manifest.children, *manifest.blobs))]
            for blob in manifest.blobs:
                if not blob.is_foreign:
                    content.places.setdefault(blob.digest, (self._place(blob.digest), blob.size))
            here = [child.digest for child in manifest.children if self._holds(child.digest)]
            content.unpulled += len(manifest.children) - len(here)
            waiting += [digest for digest in here if digest not in seen]
            seen.update(here)
        missing = {digest: at for digest, at in content.places.items() if at[0] != DISK}
        facts.blobs, facts.missing = len(content.places), len(missing)
        facts.missing_bytes = sum(size for _, size in missing.values())
        facts.arriving = sum(place == _ARRIVING for place, _ in missing.values())
        facts.sources = " and ".join(sorted({place for place, _ in missing.values()}))
        facts.gone = self._gone(missing)
        if missing or not facts.here:
            facts.disk = facts.disk or await self._no_room(max((size for _, size in missing.values()), default=1))

    def _look_through(self, manifest: Manifest) -> None:
        """What its scan says of it."""
        if self.sights.gate is not None:
            try:
                self.sights.gate.rehearse(self.repository, manifest)
            except PolicyDenied as refusal:
                self.facts.refused = str(refusal)

    async def _no_room(self, size: int) -> str:
        """Why a blob of so many bytes would not be kept; empty where it would."""
        store = self.sights.store
        (max_size, min_free), free = store.budget, await store.free()
        may_go = store.stored - store.pinned
        room = max_size - store.accounted + may_go
        if free is not None:
            room = min(room, free - min_free + may_go)
        if size <= room:
            return ""
        left = "" if free is None else f", {sized(free)} are free, of which cache.min_free keeps {sized(min_free)}"
        pinned = f", {sized(store.pinned)} are pinned" if store.pinned else ""
        return f"there is no room for {sized(size)}: cache.max_size is {sized(max_size)}{pinned}{left}"

    def _gone(self, missing: Iterable[Digest]) -> str:
        """Why something is not on disk any more; empty where nobody remembers that it was."""
        departures, digest = self.sights.departures, self.facts.digest
        reasons = Reasons(self.sights.store, departures)
        if digest is None:
            known = self.tag is not None and departures.of_tag(self.repository, self.tag)
            return reasons.of_tag(self.repository, self.tag) if self.tag is not None and known else ""
        if not self.facts.here:
            return reasons.of_manifest(digest) if departures.of(digest) else ""
        return next((reasons.of_blob(blob) for blob in missing if departures.of(blob)), "")

    async def _manifest(self, digest: Digest) -> Manifest | None:
        """As it is on disk. To look at it is no use of it."""
        media_type = self.sights.catalog.media_type(self.repository, digest)
        body = await self.sights.store.read(digest, use=False)
        if body is None or media_type is None:
            return None
        try:
            return await asyncio.to_thread(parse_manifest, body, media_type, digest)
        except UpstreamInvalid:
            return None  # the next pull finds out, and mends it

    def _place(self, digest: Digest) -> str:
        """Where the next pull would get a blob."""
        if digest in self.sights.store:
            return DISK
        if self.sights.blobs.at_hand(digest):
            return _ARRIVING
        for near in self.sights.near:
            copy = near.copy_of(self.repository)
            if copy is not None and copy.trusted(digest) and not near.rests:
                return _UPSTREAM if copy.lacks(digest) else f"ECR target {near.name}, else {_UPSTREAM}"
        return _UPSTREAM

    def _question(self) -> tuple[str, Callable[[], Awaitable[object]]] | None:
        """What the next pull would ask upstream first, and about what; None where it would ask nothing."""
        facts, path = self.facts, self.repository.path
        if not facts.here or facts.due:
            reference = self.tag or self.image.reference
            return reference, partial(self.registry.resolve, path, Tag(reference))  # a digest is asked for like a tag
        missing = (digest for digest, (place, _) in self.content.places.items() if place.endswith(_UPSTREAM))
        first = next(missing, None)
        return (first, partial(self.registry.blob_size, path, first)) if first is not None else None

    async def _ask(
        self, questions: Questions, what: str, question: Callable[[], Awaitable[object]], *, trusted: bool
    ) -> None:
        facts = self.facts
        facts.unasked = reserved(self.registry, facts.now) or ("" if trusted or self._known else _STRANGER)
        if facts.unasked:
            return
        answer = await questions.ask((self.repository, what), question, facts.checked or 0.0)
        if answer is None:
            facts.unasked = _TOO_MANY
            return
        facts.asked = max(0.0, self.sights.clock() - answer.at)
        facts.error = answer.error
        facts.answer = answer.digest if self.tag else None

    def _judge(self) -> None:
        """What the policy would say."""
        facts, sights = self.facts, self.sights
        policy = sights.policy()
        if policy is None:
            return
        digest = facts.answer or facts.digest
        policy = policy.rehearsal(self.repository, self.tag)
        try:
            policy.check_reference(self.repository, self.tag or self.image.reference)
            if digest is None:
                return
            held = policy.cooldowns.judge(self.repository, self.tag, digest, confirmed=True) if self.tag else None
            if held is not None and not held.older:
                raise policy.cooldowns.refusal(held)
            facts.stands_in = held.older[0] if held is not None else None
            for part in [digest] if digest != facts.digest else self.content.parts:
                policy.check_digest(self.repository, part)
        except PolicyDenied as refusal:
            facts.refused = str(refusal)

    def _standing(self, ecr: Ecr, target: TargetStatus) -> Standing:
        digest = self.facts.digest
        job = ecr.job(job_key(target.name, self.repository, digest)) if digest else None
        trouble = "" if target.state == "ok" else target.state
        if job is not None and job.state != "done":
            trouble = trouble or job.reason
        rests = any(near.name == target.name and near.rests for near in self.sights.near)
        return Standing(
            target, job, trouble or ("it has failed to answer, so it is not read for a while" if rests else "")
        )

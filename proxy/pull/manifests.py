"""Manifests: by digest for ever, by tag as long as policy lets them stand, from upstream once for everyone."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog, TagRecord
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, DiskFailure, MillpondError, PolicyDenied, Unknown, UpstreamFailure, UpstreamInvalid
from proxy.oci.manifest import Manifest, parse_manifest
from proxy.oci.names import Reference, Repository, Tag
from proxy.oci.source import Source
from proxy.pull.freshness import Refusals, TagPolicy
from proxy.pull.near import Near
from proxy.pull.origin import Origin, Tier
from proxy.pull.policy import Policy
from proxy.pull.reasons import ASKED_ECR, DELETED, HELD_BACK, Reasons, confirmed, due, moved, stale
from proxy.pull.scan_gate import ScanGate
from proxy.pull.shared import Shared
from proxy.pull.tiers import Tiers

# Bodies of manifests kept in memory, in bytes: some thousands of them.
_MEMORY: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A manifest, and where it came from. `confirmed` is False where it was asked for by a tag, and upstream could not
    say where that points. `reason` is why it is not simply from the disk."""

    manifest: Manifest
    origin: Origin
    confirmed: bool = True
    reason: str = ""


class Manifests:
    """Every manifest that a client may have."""

    def __init__(
        self,
        store: BlobStore,
        catalog: Catalog,
        sources: Mapping[str, Source],
        *,
        policies: Mapping[str, TagPolicy],
        metrics: Metrics,
        clock: Callable[[], float],
        near: Sequence[Near] = (),
        policy: Policy | None = None,
        gate: ScanGate | None = None,
        reasons: Reasons | None = None,
    ) -> None:
        """`sources` and `policies` are by upstream name; `clock` is wall time that never jumps, in seconds; `near` are
        the ECR targets that are read, nearest first; `policy` and `gate` are the operator's rules, None without any."""
        self._store = store
        self._catalog = catalog
        self._sources = sources
        self._policies = policies
        self._metrics = metrics
        self._clock = clock
        self._near = near
        self._policy = policy
        self._gate = gate
        self._reasons = reasons or Reasons(store)
        self._memory = _Memory()
        self._refusals = Refusals()
        self._checks: Shared[Answer] = Shared()
        self._fetches: Shared[Answer] = Shared()

    async def serve(self, repository: Repository, reference: Reference, accept: Sequence[str]) -> Answer:
        """As `get`, for a client, who does not get either what its scan forbids."""
        answer = await self.get(repository, reference, accept)
        if self._gate is not None:
            await self._gate.check(repository, reference, answer.manifest)
        return answer

    async def get(self, repository: Repository, reference: Reference, accept: Sequence[str]) -> Answer:
        """The manifest, by tag or digest. `accept` are the types that the client names.

        Raises:
            ManifestUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers, where the cache cannot.
            PolicyDenied: the operator's rules forbid it.
        """
        if self._policy is None or self._policy.idle:
            return await self._get(repository, reference, accept)
        self._policy.check_reference(repository, reference)
        answer = await self._get(repository, reference, accept)
        if isinstance(reference, Tag):
            answer = await self._aged(self._policy, repository, reference, answer, accept)
        self._policy.check_manifest(repository, answer.manifest)
        return answer

    async def revalidate(self, repository: Repository, tag: Tag) -> Answer:
        """Where the tag points, asked now, however lately that was done. Nothing old stands in.

        Raises:
            ManifestUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
            PolicyDenied: the operator's rules forbid it.
        """
        if self._policy is not None:
            self._policy.check_reference(repository, tag)
        record = self._catalog.tag(repository, tag)
        cached = await self._at_hand(repository, record.digest) if record else None
        try:
            return await self._check(repository, tag, cached, ())
        except (Unknown, Denied) as refusal:
            if not isinstance(refusal, Unknown) or not self._policies[repository.upstream].keep_deleted:
                self._drop(repository, tag, refusal)
            raise

    async def cached(self, repository: Repository, digest: Digest) -> Manifest | None:
        """The manifest, if this repository was seen to hold it and its bytes are at hand. Raises PolicyDenied."""
        if self._policy is not None:
            self._policy.check_digest(repository, digest)
        return await self._at_hand(repository, digest)

    async def _get(self, repository: Repository, reference: Reference, accept: Sequence[str]) -> Answer:
        if isinstance(reference, Tag):
            return await self._by_tag(repository, reference, accept)
        if cached := await self._at_hand(repository, reference):
            return Answer(cached, "hit")
        return await self._fetch(repository, reference, accept)

    async def _aged(
        self, policy: Policy, repository: Repository, tag: Tag, answer: Answer, accept: Sequence[str]
    ) -> Answer:
        """What the tag may stand for by its cooldown, where `answer` is what it points at."""
        held = policy.cooldowns.judge(repository, tag, answer.manifest.digest, confirmed=answer.confirmed)
        if held is None:
            return answer
        for digest in held.older:
            try:
                older = await self._get(repository, digest, accept)
                policy.check_manifest(repository, older.manifest)
            except (Unknown, PolicyDenied):
                continue  # upstream has deleted it, or it is blocked: the one before it may do
            policy.cooldowns.served(held, digest)
            return replace(older, confirmed=answer.confirmed, reason=HELD_BACK)
        raise policy.cooldowns.refusal(held)

    async def _at_hand(self, repository: Repository, digest: Digest) -> Manifest | None:
        media_type = self._catalog.media_type(repository, digest)
        if media_type is None:
            return None
        manifest = self._memory.get(digest)
        if manifest is not None:
            self._store.touch(digest)
        else:
            body = await self._store.read(digest)
            if body is None:
                return None
            try:
                manifest = parse_manifest(body, media_type, digest)
            except UpstreamInvalid:
                await self._store.evict(digest)
                return None
            self._memory.add(manifest)
        return manifest

    def remembered(self, repository: Repository, digest: Digest) -> Manifest | None:
        """The manifest, if this repository was seen to hold it and it is in memory."""
        return self._memory.get(digest) if self._catalog.media_type(repository, digest) else None

    async def keep(self, repository: Repository, manifest: Manifest, tier: Tier = "upstream") -> None:
        """Remember a manifest that `tier` gave for this repository."""
        if tier == "upstream":
            self._metrics.fetched_bytes.labels(repository.upstream).inc(len(manifest.body))
        try:
            await self._store.put(manifest.digest, manifest.body)
        except DiskFailure as error:
            self._metrics.dropped.inc()
            structlog.get_logger().warning("manifest not kept on disk", digest=manifest.digest, reason=str(error))
        self._memory.add(manifest)
        self._catalog.add_manifest(repository, manifest)

    async def close(self) -> None:
        await self._checks.close()
        await self._fetches.close()
        if self._gate is not None:
            await self._gate.close()

    async def _by_tag(self, repository: Repository, tag: Tag, accept: Sequence[str]) -> Answer:
        policy = self._policies[repository.upstream]
        record = self._catalog.tag(repository, tag)
        cached = await self._at_hand(repository, record.digest) if record else None
        if record is None or cached is None:
            if self._tiers(repository).copied:
                # What it points at may be nearer than upstream, so only that is asked for there.
                return await self._check(repository, tag, None, accept)
            return await self._fetch(repository, tag, accept)
        if policy.fresh(record.checked, self._clock()):
            return Answer(cached, "hit")
        usable = policy.usable(record.checked, self._clock())
        try:
            patience = self._tiers(repository).patience if usable else None
            return await asyncio.wait_for(self._check(repository, tag, cached, accept), patience)
        except (Unknown, Denied) as refusal:
            if isinstance(refusal, Unknown) and policy.keep_deleted:
                return Answer(cached, "stale", confirmed=False, reason=DELETED)
            self._drop(repository, tag, refusal)
            raise
        except (UpstreamFailure, UpstreamInvalid, TimeoutError) as failure:
            if not usable:
                raise
            structlog.get_logger().warning("serving stale tag", repository=str(repository), tag=tag, why=str(failure))
            age = self._clock() - record.checked
            return Answer(cached, "stale", confirmed=False, reason=stale(age, failure))

    async def _check(self, repository: Repository, tag: Tag, cached: Manifest | None, accept: Sequence[str]) -> Answer:
        work = partial(self._revalidate, repository, tag, cached, accept)
        answer, joined = await self._checks.run((repository, tag, frozenset(accept)), work)
        return replace(answer, origin="joined") if joined and answer.origin != "hit" else answer

    async def _revalidate(
        self, repository: Repository, tag: Tag, cached: Manifest | None, accept: Sequence[str]
    ) -> Answer:
        """Ask where the tag points now; download only what is not here yet."""
        self._refusals.check(repository, tag)
        try:
            digest, tier = await self._tiers(repository).resolve(tag, accept)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(repository, tag, refusal=refusal)
            raise
        reason = self._reason(repository, tag, cached, digest)
        if digest is None:
            return replace(await self._fetch(repository, tag, accept), reason=reason)
        known = cached if cached and digest == cached.digest else await self._at_hand(repository, digest)
        answer = Answer(known, "hit") if known else await self._fetch(repository, digest, accept)
        self._point(repository, tag, digest, tier)
        if tier == "ecr":
            return Answer(answer.manifest, "ecr", confirmed=False, reason=ASKED_ECR)
        return replace(answer, reason=reason)

    def _reason(self, repository: Repository, tag: Tag, cached: Manifest | None, digest: Digest | None) -> str:
        """Why a tag was not served as it was known, where it points at `digest` now; None: upstream does not say."""
        record = self._catalog.tag(repository, tag)
        if record is None:
            return self._reasons.of_tag(repository, tag)
        if cached is None:
            return self._reasons.of_manifest(record.digest)
        age, ttl = self._clock() - record.checked, self._policies[repository.upstream].ttl
        if digest is None:
            return due(age, ttl)
        return confirmed(age, ttl) if digest == cached.digest else moved(age)

    def _point(self, repository: Repository, tag: Tag, digest: Digest, tier: Tier) -> None:
        """Remember where a tag points. ECR's word confirms nothing, but it may stand in where there is no other."""
        self._reasons.known_again(repository, tag)
        if tier == "upstream":
            self._catalog.set_tag(repository, tag, TagRecord(digest, self._clock()))
        elif self._catalog.tag(repository, tag) is None:
            due = self._clock() - self._policies[repository.upstream].ttl
            self._catalog.set_tag(repository, tag, TagRecord(digest, due))

    def _drop(self, repository: Repository, tag: Tag, refusal: MillpondError) -> None:
        """What is known of the tag no longer counts."""
        if isinstance(refusal, Unknown) and self._catalog.tag(repository, tag) is not None:
            self._reasons.deleted(repository, tag)
        self._catalog.drop_tag(repository, tag)

    def _tiers(self, repository: Repository) -> Tiers:
        return Tiers(repository, self._sources[repository.upstream], self._near)

    async def _fetch(self, repository: Repository, reference: Reference, accept: Sequence[str]) -> Answer:
        """From the nearest, once for everyone who asks meanwhile."""
        # A registry may answer by what is accepted; whoever accepts something else asks for something else.
        key = (repository, reference, frozenset(accept))
        work = partial(self._download, repository, reference, accept)
        answer, joined = await self._fetches.run(key, work)
        return replace(answer, origin="joined") if joined else answer

    async def _download(self, repository: Repository, reference: Reference, accept: Sequence[str]) -> Answer:
        self._refusals.check(repository, reference)
        if isinstance(reference, Tag):
            reason = self._reason(repository, reference, None, None)
        else:
            reason = self._reasons.of_manifest(reference)
        try:
            manifest, tier = await self._tiers(repository).manifest(reference, accept)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(repository, reference, refusal=refusal)
            raise
        await self.keep(repository, manifest, tier)
        if not isinstance(reference, Tag):
            return Answer(manifest, tier, reason=reason)
        self._point(repository, reference, manifest.digest, tier)
        if tier == "ecr":
            return Answer(manifest, tier, confirmed=False, reason=ASKED_ECR)
        return Answer(manifest, tier, reason=reason)


class _Memory:
    """The most recently used manifests, parsed, within a bound of bytes."""

    def __init__(self) -> None:
        self._held: OrderedDict[Digest, Manifest] = OrderedDict()
        self._bytes = 0

    def get(self, digest: Digest) -> Manifest | None:
        if manifest := self._held.get(digest):
            self._held.move_to_end(digest)
        return manifest

    def add(self, manifest: Manifest) -> None:
        if manifest.digest in self._held:
            return
        self._held[manifest.digest] = manifest
        self._bytes += len(manifest.body)
        while self._bytes > _MEMORY:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= len(oldest.body)

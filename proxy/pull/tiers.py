"""Who is asked for what a repository holds, and in which order.

What has a digest comes from the nearest: the first ECR target that holds a copy of the repository, then upstream.
Where a tag points, and whether a repository holds a blob, upstream alone decides; the copies count while it cannot be
asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress

from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, UpstreamFailure, UpstreamInvalid
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Repository, Tag
from proxy.oci.source import Source
from proxy.pull.delivery import Delivery, Giver
from proxy.pull.freshness import PATIENCE
from proxy.pull.lanes import Lanes
from proxy.pull.near import ECR_DEADLINE, Copy, Near, Question, T
from proxy.pull.origin import Tier


class Tiers:
    """One repository, wherever it is. Every method raises what upstream does when nobody has an answer."""

    def __init__(self, repository: Repository, upstream: Source, near: Sequence[Near]) -> None:
        """`near` are the readable targets, nearest first."""
        self._repository = repository
        self._upstream = upstream
        self._copies = [copy for target in near if (copy := target.copy_of(repository))]

    @property
    def copied(self) -> bool:
        """Whether a target may hold any of it."""
        return bool(self._copies)

    @property
    def patience(self) -> float:
        """Seconds that whoever has an answer at hand waits for a better one: targets are asked after upstream."""
        return PATIENCE + ECR_DEADLINE if self._copies else PATIENCE

    async def resolve(self, tag: Tag, accept: Sequence[str]) -> tuple[Digest | None, Tier]:
        """What the tag points at, and who says so; None where upstream does not say."""
        return await self._upstream_or(
            self._copies, "tags", tag, lambda source, path: source.resolve(path, tag, accept)
        )

    async def manifest(self, reference: Reference, accept: Sequence[str]) -> tuple[Manifest, Tier]:
        """The manifest, and who gave it: by digest the nearest, by tag upstream if it can."""

        def ask(source: Source, path: str) -> Awaitable[Manifest]:
            return source.manifest(path, reference, accept)

        copies = self._copies
        if isinstance(reference, Digest):
            likely, copies = self._split(reference)
            if found := await _first(likely, "manifests", reference, ask):
                return found, "ecr"
        manifest, tier = await self._upstream_or(copies, "manifests", reference, ask)
        for copy in self._copies:
            if copy.lacks(manifest.digest):
                # What is not there has not been pushed: asking for each image and layer of it would only cost time.
                copy.near.missed(copy.path, (part.digest for part in (*manifest.children, *manifest.blobs)))
        return manifest, tier

    async def blob_size(self, digest: Digest) -> tuple[int, Tier]:
        """The size of a blob that the repository holds, and who says that it does."""
        copies = [copy for copy in self._copies if copy.trusted(digest)]
        return await self._upstream_or(
            copies, "blobs", digest, lambda source, path: source.blob_size(path, digest), UpstreamFailure
        )

    def delivery(self, digest: Digest, size: int | None, lanes: Lanes, metrics: Metrics) -> Delivery:
        """A delivery of a blob. `size` None: the repository was not seen to hold it. `lanes` are upstream's."""
        likely, unlikely = self._split(digest)
        fetched = metrics.fetched_bytes.labels(self._repository.upstream).inc
        upstream = Giver(None, self._upstream, self._repository.path, lanes, fetched)
        before, after = (likely, unlikely) if size is not None else ([], likely + unlikely)
        return Delivery(self._repository, digest, size, [*map(_giver, before), upstream, *map(_giver, after)])

    def _split(self, digest: Digest) -> tuple[list[Copy], list[Copy]]:
        """The copies that are asked before upstream, and those that are asked when it fails.

        Before upstream it is one at the most: a new image is in none, and each that is asked in vain costs time.
        """
        trusted = [copy for copy in self._copies if copy.trusted(digest)]
        nearest = next((copy for copy in trusted if not copy.near.rests), None)
        likely = [nearest] if nearest is not None and not nearest.lacks(digest) else []
        return likely, [copy for copy in trusted if copy not in likely]

    async def _upstream_or(
        self,
        copies: Sequence[Copy],
        noun: str,
        item: str,
        question: Question[T],
        failing: type[MillpondError] | tuple[type[MillpondError], ...] = (UpstreamFailure, UpstreamInvalid),
    ) -> tuple[T, Tier]:
        """Upstream's answer; a copy's where upstream is `failing`, or takes too long to say anything."""
        if not copies:
            return await question(self._upstream, self._repository.path), "upstream"
        asking = asyncio.ensure_future(question(self._upstream, self._repository.path))
        try:
            await asyncio.wait({asking}, timeout=PATIENCE)
            if asking.done() and not isinstance(asking.exception(), failing):
                return asking.result(), "upstream"
            found = await _first(copies, noun, item, question)
            return (found, "ecr") if found is not None else (await asking, "upstream")
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _first(copies: Iterable[Copy], noun: str, item: str, question: Question[T]) -> T | None:
    """The first answer; None where no copy has one."""
    for copy in copies:
        with suppress(MillpondError):  # the target has made a note of it
            return await copy.ask(noun, item, question)
    return None


def _giver(copy: Copy) -> Giver:
    return Giver(copy, copy.near.source, copy.path, copy.near.lanes, copy.near.received)

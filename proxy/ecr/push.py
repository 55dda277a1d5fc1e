"""One image into one target: blobs, then child manifests, then the index, then its tags, then what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from proxy.ecr.api import Api
from proxy.ecr.errors import (
    ChildrenMissing,
    KeyRefused,
    LayersMissing,
    Passing,
    Refused,
    Rejected,
    RepositoryMissing,
    TagTaken,
)
from proxy.ecr.image import check, children, choose, layers, shortfall
from proxy.ecr.job import Job
from proxy.ecr.repositories import Repositories
from proxy.ecr.supply import Companion, QuotaReserved, Supply
from proxy.ecr.upload import Uploader
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, UpstreamFailure
from proxy.oci.manifest import Manifest
from proxy.oci.names import Tag

# A repository that vanishes while it is pushed to is made again; this often, then the job waits like any failed one.
_CREATIONS: Final = 3
# What a lifecycle policy takes away between the check and the manifest is pushed again, this often in one attempt.
_PUTS: Final = 3
# Indexes within indexes; nobody nests deeper than once.
_MAX_DEPTH: Final = 4
# Signatures, attestations and referrers of one manifest.
_MAX_COMPANIONS: Final = 100
# A job whose image is complete is tried so often for the sake of its companions.
_COMPANION_TRIES: Final = 3


class RepositoryOff(Exception):
    """The repository may not be created, or its key not be used: nothing of it can be pushed until that changes."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """`more`: what clients have pulled is there, the rest is for another turn, at low priority."""

    more: bool = False
    note: str = ""


class Pusher:
    """Pushes jobs of one target, any number at once, but never two of one repository."""

    def __init__(
        self, api: Api, repositories: Repositories, supply: Supply, uploader: Uploader, metrics: Metrics
    ) -> None:
        self.api = api
        self.supply = supply
        self.uploader = uploader
        self.metrics = metrics
        self._repositories = repositories

    async def push(self, job: Job) -> Pushed:
        """Push what the job still lacks. It may be begun any number of times, whatever was done before.

        Raises:
            RepositoryOff, QuotaReserved: to be tried again later; nothing is wrong with the image.
            EcrError, and what `Supply` raises: it failed.
        """
        name = self.api.target.repository_name(job.repository)
        await self._repositories.finish(name)
        for _ in range(_CREATIONS):
            try:
                return await _Push(self, job, name).run()
            except RepositoryMissing:
                await self._create(name)
            except KeyRefused as error:
                raise RepositoryOff(str(error)) from error
        raise Passing(f"ECR says that the repository {name} does not exist, although it was created just now")

    async def _create(self, name: str) -> None:
        try:
            await self._repositories.create(name)
        except Refused as error:
            raise RepositoryOff(f"the repository {name} does not exist, and cannot be created: {error}") from error


class _Push:
    """One attempt at one job."""

    def __init__(self, pusher: Pusher, job: Job, name: str) -> None:
        self._api = pusher.api
        self._supply = pusher.supply
        self._uploader = pusher.uploader
        self._target = pusher.api.target
        self._clashes = pusher.metrics.ecr_tag_clashes.labels(self._target.name)
        self._job = job
        self._name = name
        self._there: set[Digest] = set()  # children that are
        self._notes: list[str] = []
        # Why the companions of a manifest are worth another attempt.
        self._later: dict[Digest, MillpondError | QuotaReserved] = {}

    async def run(self) -> Pushed:
        job = self._job
        tags = sorted(job.tags)
        there = await self._api.images(self._name, [job.digest, *tags])
        root = there.get(job.digest)
        complete = root is not None
        if root is None:
            root = await self._supply.manifest(job.repository, job.digest, spare=False)
            check(root)
            lacking = await self._contents(root)
            if lacking is None:
                return Pushed(more=True)
            complete = not lacking
            if lacking:
                self._notes.append(lacking)
        if complete:
            placed = {tag for tag in tags if tag in there and there[tag].digest == job.digest}
            await self._place(root, placed, there=job.digest in there)
        for subject in job.children | job.unaccompanied | {job.digest}:
            if complete or subject in self._there:
                await self._accompany(subject)
        if self._later:
            raise next(iter(self._later.values()))
        if job.clashed:
            self._notes.insert(0, _clash_note(sorted(job.clashed)))
        return Pushed(note="; ".join(self._notes))

    async def _contents(self, root: Manifest) -> str | None:
        """Push what the root names. Returns what is lacking for the root itself, empty if nothing is; None: spare work
        is left, and this is not its turn."""
        job = self._job
        if not root.is_index:
            await self._below(root, spare=False)
            return ""
        entries = children(root)
        self._there = await self._present([child.digest for child in entries])
        for child in choose(entries, self._target.platforms, job.children):
            spare = child.digest not in job.children
            if spare and not job.spare:
                return None
            if child.digest not in self._there:
                await self._manifest(child.digest, spare=spare)
                self._there.add(child.digest)
            if spare and child.attests is None:
                # Before the index: once that is there, whoever begins again after a crash does not look at these.
                await self._accompany(child.digest)
        return shortfall(entries, self._there)

    async def _place(self, root: Manifest, placed: set[Tag], *, there: bool) -> None:
        """Put the root by each of its tags, or by its digest alone."""
        job = self._job
        for tag in sorted(job.tags - placed):
            if tag not in job.tags:
                continue  # a newer pull has moved it to another image meanwhile
            try:
                await self._put(root, tag, spare=False)
                there = True
            except TagTaken:
                job.clash(tag)
                self._clashes.inc()
                structlog.get_logger().warning(
                    "tag not pushed: the repository is immutable, and has it for another image",
                    target=job.target,
                    image=f"{job.repository}:{tag}",
                    digest=job.digest,
                )
        if not there:
            await self._put(root, None, spare=False)

    async def _manifest(self, digest: Digest, *, spare: bool, depth: int = 0) -> None:
        """Push a manifest below the root, by its digest, with all that it names."""
        manifest = await self._supply.manifest(self._job.repository, digest, spare=spare)
        check(manifest)
        await self._below(manifest, spare=spare, depth=depth)
        await self._put(manifest, None, spare=spare, depth=depth)

    async def _below(self, manifest: Manifest, *, spare: bool, depth: int = 0) -> None:
        """Push all that a manifest names, as far as it is not there."""
        if not manifest.is_index:
            await self._uploader.push(self._job, self._name, layers(manifest), spare=spare)
            return
        if depth >= _MAX_DEPTH:
            raise Rejected(f"its indexes are nested more than {_MAX_DEPTH} deep")
        wanted = dict.fromkeys(child.digest for child in children(manifest))
        there = await self._present(list(wanted))
        for digest in wanted:
            if digest not in there:
                await self._manifest(digest, spare=spare, depth=depth + 1)

    async def _put(self, manifest: Manifest, tag: Tag | None, *, spare: bool, depth: int = 0) -> None:
        for attempt in range(1, _PUTS + 1):
            try:
                await self._api.put_image(self._name, manifest, tag)
                break
            except (LayersMissing, ChildrenMissing):
                if attempt == _PUTS:
                    raise
                await self._below(manifest, spare=spare, depth=depth)
        self._job.pushed = True

    async def _present(self, digests: list[Digest]) -> set[Digest]:
        return {found.digest for found in (await self._api.images(self._name, digests)).values()} if digests else set()

    async def _accompany(self, subject: Digest) -> None:
        """Push signatures, attestations and referrers. Their failures never fail the job."""
        if subject in self._job.accompanied or subject in self._later:
            return
        try:
            companions = await self._supply.companions(self._job.repository, subject)
        except (MillpondError, QuotaReserved) as error:
            self._without(error, subject, subject)
            return
        if len(companions) > _MAX_COMPANIONS:
            self._notes.append(f"with {_MAX_COMPANIONS} of the {len(companions)} that belong to {subject:.19}…")
        for companion in companions[:_MAX_COMPANIONS]:
            try:
                await self._companion(companion)
            except (Refused, KeyRefused, RepositoryMissing):
                raise
            except (MillpondError, QuotaReserved) as error:
                self._without(error, subject, companion.digest)
        if subject not in self._later:
            self._job.accompanied.add(subject)
            self._job.unaccompanied.discard(subject)

    async def _companion(self, companion: Companion) -> None:
        digest, tag = companion.digest, companion.tag
        there = await self._api.images(self._name, [digest, tag] if tag else [digest])
        manifest = there.get(digest)
        if manifest is None:
            manifest = await self._supply.manifest(self._job.repository, digest, spare=True)
            check(manifest)
            await self._below(manifest, spare=True)
        if tag is not None and (tag not in there or there[tag].digest != digest):
            try:
                await self._put(manifest, tag, spare=True)
                return
            except TagTaken:
                self._clashes.inc()
                self._notes.append(_clash_note([tag]))
        if digest not in there:
            await self._put(manifest, None, spare=True)

    def _without(self, error: MillpondError | QuotaReserved, subject: Digest, what: Digest) -> None:
        passing = isinstance(error, Passing | UpstreamFailure) and self._job.attempts < _COMPANION_TRIES
        if passing or isinstance(error, QuotaReserved):
            self._later[subject] = error
            self._job.unaccompanied.add(subject)  # at once: when the index is there, nobody looks at its children
        else:
            self._notes.append(f"without what belongs to {what:.19}… (a signature, attestation or referrer): {error}")


def _clash_note(tags: list[Tag]) -> str:
    names = ", ".join(tags[:5]) + (f" and {len(tags) - 5} more" if len(tags) > 5 else "")
    return (
        f"not under the tag {names}: this repository is immutable and has it for another image; "
        "the image is kept by its digest"
    )

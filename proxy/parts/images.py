"""The cache's images, for the operator: looked at, and changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.cache.disk import DiskCache
from proxy.ecr.job import job_key
from proxy.ecr.target import Target
from proxy.ecr.tier import EcrTier
from proxy.oci.digest import Digest
from proxy.oci.names import Repository
from proxy.pull.images import Held, Images
from proxy.pull.keeping import Keeping
from proxy.pull.manifests import Manifests


def make_images(
    cache: DiskCache,
    manifests: Manifests,
    locate: Callable[[str], Repository],
    targets: Sequence[Target] = (),
    tier: EcrTier | None = None,
) -> tuple[Images, Keeping]:
    """`locate` knows the upstreams' names; `tier` pushes to `targets`, if there are any."""
    images = Images(cache, locate, _held(targets, tier) if tier else lambda *_: {})
    return images, Keeping(cache, images, locate, manifests.revalidate)


def _held(targets: Sequence[Target], tier: EcrTier) -> Held:
    """What the queue remembers of each target that takes such images; it forgets the oldest."""

    def held(repository: Repository, digest: Digest) -> dict[str, str]:
        states = {}
        for target in targets:
            if repository.upstream in target.upstreams:
                job = tier.job(job_key(target.name, repository, digest))
                states[target.name] = "unknown" if job is None else "yes" if job.state == "done" else "no"
        return states

    return held

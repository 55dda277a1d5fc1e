"""ECR's side of the house: targets that are read, and the tier that pushes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from proxy.cache.catalog import Catalog
from proxy.cache.disk import DiskCache
from proxy.ecr.api import Api
from proxy.ecr.calls import TRIES
from proxy.ecr.compare import Places
from proxy.ecr.desk import Desk
from proxy.ecr.former import retire
from proxy.ecr.queue import Queue
from proxy.ecr.quota import Quotas
from proxy.ecr.recall import Recall
from proxy.ecr.session import Sessions
from proxy.ecr.source import EcrSource
from proxy.ecr.supply import Pulled, Supply
from proxy.ecr.target import Target
from proxy.ecr.tier import EcrTier
from proxy.ecr.unfinished import Unfinished
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.manifest import INDEXES
from proxy.oci.names import Image, Repository, Tag
from proxy.pull.near import Near
from proxy.upstream.client import Registry
from proxy.upstream.signed import SignedUrls


def make_apis(targets: Sequence[Target], sessions: Sessions, metrics: Metrics, tries: int = TRIES) -> list[Api]:
    """One for each target, in order. Blocks for a moment where there are any."""
    quotas = Quotas()  # who reads has others, so as not to wait behind pushes: together both stay far below ECR's

    def api(target: Target) -> Api:
        client = sessions.client("ecr", target.region, target.role_arn, target.endpoint_url)
        count = metrics.ecr_calls.labels
        return Api(target, client, quotas, lambda call, how: count(target.name, call, how).inc(), tries)

    apis = [api(target) for target in targets]
    sessions.prepare()
    return apis


def make_near(targets: Sequence[Target], sessions: Sessions, signed: SignedUrls, metrics: Metrics) -> list[Near]:
    """What is read, of Millpond's own region first, else in the order of the configuration."""
    here = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    apis = make_apis(targets, sessions, metrics, tries=1)  # what fails is asked of the next tier
    nearest = sorted(apis, key=lambda api: api.target.region != here)
    return [Near(EcrSource(api, signed.blob), metrics=metrics) for api in nearest if api.target.read]


def make_tier(
    apis: Sequence[Api],
    supply: Supply,
    cache: DiskCache,
    near: Sequence[Near],
    *,
    busy: Callable[[], bool],
    metrics: Metrics,
    clock: Callable[[], float],
) -> EcrTier | None:
    """What pushes to all of `apis`, its queue kept beside the cache; `near` hear of what has been pushed. None where
    there is nobody to push to."""
    if not apis:
        return None
    register = cache.register("queue")
    held = dict(register.held)
    queue = Queue(retire(held, {api.target.name for api in apis}, register, clock()), register, clock)
    unfinished = Unfinished(held, register)
    recall = Recall(held, register, lambda: _pulled(cache), clock)
    return EcrTier(
        apis, supply, queue, unfinished, recall, busy=busy, metrics=metrics, clock=clock, pushed=_telling(near)
    )


def make_places(cache: DiskCache, sources: Mapping[str, Registry], apis: Sequence[Api]) -> Places:
    """Everywhere that an image may stand, to be compared."""

    def on_disk(image: Image) -> Digest | None:
        record = cache.catalog.tag(image.repository, image.tag) if image.tag else None
        digest = image.digest or (record.digest if record else None)
        return digest if digest in cache.blobs else None

    def is_index(repository: Repository, digest: Digest) -> bool:
        return cache.catalog.media_type(repository, digest) in INDEXES

    return Places(on_disk, is_index, sources, apis)


def make_desk(
    tier: EcrTier, supply: Supply, places: Places, catalog: Catalog, locate: Callable[[str], Repository]
) -> Desk:
    """What the operator asks of the tier. `locate` knows the upstreams' names."""
    return Desk(tier, supply, places, locate=locate, on_disk=lambda: _tags(catalog))


def _telling(near: Sequence[Near]) -> Callable[[str, Repository], None]:
    """Tells whoever reads a target of what has been pushed to it."""
    readers = {each.name: each for each in near}

    def tell(target: str, repository: Repository) -> None:
        if target in readers:
            readers[target].holds_more(repository)

    return tell


def _pulled(cache: DiskCache) -> Iterator[Pulled]:
    """Every image that is cached, by each of its names."""
    catalog = cache.catalog
    for repository in catalog.repositories():
        for image in catalog.images(repository):
            digest, tag = image.digest, Tag(image.tag) if image.tag else None
            moment = (cache.blobs.used(digest) if image.checked is None else image.checked) or 0.0
            named = catalog.names(repository, digest) if catalog.media_type(repository, digest) in INDEXES else ()
            children = tuple(child for child in named if catalog.media_type(repository, child))
            yield Pulled(repository, digest, tag, moment, children)


def _tags(catalog: Catalog) -> Iterator[Image]:
    """Every tag that is cached."""
    for repository in catalog.repositories():
        for tag in catalog.tags(repository):
            yield Image(repository, Tag(tag), None)

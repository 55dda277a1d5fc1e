"""What is not bytes by digest: tag lists, referrers, and the catalog of what is cached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from proxy.cache.catalog import Catalog, TagRecord
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, Unknown, UpstreamFailure, UpstreamInvalid
from proxy.oci.manifest import OCI_INDEX, Manifest, parse_manifest
from proxy.oci.names import Repository
from proxy.pull.freshness import PATIENCE, Refusals, TagPolicy
from proxy.pull.manifests import Answer, Manifests
from proxy.pull.origin import Origin
from proxy.pull.shared import Shared
from proxy.upstream.client import Registry
from proxy.upstream.listing import MAX_TAGS

# Of upstream's tags, to look for those that a client is shown: enough for the 10,000 of a nightly build of 27 years.
MAX_PAGES: Final = 10
# Verdicts of the access rules in one turn of the event loop.
_AT_ONCE: Final = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Names:
    """A page of names; `more` says that another one follows."""

    names: tuple[str, ...]
    more: bool
    origin: Origin


class Listings:
    """Lists that upstream is asked for, and what the cache answers while it fails."""

    def __init__(
        self,
        manifests: Manifests,
        catalog: Catalog,
        registries: Mapping[str, Registry],
        *,
        policies: Mapping[str, TagPolicy],
        clock: Callable[[], float],
    ) -> None:
        self._manifests = manifests
        self._catalog = catalog
        self._registries = registries
        self._policies = policies
        self._clock = clock
        self._refusals = Refusals()
        self._fetches: Shared[Manifest] = Shared()

    async def tags(
        self, repository: Repository, limit: int, after: str | None, shown: Callable[[str], bool] | None = None
    ) -> Names:
        """At most `limit` tags behind `after`: upstream's, or those that were pulled while upstream fails. Of them
        all, those that are `shown`; no other is named, as a page's last one neither."""
        if shown is None:
            return await self._tags(repository, limit, after)
        found: list[str] = []
        asked, more = 0, True
        origin: Origin = "upstream"
        while more and len(found) <= limit and asked < MAX_PAGES:
            page = await self._tags(repository, MAX_TAGS, after)
            asked, more, origin = asked + 1, page.more and len(page.names) > 0, page.origin
            found += await _judged(shown, page.names)
            after = page.names[-1] if page.names else after
        if more and not found:
            raise UpstreamInvalid(f"among {MAX_PAGES * MAX_TAGS} tags of {repository} there is none that may be pulled")
        return Names(tuple(found[:limit]), more or len(found) > limit, origin)

    async def _tags(self, repository: Repository, limit: int, after: str | None) -> Names:
        try:
            page = await self._registries[repository.upstream].tags(repository.path, limit, after)
            return Names(page.tags, page.more, "upstream")
        except UpstreamFailure as failure:
            known = [tag for tag in self._catalog.tags(repository) if after is None or tag > after]
            if not known:
                raise
            structlog.get_logger().warning("serving cached tags", repository=str(repository), why=str(failure))
            return Names(tuple(known[:limit]), len(known) > limit, "stale")

    async def referrers(self, repository: Repository, digest: Digest) -> Answer:
        """Every referrer of a manifest, as an index.

        Raises:
            ManifestUnknown: upstream has no referrers API; clients then look for the fallback tag.
        """
        policy = self._policies[repository.upstream]
        name = f"referrers/{digest}"
        record = self._catalog.tag(repository, name)
        cached = await self._manifests.cached(repository, record.digest) if record else None
        if record and cached and policy.fresh(record.checked, self._clock()):
            return Answer(cached, "hit")
        usable = record is not None and cached is not None and policy.usable(record.checked, self._clock())
        try:
            fetch = self._fetches.run((repository, digest), partial(self._fetch, repository, digest, name))
            found, joined = await asyncio.wait_for(fetch, PATIENCE if usable else None)
        except Unknown:
            self._catalog.drop_tag(repository, name)
            raise
        except (UpstreamFailure, UpstreamInvalid, TimeoutError):
            if cached is None or not usable:
                raise
            return Answer(cached, "stale")
        return Answer(found, "joined" if joined else "upstream")

    async def repositories(
        self,
        upstream: str | None,
        limit: int,
        after: str | None,
        shown: Callable[[Repository], bool] | None = None,
    ) -> Names:
        """At most `limit` repositories of which something is cached, behind `after`; of one upstream, without its
        name, or of all, each with its upstream in front. Of them all, those that are `shown`."""
        every = [found for found in self._catalog.repositories() if upstream in (None, found.upstream)]
        every = every if shown is None else await _judged(shown, every)
        names = [found.path if upstream else str(found) for found in every]
        names = sorted(name for name in names if after is None or name > after)
        return Names(tuple(names[:limit]), len(names) > limit, "hit")

    async def close(self) -> None:
        await self._fetches.close()

    async def _fetch(self, repository: Repository, digest: Digest, name: str) -> Manifest:
        self._refusals.check(repository, digest)
        try:
            answer = await self._registries[repository.upstream].referrers(repository.path, digest, None)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(repository, digest, refusal=refusal)
            raise
        index = parse_manifest(answer.body, OCI_INDEX)
        await self._manifests.keep(repository, index)
        self._catalog.set_tag(repository, name, TagRecord(index.digest, self._clock()))
        return index


async def _judged(shown: Callable[[T], bool], names: Iterable[T]) -> list[T]:
    """Those that are shown. With a thousand rules a verdict takes a millisecond, so others have their turn between."""
    found: list[T] = []
    for number, name in enumerate(names):
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        if shown(name):
            found.append(name)
    return found

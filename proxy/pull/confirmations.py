"""Whether a repository holds a blob that none of its manifests names: the same bytes elsewhere are no permission."""

from __future__ import annotations

from functools import partial

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, Unknown, UpstreamInvalid
from proxy.oci.names import Repository
from proxy.pull.freshness import Refusals
from proxy.pull.givers import Givers
from proxy.pull.origin import Tier
from proxy.pull.shared import Shared


class Confirmations:
    """Asked of upstream, once for everyone who wants to know at the same time."""

    def __init__(self, store: BlobStore, catalog: Catalog, givers: Givers, refusals: Refusals) -> None:
        self._store = store
        self._catalog = catalog
        self._givers = givers
        self._refusals = refusals
        self._asking: Shared[tuple[int, Tier]] = Shared()

    async def ask(self, repository: Repository, digest: Digest) -> tuple[int, Tier]:
        """The blob's size in bytes, and who says that the repository holds it.

        Upstream's word is remembered once the bytes bear it out: a gateway's page must not stand for the blob for ever.
        That of ECR counts for the moment only, since upstream may have withdrawn the blob long ago.

        Raises:
            BlobUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        answer, _ = await self._asking.run((repository, digest), partial(self._ask, repository, digest))
        return answer

    async def close(self) -> None:
        """End what is being asked."""
        await self._asking.close()

    async def _ask(self, repository: Repository, digest: Digest) -> tuple[int, Tier]:
        self._refusals.check(repository, digest)
        try:
            size, tier = await self._givers.tiers(repository).blob_size(digest)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(repository, digest, refusal=refusal)
            raise
        if digest in self._store:
            if size != self._store.size(digest):
                raise UpstreamInvalid(f"{tier} says that {digest} has {size} bytes: that is not its size")
            if tier == "upstream":
                self._catalog.add_blob(repository, digest, size)
        return size, tier

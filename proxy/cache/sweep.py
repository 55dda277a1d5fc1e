"""Bringing the index and the files together after a start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.files import Found
from proxy.cache.verdict import Verdict
from proxy.oci.digest import Digest

# Digests that are looked up before the event loop has its turn: about a millisecond of it.
_BATCH: Final = 500


def _untold(_digest: Digest, _verdict: Verdict) -> None:
    """Nobody waits for what a sweep finds."""


async def sweep(store: BlobStore, catalog: Catalog, tell: Callable[[Digest, Verdict], None] = _untold) -> None:
    """Once after a start, while requests are served already: adopt whole files that the ledger does not know, drop
    records whose file is gone, evict what has changed. A file is adopted only if it hashes to its name. `tell` is
    called for each blob that is dropped."""
    found = adopted = removed = 0

    def drop(digest: Digest, verdict: Verdict) -> None:
        nonlocal removed
        removed += 1
        tell(digest, verdict)

    async for batch in store.walk():
        found += len(batch)
        for entry in batch:
            store.unconfirmed.discard(entry.digest)
            if entry.digest in store:
                if entry.size != store.size(entry.digest):
                    await store.evict(entry.digest, "damaged")
                    drop(entry.digest, Verdict.DAMAGED)
            elif await _adopt(store, entry):
                adopted += 1
            else:
                drop(entry.digest, Verdict.DAMAGED)
    while store.unconfirmed:
        digest = store.unconfirmed.pop()
        if digest in store and not await _exists(store, digest):
            drop(digest, Verdict.MISSING)
    store.unconfirmed.clear()  # an emptied set gives its memory back only so
    await store.shrink()
    known = iter(catalog.digests())
    while some := list(islice(known, _BATCH)):
        catalog.keep_only(store, some)
        await asyncio.sleep(0)
    structlog.get_logger().info("cache swept", files=found, adopted=adopted, removed=removed, bytes=store.accounted)


async def _exists(store: BlobStore, digest: Digest) -> bool:
    """Whether it can be opened after all: it may have arrived while the directory was being read."""
    blob = await store.open(digest, use=False)
    if blob is None:
        return False
    blob.close()
    return True


async def _adopt(store: BlobStore, entry: Found) -> bool:
    try:
        intact = await store.hashes(entry.digest)
    except OSError:
        return entry.digest in store
    if entry.digest in store:  # it was pulled anew meanwhile
        return True
    if intact:
        store.adopt(entry, used=0.0)
        return await _exists(store, entry.digest)  # it may have been pulled and evicted meanwhile
    await store.evict(entry.digest)
    return False

"""Bringing the index and the files together after a start, and watching over the files from then on."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.files import Files, Found
from proxy.oci.digest import Digest

# A terabyte takes a day and a half at this rate: slow enough to go unnoticed by any disk or core.
_SCRUB_BYTES_PER_SECOND: Final = 8 << 20
# A cache with nothing to check yet is looked at again after this.
_IDLE_SECONDS: Final = 60.0
# To open a file costs a disk as much as to read so many bytes. Without it, small files would be hashed without a pause.
_OPENING_BYTES: Final = 256 << 10
# Digests that are looked up before the event loop has its turn: about a millisecond of it.
_BATCH: Final = 500


async def sweep(files: Files, store: BlobStore, catalog: Catalog) -> None:
    """Once after a start, while requests are served already: adopt whole files that the ledger does not know, drop
    records whose file is gone, evict what has changed. A file is adopted only if it hashes to its name."""
    found = adopted = removed = 0
    async for batch in store.walk():
        found += len(batch)
        for entry in batch:
            store.unconfirmed.discard(entry.digest)
            if entry.digest in store:
                if entry.size != store.size(entry.digest):
                    await store.evict(entry.digest)
                    removed += 1
            elif await _adopt(files, store, entry):
                adopted += 1
            else:
                removed += 1
    while store.unconfirmed:
        digest = store.unconfirmed.pop()
        if digest in store and not await _exists(store, digest):
            removed += 1
    store.unconfirmed.clear()  # an emptied set gives its memory back only so
    await store.shrink()
    known = iter(catalog.digests())
    while some := list(islice(known, _BATCH)):
        catalog.keep_only(store, some)
        await asyncio.sleep(0)
    structlog.get_logger().info("cache swept", files=found, adopted=adopted, removed=removed, bytes=store.accounted)


async def scrub(store: BlobStore) -> None:
    """For ever, at a low rate: hash one file after the other. What no longer fits its name is evicted."""
    while True:
        await asyncio.sleep(_IDLE_SECONDS)
        async for batch in store.walk():
            for entry in batch:
                if entry.digest in store:
                    await store.verify(entry.digest)
                    await asyncio.sleep((entry.size + _OPENING_BYTES) / _SCRUB_BYTES_PER_SECOND)


async def _exists(store: BlobStore, digest: Digest) -> bool:
    """Whether it can be opened after all: it may have arrived while the directory was being read."""
    blob = await store.open(digest)
    if blob is None:
        return False
    blob.close()
    return True


async def _adopt(files: Files, store: BlobStore, entry: Found) -> bool:
    try:
        intact = await asyncio.to_thread(files.intact, entry.digest)
    except OSError:
        return entry.digest in store
    if entry.digest in store:  # it was pulled anew meanwhile
        return True
    if intact:
        store.adopt(entry, used=0.0)
    else:
        await store.evict(entry.digest)
    return intact

"""The scrub: every file on disk is hashed again, slowly and for ever, or all at once when somebody asks for it.

What no longer fits its name is evicted and counted; the next pull fetches it again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.verdict import Verdict
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError

Row = Mapping[str, Any]

# A cache with nothing to check yet is looked at again after this.
_IDLE_SECONDS: Final = 60.0
# To open a file costs a disk as much as to read so many bytes. Without it, small files would be hashed without a pause.
_OPENING_BYTES: Final = 256 << 10
# Between two rows of progress: as often as a bar that moves needs it.
_PROGRESS_SECONDS: Final = 0.25
# Bad blobs that wait for a reader who is slow; then the hashing waits for it too.
_WAITING: Final = 1000


class VerifyRuns(MillpondError):
    """One verification at a time: a second one would only take the disk from the first."""

    def __init__(self) -> None:
        super().__init__("a verification runs already; wait until it has ended, then ask again")


class Scrubber:
    """Hashes what the store holds. What is bad is evicted by the store."""

    def __init__(self, store: BlobStore, *, rate: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        """`rate` is in bytes per second and for `run` only; 0 turns that off."""
        self._store = store
        self._rate = rate
        self._metrics = metrics
        self._clock = clock
        self._verifying = False

    async def run(self) -> None:
        """For ever, one file after the other, at no more than the rate."""
        while self._rate:
            await asyncio.sleep(_IDLE_SECONDS)
            async for batch in self._store.walk():
                for entry in batch:
                    if entry.digest in self._store:
                        await self._check(entry.digest, self._pause)
                        await self._pause(_OPENING_BYTES)
            self._passed()

    def verify(self) -> AsyncGenerator[Row, None]:
        """Hash everything that is there now, without a pause. Whoever closes the generator ends it.

        Rows: {"digest", "verdict"} of each blob that is damaged, missing or unreadable; several times a second
        {"blobs_done", "blobs_total", "bytes_done", "bytes_total"}; the last is {"summary": {"blobs", "bytes", "intact",
        "damaged", "missing", "unreadable"}}: what was looked at, and how many of each.

        Raises:
            MillpondError: at once, when one runs already, or the disk cannot be used.
        """
        self._refuse()
        return self._verify()

    async def _verify(self) -> AsyncGenerator[Row, None]:
        self._refuse()  # once more: the generator may have been started later than it was made
        self._verifying = True
        whole = _Whole(self._store)
        hashing = asyncio.create_task(self._check_all(whole))
        try:
            ended = False
            while not ended:
                ended = bool((await asyncio.wait({hashing}, timeout=_PROGRESS_SECONDS))[0])
                while not whole.bad.empty():
                    yield whole.bad.get_nowait()
                yield whole.progress()
            hashing.result()
            self._passed()
            structlog.get_logger().info("cache verified", **whole.summary())
            yield {"summary": whole.summary()}
        finally:
            hashing.cancel()
            await asyncio.wait({hashing})
            self._verifying = False

    async def _check_all(self, whole: _Whole) -> None:
        for digest in whole.digests:
            verdict = await self._check(digest, whole.count)
            whole.verdicts[verdict] += 1
            if verdict not in (Verdict.INTACT, Verdict.GONE):
                await whole.bad.put({"digest": digest, "verdict": verdict})

    async def _check(self, digest: Digest, hashed: Callable[[int], Awaitable[None]]) -> Verdict:
        async def count(size: int) -> None:
            self._metrics.scrubbed_bytes.inc(size)
            await hashed(size)

        verdict = await self._store.verify(digest, count)
        if verdict is not Verdict.GONE:
            self._metrics.scrubbed_blobs.labels(verdict).inc()
        return verdict

    async def _pause(self, size: int) -> None:
        await asyncio.sleep(size / self._rate)

    def _passed(self) -> None:
        self._metrics.scrub_passed.set(self._clock())

    def _refuse(self) -> None:
        if self._verifying:
            raise VerifyRuns
        if self._store.unusable:
            raise MillpondError(f"there is no cache to verify: {self._store.unusable}")


class _Whole:
    """All blobs of one verification, and how far it is."""

    def __init__(self, store: BlobStore) -> None:
        self.digests = store.digests()
        self.verdicts: Counter[Verdict] = Counter()
        self.bad: asyncio.Queue[Row] = asyncio.Queue(_WAITING)
        self._bytes_total = store.stored
        self._bytes_done = 0

    async def count(self, size: int) -> None:
        self._bytes_done += size

    def progress(self) -> Row:
        return {
            "blobs_done": self.verdicts.total(),
            "blobs_total": len(self.digests),
            "bytes_done": self._bytes_done,
            "bytes_total": self._bytes_total,
        }

    def summary(self) -> dict[str, int]:
        looked = {verdict.value: self.verdicts[verdict] for verdict in Verdict if verdict is not Verdict.GONE}
        return {"blobs": sum(looked.values()), "bytes": self._bytes_done, **looked}

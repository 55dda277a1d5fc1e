"""A flight: one fetch of one blob, with any number of followers of the growing file.

It is a task of its own, detached from every client. It tells its followers what has landed; the last bytes are held
back until the whole has been verified; a failure reaches every follower.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Final

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.files import IncomingFile
from proxy.observe import traces
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Hasher
from proxy.oci.errors import DiskFailure, MillpondError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.pull.delivery import Delivery
from proxy.pull.fetch import Fetch
from proxy.pull.landed import Landed
from proxy.pull.origin import Tier
from proxy.pull.piece import Piece, Segment
from proxy.pull.progress import Pace, Progress
from proxy.pull.writer import Writer

# Held back until the digest is verified. Any byte would do for safety; this much lets a small blob that turns out to
# be wrong be refused with a clean status, before any of it was sent.
_HELD_BACK: Final = 1 << 20
# No follower waits longer than this for the next byte; every wait inside the flight has a shorter deadline.
_FOLLOW_SECONDS: Final = 300.0


class Flight:
    """Start it with `start`; wait for `opened`; then `follow`."""

    def __init__(
        self,
        delivery: Delivery,
        expected: int | None,
        *,
        store: BlobStore,
        metrics: Metrics,
        ended: Callable[[Flight], None],
        spare: bool = False,
    ) -> None:
        """`expected` is the size in bytes that a descriptor states. `ended` is called once it has. `spare`: no client
        waits for it, so one connection is enough until `hurry`."""
        self.digest = delivery.digest
        self.repository = delivery.repository
        self.size = 0  # bytes, once opened
        self.verified = False  # whether all of it has landed and hashes to the digest
        self.misled = False  # it failed by wrong bytes of somebody who is not asked for them again
        self._delivery = delivery
        self._store = store
        self._metrics = metrics
        self._ended_with = ended
        self._fetch = Fetch(
            delivery,
            expected=expected,
            broke=metrics.resumes.labels(self.repository.upstream).inc,
            spare=spare,
        )
        self._landed = Landed()
        self._pace = Pace()
        self._started = time.time()
        self._opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._incoming: IncomingFile | None = None
        self._holders = 0
        self._fetched = False  # nothing more will land
        self._ended = False
        self._failure: MillpondError | None = None
        self._unkept: DiskFailure | None = None
        self._pulse = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._traced(), name=f"flight {self.digest}")

    async def opened(self) -> int:
        """The blob's size in bytes, once upstream has agreed to send it. Raises what made it fail before that."""
        return await asyncio.shield(self._opened)

    @property
    def tier(self) -> Tier:
        """Who brings it, once opened."""
        return self._delivery.tier

    @property
    def progress(self) -> Progress:
        return Progress(
            digest=self.digest,
            repository=str(self.repository),
            upstream=self.repository.upstream,
            tier=self.tier,
            size=self.size if self._opened.done() else None,
            landed=self._pace.total,
            rate=self._pace.rate,
            followers=self._holders,
            connections=self._fetch.connections,
            started=self._started,
            spare=self._fetch.spare,
        )

    def hurry(self) -> None:
        """A client waits for it."""
        self._fetch.hurry()

    def hold(self) -> None:
        """Keep the file readable, whenever the flight ends, until `release`."""
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        self._close_when_unused()

    async def follow(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        """The bytes from `start` to `stop`, as they land. Whoever follows holds the flight.

        A range that ends at the blob's end completes only after verification; an inner one as soon as it is there.

        Raises:
            DiskFailure: the disk gave out; what had arrived until then has been yielded.
            UpstreamFailure, UpstreamInvalid: the flight failed, or nothing came for too long.
        """
        size = await self.opened()
        assert self._incoming is not None
        at = start
        while at < stop or (stop == size and not self.verified):
            inner = stop < size or self.verified
            reach = self._landed.reach(at)
            limit = min(stop, reach if inner else min(reach, size - _HELD_BACK))
            if isinstance(self._failure, DiskFailure):
                limit = min(stop, reach, size - 1)
            if limit > at:
                yield Segment(self._incoming.file, at, limit - at)
                at = limit
            elif self._failure is not None:
                raise self._failure
            else:
                if reach == at:
                    self._fetch.want(at)
                await self._next_pulse()

    async def await_front(self, stop: int) -> None:
        """Wait until all bytes up to `stop` have landed, verified where that is the end, or the flight has failed:
        `follow` tells. Unlike that, it has nothing fetched out of order.

        Raises:
            UpstreamTimeout: nothing came for too long.
        """
        size = await self.opened()
        while self._failure is None and not (self.verified if stop == size else self._landed.front >= stop):
            await self._next_pulse()

    async def _next_pulse(self) -> None:
        """Wait until something has happened."""
        try:
            async with asyncio.timeout(_FOLLOW_SECONDS):
                await self._pulse.wait()
        except TimeoutError:
            raise UpstreamTimeout(f"nothing of {self.digest} arrived for {_FOLLOW_SECONDS:.0f} s") from None

    def arrived(self) -> tuple[Hasher, int]:
        """The hash state over the first bytes of the file, and their number: where somebody else can take over."""
        assert self._incoming is not None
        return self._incoming.hasher.copy(), self._incoming.hashed

    async def kept(self) -> None:
        """Wait for its end. Raises what it failed of, or DiskFailure where it was verified and is not on the disk."""
        assert self._task is not None
        await asyncio.wait({self._task})
        if failure := self._failure or self._unkept:
            raise failure

    async def cancel(self) -> None:
        """End it, and wait for the end. What has been verified is kept first: that takes only as long as the disk."""
        if self._task:
            if not self.verified and not self._task.cancelling():  # a second time would cut its end short
                self._task.cancel()
            await asyncio.wait({self._task})

    # The task: bring the blob, keep it, and tell everyone how that went

    async def _traced(self) -> None:
        with traces.span("flight", digest=self.digest, repository=str(self.repository)) as span:
            try:
                await self._run()
            finally:
                span.note(bytes=self.size, source=self.tier, verified=self.verified)
                if failure := self._failure or self._unkept:
                    span.failed(str(failure))

    async def _run(self) -> None:
        try:
            await self._bring()
            await self._keep()
        except MillpondError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(UpstreamUnreachable("Millpond is shutting down; pull again"))
            raise
        except Exception:  # noqa: BLE001  whatever it is, every follower has to be told
            structlog.get_logger().exception("flight failed", digest=self.digest)
            self._fail(UpstreamUnreachable("Millpond failed to fetch the blob; its log says why"))
        finally:
            # Synchronous up to here from the moment the store had the blob: no request can find neither.
            self._ended = True
            self._ended_with(self)
            if self._incoming is not None and not self.verified:
                await self._store.discard(self._incoming)
            self._close_when_unused()

    async def _bring(self) -> None:
        try:
            size = self.size = await self._fetch.open()
            incoming = self._incoming = await self._store.begin(self.digest, size)
            self._opened.set_result(size)
            hashing = asyncio.create_task(self._hash(incoming))
            try:
                await self._fetch.run(partial(Writer, self._store, incoming, self._advance))
            finally:
                self._fetched = True
                self._wake()
                await hashing  # never cancelled: a thread may be reading the file
        finally:
            await self._fetch.aclose()
        if not incoming.verified:
            self._accuse()
            raise UpstreamInvalid(f"the bytes that {self.tier} sent do not hash to {self.digest}; none were kept")
        self.verified = True
        self._wake()

    async def _hash(self, incoming: IncomingFile) -> None:
        """Follow the front, beside everything else."""
        while incoming.hashed < incoming.size:
            if incoming.hashed < (front := self._landed.front):
                await self._store.hash(incoming, front)
            elif self._fetched:
                return
            else:
                await self._pulse.wait()

    def _advance(self, start: int, stop: int) -> None:
        self._landed.add(start, stop)
        self._pace.add(stop - start)
        self._wake()

    def _wake(self) -> None:
        self._pulse.set()
        self._pulse.clear()

    def _accuse(self) -> None:
        self.misled = self._delivery.blame()
        if not self.misled:
            self._delivery.lanes.beware()  # ranges that are not what they say would look just like this
            self._metrics.unverified.labels("upstream").inc()
            structlog.get_logger().error(
                "upstream sent wrong bytes", digest=self.digest, repository=str(self.repository), size=self.size
            )

    async def _keep(self) -> None:
        assert self._incoming is not None
        try:
            await self._store.commit(self._incoming)
        except DiskFailure as error:
            # Every follower still gets verified bytes from the open file.
            self._unkept = error
            self._metrics.dropped.inc()
            structlog.get_logger().error("blob not kept", digest=self.digest, reason=str(error))

    def _fail(self, error: MillpondError) -> None:
        self._failure = error
        self._metrics.flight_failures.labels(self.repository.upstream, type(error).__name__).inc()
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # a flight that nobody waits for any more may fail in silence
        self._wake()

    def _close_when_unused(self) -> None:
        if self._ended and not self._holders and self._incoming is not None:
            self._incoming.file.close()

"""Bringing one blob: by one connection, or by several as long as the total grows with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from proxy.oci.errors import Denied, MillpondError, UpstreamFailure, UpstreamInvalid
from proxy.pull.delivery import Delivery
from proxy.pull.download import Download
from proxy.pull.plan import Plan

# Smaller blobs are over before a second connection has said hello.
_PARALLEL_FROM: Final = 32 << 20
# How long a number of connections is watched before more are tried, beside the time they take to connect, and what
# the larger number has to bring.
_WATCH_SECONDS: Final = 0.25
_GROWTH: Final = 1.15


class Sink(Protocol):
    """Takes the bytes of one connection, in order, to where they belong."""

    async def write(self, chunk: bytes) -> None: ...
    async def drain(self) -> None: ...


class Fetch:
    """`open` it, then `run` it; `want` tells it what somebody waits for."""

    def __init__(
        self,
        delivery: Delivery,
        *,
        expected: int | None,
        broke: Callable[[], object],
        spare: bool,
    ) -> None:
        """`expected` is the size in bytes that a descriptor states. `broke` is called at each resumption. `spare`: one
        connection, until somebody is in a hurry."""
        self._delivery = delivery
        self._size = expected
        self._broke = broke
        self._hurried = asyncio.Event()
        if not spare:
            self._hurried.set()
        self._first: Download | None = None
        self._plan: Plan | None = None  # None: one connection brings it all
        self._sink: Callable[[int], Sink] | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._over = False
        self._working = 0
        self._wish = 1  # connections that there should be
        self._latency = 0.0  # seconds from a request to the first word of its answer
        self._bytes = 0

    @property
    def spare(self) -> bool:
        """Whether no client waits for it."""
        return not self._hurried.is_set()

    @property
    def connections(self) -> int:
        """Those that bring it at the moment."""
        return self._working

    async def open(self) -> int:
        """Connect; the blob's size in bytes, once the source has agreed to send it."""
        if self._size is not None and self._size >= _PARALLEL_FROM and self._delivery.lanes.per_blob > 1:
            try:
                return await self._open_first_of_many(self._size)
            except UpstreamInvalid as error:
                await self.aclose()
                self._retreat(error)
        self._first = self._download(0, None)
        await self._first.open()
        if self._first.size is None:
            self._first.size = await self._delivery.size()
        self._size = self._first.size
        return self._size

    async def run(self, sink: Callable[[int], Sink]) -> None:
        """Bring all of it; `sink(at)` takes the bytes of one connection from `at` on.

        Raises:
            UpstreamFailure, UpstreamInvalid, Denied: the last connection that was left has failed.
            DiskFailure: a sink has.
        """
        assert self._first is not None
        self._sink = sink
        self._start(self._first)
        steering = asyncio.create_task(self._steer())
        try:
            while self._workers:
                done, _ = await asyncio.wait(self._workers, return_when=asyncio.FIRST_COMPLETED)
                self._workers -= done
                for worker in done:
                    worker.result()
        finally:
            self._over = True
            for task in (steering, *self._workers):
                task.cancel()
            await asyncio.gather(steering, *self._workers, return_exceptions=True)

    def want(self, at: int) -> None:
        """Somebody waits for the byte at `at`: what holds it is fetched next, by one more connection if it may be."""
        if self._plan is None or not self._plan.want(at) or not self._hurried.is_set():
            return
        if self._working < self._delivery.lanes.per_blob:
            self._wish = max(self._wish, self._working + 1)
            self._add_worker()

    def hurry(self) -> None:
        """A client has come: from now on as many connections as help."""
        self._hurried.set()

    async def aclose(self) -> None:
        """Let go of a connection that was opened and never run."""
        if self._first is not None:
            await self._first.aclose()

    async def _open_first_of_many(self, size: int) -> int:
        plan = Plan(size)
        stretch = plan.claim()
        assert stretch is not None
        self._first = self._download(stretch.start, stretch.stop)
        began = time.monotonic()
        if await self._first.open():
            self._latency = time.monotonic() - began
            self._plan = plan
        else:
            self._first.stop = None  # it sends everything, so it may as well
            self._delivery.lanes.beware()
        return size

    async def _steer(self) -> None:
        """Double the connections while that makes the whole faster; when it no longer does, go one step back."""
        await self._hurried.wait()
        rate = 0.0
        before = self._wish
        while self._plan is not None and self._plan.unclaimed and self._working:
            began = self._bytes
            await asyncio.sleep(_WATCH_SECONDS + 2 * self._latency)
            achieved = self._bytes - began
            if achieved < rate * _GROWTH:
                self._wish = min(self._wish, before)
                return
            rate, before = achieved, self._wish
            self._wish = min(self._wish * 2, self._delivery.lanes.per_blob)
            if self._wish == before:
                return
            while self._working < self._wish and self._add_worker():
                pass

    def _add_worker(self) -> bool:
        lanes = self._delivery.lanes
        if self._over or not lanes.take():
            return False
        self._start(None, lanes.give_back)
        return True

    def _start(self, download: Download | None, ended: Callable[[], object] = lambda: None) -> None:
        self._working += 1
        self._workers.add(asyncio.create_task(self._work(download, ended)))

    async def _work(self, download: Download | None, ended: Callable[[], object]) -> None:
        """One connection: stretch after stretch, until there is none or it is one too many."""
        try:
            while download := download or self._next():
                try:
                    await self._connect(download)
                    await self._bring(download)
                except (Denied, UpstreamFailure, UpstreamInvalid) as error:
                    if self._plan is None or self._working == 1 or download.stop is None:
                        raise
                    # The others go on without this one, and with what it leaves.
                    self._plan.give_back(download.at, download.stop)
                    await download.aclose()
                    self._retreat(error)
                    return
                if self._working > self._wish:
                    return
                download = None
        finally:
            self._working -= 1
            ended()

    async def _connect(self, download: Download) -> None:
        """Beside others one attempt is enough: a refusal means one connection too many. Alone, `_bring` is patient."""
        if self._working > 1 and not download.connected:
            try:
                await download.open()
            except (Denied, UpstreamFailure):
                if self._working > 1:
                    raise

    async def _bring(self, download: Download) -> None:
        assert self._sink is not None
        sink = self._sink(download.at)
        try:
            async with download, aclosing(aiter(download)) as chunks:
                async for chunk in chunks:
                    self._bytes += len(chunk)
                    await sink.write(chunk)
        finally:
            await sink.drain()

    def _next(self) -> Download | None:
        stretch = self._plan.claim() if self._plan else None
        return self._download(stretch.start, stretch.stop) if stretch else None

    def _download(self, start: int, stop: int | None) -> Download:
        return Download(self._delivery.open, expected=self._size, start=start, stop=stop, broke=self._broke)

    def _retreat(self, error: MillpondError) -> None:
        self._wish = 1
        self._delivery.lanes.beware()
        upstream = self._delivery.repository.upstream
        structlog.get_logger().warning("one connection a blob from now on", upstream=upstream, why=str(error))

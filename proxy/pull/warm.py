"""Images brought to the disk before anybody pulls them: few blobs at a time, and behind every client.

What is there is skipped, so an interrupted warming is simply begun anew. A flight that was begun goes on to its end,
whoever stops waiting for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar

import structlog

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.ecr.courtesy import Courtesy
from proxy.ecr.image import children, choose
from proxy.ecr.supply import QuotaReserved
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure, MillpondError, RequestError, UpstreamInvalid, UpstreamLimited
from proxy.oci.manifest import Manifest
from proxy.oci.names import Image, Reference, Repository, Tag, parse_image
from proxy.pull.blob import Blob
from proxy.pull.blobs import Blobs
from proxy.pull.homes import Homes
from proxy.pull.manifests import Manifests
from proxy.pull.piece import Segment
from proxy.pull.supply import PullSupply

# Of one request. More than that is a script's mistake, or is sent in parts.
MAX_IMAGES: Final = 2_000
# Of one image, indexes included: beyond anything real, and a bound for a hostile one.
MAX_MANIFESTS: Final = 1_000
# Images of one request whose manifests and blobs are looked at together.
IMAGES_AT_ONCE: Final = 4
# Blobs of all requests together that are brought at a time, each by one connection: enough to fill a line at night,
# and little beside the connections that clients' pulls may have.
BLOBS_AT_ONCE: Final = 4
# A row for an image at most so often, in seconds: what a person sees as moving.
TELL_EVERY: Final = 0.25
# Bytes of a blob between two looks at how far it is.
_STRIDE: Final = 4 << 20
# How often an image waits for upstream's "not now", each time as long as that says, a minute at most.
_LIMITED_TRIES: Final = 10

_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?")
_NO_PLATFORM: Final = "unknown/unknown"  # an attestation's

Row = dict[str, Any]
Platforms = Literal["all"] | tuple[str, ...]
"""Which images of an index: every one, or those of the listed os/architecture[/variant]."""

T = TypeVar("T")


class Unwarmable(MillpondError):
    """The image has nothing of what was asked for."""


class Warmer:
    """One for the whole program: what all requests bring together is bounded."""

    def __init__(
        self,
        supply: PullSupply,
        manifests: Manifests,
        blobs: Blobs,
        store: BlobStore,
        catalog: Catalog,
        *,
        locate: Callable[[str], Repository],
        busy: Callable[[], bool],
        homes: Homes | None = None,
    ) -> None:
        """`locate` knows what a repository's name means here; `busy` says whether a client is being served at this
        moment; `homes` are there where several instances share the blobs."""
        self._supply = supply
        self._manifests = manifests
        self._blobs = blobs
        self._store = store
        self._catalog = catalog
        self._locate = locate
        self._homes = homes
        self._courtesy = Courtesy(busy)
        self._turns = asyncio.Semaphore(BLOBS_AT_ONCE)

    def warm(
        self, images: Sequence[str], platforms: Literal["all"] | Sequence[str] = "all"
    ) -> AsyncGenerator[Row, None]:
        """Bring images to the disk. Rows: image (its full name), state (waiting, pulling, done, failed), bytes_done,
        bytes_total, blobs_done, blobs_total (what is there already counts as done), reason; a row for each image when
        something changes, TELL_EVERY at most. The last one is {"summary": {done, failed, bytes}}: bytes that were not
        there before.

        Raises:
            MillpondError: at once, where a name or a platform cannot be read. Nothing has been begun then.
        """
        if len(images) > MAX_IMAGES:
            raise RequestError(f"{len(images)} images are too many at once; send {MAX_IMAGES} at a time")
        wanted: Platforms = "all" if platforms == "all" else tuple(map(_platform, platforms))
        if not wanted:
            raise RequestError('no platforms are named; write "all", or a list such as ["linux/amd64"]')
        parsed = dict.fromkeys(parse_image(image, self._locate) for image in images)
        return self._rows([_Task(image, wanted) for image in parsed])

    async def _rows(self, tasks: Sequence[_Task]) -> AsyncGenerator[Row, None]:
        changed = dict.fromkeys(tasks)
        wake = asyncio.Event()
        brought: dict[Digest, int] = {}

        def tell(task: _Task) -> None:
            changed[task] = None
            wake.set()

        def ended(_: object) -> None:
            wake.set()

        work = asyncio.create_task(
            _each(tasks, IMAGES_AT_ONCE, lambda task: self._one(task, brought, partial(tell, task)))
        )
        work.add_done_callback(ended)
        try:
            while changed or not work.done():
                while changed:
                    task = next(iter(changed))
                    del changed[task]
                    yield task.row()
                if not work.done():
                    await asyncio.sleep(TELL_EVERY)
                    await wake.wait()
                    wake.clear()
            await work
        finally:
            work.cancel()
            await asyncio.wait({work})
        done = sum(task.state == "done" for task in tasks)
        yield {"summary": {"done": done, "failed": len(tasks) - done, "bytes": sum(brought.values())}}

    async def _one(self, task: _Task, brought: dict[Digest, int], tell: Callable[[], None]) -> None:
        """Never raises: what becomes of it is the task's state."""
        task.become("pulling", tell)
        try:
            task.sizes = await self._content(task, tell)
            tell()
            await _each(task.sizes, BLOBS_AT_ONCE, lambda digest: self._bring(task, digest, brought, tell))
        except (MillpondError, QuotaReserved) as error:
            task.become("failed", tell, str(error))
        except Exception as error:  # noqa: BLE001  a defect with one image must not end those of all others
            structlog.get_logger().exception("warming failed unexpectedly", image=str(task.image))
            task.become("failed", tell, f"something unexpected happened ({type(error).__name__}); the log says more")
        else:
            task.become("done", tell)

    async def _content(self, task: _Task, tell: Callable[[], None]) -> dict[Digest, int]:
        """The blobs of the image's chosen platforms with their sizes, once all of its manifests are here."""
        waiting: list[Reference] = [task.image.reference]
        seen: set[Reference] = set(waiting)
        found: dict[Digest, int] = {}
        while waiting:
            manifest = await self._patient(task, tell, waiting.pop())
            found |= {blob.digest: blob.size for blob in manifest.blobs if not blob.is_foreign}
            new = [digest for digest in _chosen(manifest, task.platforms) if digest not in seen]
            seen.update(new)
            waiting += new
            if len(seen) > MAX_MANIFESTS:
                raise UpstreamInvalid(f"the image consists of more than {MAX_MANIFESTS} manifests; name its platforms")
        return found

    async def _patient(self, task: _Task, tell: Callable[[], None], reference: Reference) -> Manifest:
        """The manifest; an upstream that limits requests is asked again when it says."""
        for _ in range(_LIMITED_TRIES):
            try:
                return await self._manifest(task.image.repository, reference)
            except UpstreamLimited as limited:
                task.become("waiting", tell, str(limited))
                await asyncio.sleep(limited.retry_after)
                task.become("pulling", tell)
        return await self._manifest(task.image.repository, reference)

    async def _manifest(self, repository: Repository, reference: Reference) -> Manifest:
        try:
            return await self._supply.manifest(repository, reference, spare=True)
        except QuotaReserved:
            # Where the tag pointed last is as good as it gets, and what is missing of that costs no quota.
            record = self._catalog.tag(repository, reference) if isinstance(reference, Tag) else None
            if record is None or (cached := await self._manifests.cached(repository, record.digest)) is None:
                raise
            return cached

    async def _bring(self, task: _Task, digest: Digest, brought: dict[Digest, int], tell: Callable[[], None]) -> None:
        repository, size = task.image.repository, task.sizes[digest]

        def landed(count: int) -> None:
            task.landed[digest] = count
            tell()

        if self._blobs.at_hand(digest):
            # Whoever brings it has had a turn for it.
            await self._keep(await self._blobs.open(repository, digest, spare=True), landed)
        else:
            async with self._turns:
                await self._courtesy.quiet()
                brought[digest] = size
                if self._homes is not None and (blob := await self._homes.open(repository, digest)):
                    await _read(blob, landed)
                else:
                    await self._keep(await self._blobs.open(repository, digest, spare=True), landed)
        landed(size)
        task.whole += 1

    async def _keep(self, blob: Blob, landed: Callable[[int], None]) -> None:
        with closing(blob):
            for stop in range(_STRIDE, blob.size, _STRIDE):
                await blob.arrived(stop)
                landed(stop)
            try:
                await blob.kept()
            except DiskFailure as failure:
                raise DiskFailure(f"the disk cache does not keep it: {self._store.trouble or failure}") from failure


@dataclass(slots=True, eq=False)
class _Task:
    """One image, and how far it is. `sizes` are its blobs', in bytes, `landed` how much of each is here."""

    image: Image
    platforms: Platforms
    state: str = "waiting"
    reason: str = ""
    sizes: dict[Digest, int] = field(default_factory=dict)
    landed: dict[Digest, int] = field(default_factory=dict)
    whole: int = 0

    def become(self, state: str, tell: Callable[[], None], reason: str = "") -> None:
        self.state, self.reason = state, reason
        tell()

    def row(self) -> Row:
        return {
            "image": str(self.image),
            "state": self.state,
            "bytes_done": sum(self.landed.values()),
            "bytes_total": sum(self.sizes.values()),
            "blobs_done": self.whole,
            "blobs_total": len(self.sizes),
            "reason": self.reason,
        }


def _chosen(manifest: Manifest, platforms: Platforms) -> list[Digest]:
    """Of an index the children to bring, attestations with their images.

    Raises:
        Unwarmable: it has none of the platforms.
    """
    if platforms == "all" or not manifest.is_index:
        return [child.digest for child in manifest.children]
    chosen = [child.digest for child in choose(children(manifest), platforms, ())]
    if not chosen:
        there = sorted({child.platform for child in manifest.children if child.platform not in (None, _NO_PLATFORM)})
        raise Unwarmable(f"it has none of the platforms {', '.join(platforms)}; it has {', '.join(there) or 'none'}")
    return chosen


async def _read(blob: Blob, landed: Callable[[int], None]) -> None:
    """Have its home bring it, which keeps it: nothing of it stays here."""
    with closing(blob):
        at = 0
        async with aclosing(blob.read(0, blob.size)) as pieces:
            async for piece in pieces:
                at += piece.count if isinstance(piece, Segment) else len(piece)
                landed(at)


async def _each(items: Iterable[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """`work` on each of `items`, so many at a time. The first error ends all of it, and is raised."""
    waiting = iter(items)

    async def one_after_the_other() -> None:
        for item in waiting:
            await work(item)

    workers = [asyncio.create_task(one_after_the_other()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


def _platform(text: str) -> str:
    if not _PLATFORM.fullmatch(text):
        raise RequestError(f"{text[:100]!r} is no platform; write os/architecture, such as linux/amd64")
    return text

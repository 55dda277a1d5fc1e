"""Images carried where no network leads: from the cache into an OCI layout, and from a layout into a cache.

Rows tell how far it is: {image, state (pulling, done, failed), bytes_done, bytes_total, blobs_done, blobs_total,
reason}; the last one is {"summary": {done, failed, bytes}}. What is there already is skipped, and counts as done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final, Protocol

from proxy.cache.files import BlobFile, Files
from proxy.cache.layout import Damaged, Layout, Named
from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid, DiskFailure, MillpondError
from proxy.oci.manifest import Descriptor, Manifest
from proxy.oci.names import Image, Repository, parse_image
from proxy.pull.tree import Incomplete, Tree, tree

Row = dict[str, Any]

# A row at most so often, in seconds: what a person sees as moving.
_TELL_EVERY: Final = 0.25


class Sink(Protocol):
    """A cache that takes images in: one in this process, or that of a server."""

    async def lacking(self, content: Mapping[Digest, int], whole: int) -> Collection[Digest]:
        """What of `content` it does not have. DiskFailure where `whole` bytes have no place in it."""

    async def blob(self, digest: Digest, size: int, file: BinaryIO) -> None:
        """Verify and keep a blob. Raises MillpondError; nothing of it is kept then."""

    async def manifest(self, image: Image, manifest: Manifest) -> None:
        """Keep a manifest that hashes to its digest. Raises MillpondError."""


@dataclass(slots=True)
class _Tally:
    """How far one image is."""

    image: str
    bytes_total: int = 0
    blobs_total: int = 0
    bytes_done: int = 0
    blobs_done: int = 0
    new: int = 0  # bytes that were not there before

    def expect(self, content: Tree) -> None:
        sizes = [size for _, size in content.sizes()]
        self.bytes_total, self.blobs_total = sum(sizes), len(sizes)

    def skip(self, size: int) -> None:
        self.bytes_done += size
        self.blobs_done += 1

    def take(self, digest: Digest, size: int, lacking: set[Digest]) -> None:
        """One is there now, and no longer `lacking` if it was."""
        self.skip(size)
        if digest in lacking:
            lacking.discard(digest)
            self.new += size

    def row(self, state: str = "pulling", reason: str = "") -> Row:
        return {
            "image": self.image,
            "state": state,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "blobs_done": self.blobs_done,
            "blobs_total": self.blobs_total,
            "reason": reason,
        }


@dataclass(slots=True)
class _Summary:
    done: int = 0
    failed: int = 0
    bytes: int = 0

    def row(self) -> Row:
        return {"summary": {"done": self.done, "failed": self.failed, "bytes": self.bytes}}


class _Disk:
    """The cache's disk, as a place of content; what it reads is verified on its way out."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self, digest: Digest) -> bytes | None:
        found = _opened(self._files, digest)
        if found is None:
            return None
        with closing(found):
            return found.file.readall()

    def size(self, digest: Digest) -> int | None:
        found = _opened(self._files, digest)
        if found is None:
            return None
        found.close()
        return found.size


def _opened(files: Files, digest: Digest) -> BlobFile | None:
    try:
        return files.open(digest)
    except OSError as error:
        raise DiskFailure(
            f"{digest} cannot be read in cache.directory ({error.strerror}); run this as the user of the server"
        ) from None


# Out


def export(
    images: Iterable[tuple[Image, Descriptor]], files: Files, layout: Layout, platforms: Collection[str]
) -> Iterator[Row]:
    """Write `images`, each with its root, into a layout that has begun. Those that are done are named in it, however
    this ends. Blocks.

    Raises:
        LayoutUnusable: it cannot be written; the rest is not tried.
    """
    summary, named = _Summary(), list[Named]()
    try:
        for image, root in images:
            tally = _Tally(str(image))
            try:
                content = tree(root, _Disk(files), platforms)
                tally.expect(content)
                yield from _copy(content, files, layout, tally)
            except (Incomplete, Damaged) as error:
                summary.failed += 1
                yield tally.row("failed", f"{error}; `millpond warm {image}` brings what is missing")
                continue
            except DiskFailure as error:
                summary.failed += 1
                yield tally.row("failed", str(error))
                continue
            whole = content.root
            named.append(Named(tally.image, Descriptor(whole.digest, len(whole.body), whole.media_type)))
            summary.done += 1
            summary.bytes += tally.new
            yield tally.row("done", _left_out(content))
    finally:
        layout.add(named)
    yield summary.row()


def _copy(content: Tree, files: Files, layout: Layout, tally: _Tally) -> Iterator[Row]:
    told = 0.0
    for digest, size in content.sizes():
        if layout.holds(digest, size):
            tally.skip(size)
            continue
        found = _opened(files, digest)
        if found is None:
            raise Incomplete(f"{digest} was evicted meanwhile")
        with closing(found):
            for count in layout.copy(digest, found.file):
                tally.bytes_done += count
                tally.new += count
                if time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    yield tally.row()
        tally.blobs_done += 1


# In


async def bring(
    layout: Layout,
    images: Sequence[Named],
    sink: Sink,
    *,
    locate: Callable[[str], Repository],
    platforms: Collection[str] = (),
) -> AsyncGenerator[Row, None]:
    """Take `images` of a layout in, under their names. `locate` knows what a repository's name means here.

    Raises:
        DiskFailure: they have no place in the cache together; nothing is begun.
    """
    summary = _Summary()
    ready: list[tuple[Image, Named]] = []
    content: dict[Digest, int] = {}
    for named in images:
        try:
            image = _image_of(named, locate)
            content |= dict((await asyncio.to_thread(tree, named.root, layout, platforms)).sizes())
        except MillpondError as error:
            summary.failed += 1
            yield _Tally(named.name or named.root.digest).row("failed", str(error))
        else:
            ready.append((image, named))
    lacking = set(await sink.lacking(content, sum(content.values())))
    for image, named in ready:
        tally = _Tally(str(image))
        try:
            found = await asyncio.to_thread(tree, named.root, layout, platforms)
            tally.expect(found)
            async for row in _take_blobs(found, layout, sink, lacking, tally):
                yield row
            for manifest in found.manifests.values():
                tag = image.tag if manifest is found.root else None
                await sink.manifest(replace(image, tag=tag, digest=manifest.digest), manifest)
                tally.take(manifest.digest, len(manifest.body), lacking)
            if gone := await sink.lacking(dict(found.sizes()), 0):
                raise DiskFailure(f"{len(gone)} of its blobs had to go again; make cache.max_size or the disk larger")
        except MillpondError as error:
            summary.failed += 1
            yield tally.row("failed", str(error))
            continue
        except OSError as error:
            summary.failed += 1
            yield tally.row("failed", f"it cannot be read in the layout: {error}")
            continue
        finally:
            summary.bytes += tally.new
        summary.done += 1
        yield tally.row("done", _left_out(found))
    yield summary.row()


async def _take_blobs(
    content: Tree, layout: Layout, sink: Sink, lacking: set[Digest], tally: _Tally
) -> AsyncIterator[Row]:
    for digest, size in content.blobs.items():
        begun = tally.bytes_done
        if digest in lacking:
            with layout.open(digest) as file:
                work = asyncio.create_task(sink.blob(digest, size, file))
                try:
                    while not (await asyncio.wait({work}, timeout=_TELL_EVERY))[0]:
                        tally.bytes_done = begun + file.tell()
                        yield tally.row()
                    work.result()
                finally:
                    work.cancel()
                    await asyncio.wait({work})
        tally.bytes_done = begun
        tally.take(digest, size, lacking)


def _image_of(named: Named, locate: Callable[[str], Repository]) -> Image:
    """Raises MillpondError where the name means nothing here, or something else than what it stands at."""
    if not named.name:
        raise Incomplete(
            "it has no whole name in the layout (io.containerd.image.name, or org.opencontainers.image.ref.name with a "
            "repository), so that nobody knows what to call it"
        )
    image = parse_image(named.name, locate)
    if image.digest not in (None, named.root.digest):
        raise DigestInvalid(f"its name says {image.digest}, and it is {named.root.digest}")
    return image


def _left_out(content: Tree) -> str:
    return f"without {len(content.left_out)} of its platforms" if content.left_out else ""

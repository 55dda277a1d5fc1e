"""`millpond import`"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from proxy.cli.admin_api import AdminApi, Refused
from proxy.cli.cached import Row, locate_in
from proxy.cli.command import command, json_option
from proxy.cli.config import settings_or_exit
from proxy.cli.directory import NotHere, asked_instead, opened
from proxy.cli.export import directory_argument, platforms_option
from proxy.cli.progress import follow
from proxy.oci.digest import Digest
from proxy.oci.errors import ManifestUnknown, MillpondError
from proxy.oci.manifest import Manifest
from proxy.oci.names import Image, Repository, parse_image
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.cache.intake import Intake
    from proxy.cache.layout import Layout, Named

T = TypeVar("T")

_CHUNK: Final = 1 << 20
# Digests of one question: far below what the server reads of one.
_BATCH: Final = 1000


@command(name="import")
@directory_argument
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@platforms_option
@json_option
def import_(
    config_file: Path | None, directory: Path, images: tuple[str, ...], platforms: tuple[str, ...], as_json: bool
) -> int:
    """Take IMAGEs, by default all, from the OCI layout in DIR into the cache. Every byte is verified.

    Fills the cache of the server that runs, else the cache directory itself. Tags count as confirmed at this moment:
    where no upstream can be reached, they are served for its stale_for from now on. Exit 1 if an image fails.
    """
    from proxy.cache.layout import Layout  # noqa: PLC0415 - as in `serve`: `--version` is to be quick

    settings = settings_or_exit(config_file)
    layout = Layout(directory)
    rows = _rows(settings, layout, _wanted(layout, images, locate_in(settings)), platforms)
    return follow(_stepped(rows), "imported", as_json=as_json)


def _wanted(layout: Layout, images: Collection[str], locate: Callable[[str], Repository]) -> list[Named]:
    """Those that are named, or all. Raises ManifestUnknown."""
    held = [(_normal(named.name, locate), named) for named in layout.images()]
    asked = {str(parse_image(image, locate)) for image in images}
    if missing := sorted(asked - {name for name, _ in held}):
        raise ManifestUnknown(f"the layout has no {', '.join(missing)}")
    return [named for name, named in held if not images or name in asked]


def _normal(name: str, locate: Callable[[str], Repository]) -> str:
    """An image's name as we write it; as it stands in the layout where it means nothing here."""
    try:
        return str(parse_image(name, locate))
    except MillpondError:
        return name


async def _rows(
    settings: Settings, layout: Layout, named: list[Named], platforms: Collection[str]
) -> AsyncGenerator[Row, None]:
    from proxy.cache.intake import Intake  # noqa: PLC0415 - as above
    from proxy.pull.shipping import bring  # noqa: PLC0415

    locate = locate_in(settings)
    try:
        async with opened(settings, make=True) as cache:
            sink = _Directory(Intake(cache.blobs, cache.catalog, time.time))
            async for row in bring(layout, named, sink, locate=locate, platforms=platforms):
                yield row
    except NotHere as reason:
        with asked_instead(settings, reason) as api:
            async for row in bring(layout, named, _Server(api), locate=locate, platforms=platforms):
                yield row


def _stepped(rows: AsyncGenerator[Row, None]) -> Iterator[Row]:
    """The same rows for whoever has no event loop."""
    with asyncio.Runner() as runner:
        try:
            while (row := runner.run(_next(rows))) is not None:
                yield row
        finally:
            runner.run(rows.aclose())


async def _next(rows: AsyncGenerator[Row, None]) -> Row | None:
    return await anext(rows, None)


class _Directory:
    """The cache itself takes it in."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def lacking(self, content: Mapping[Digest, int], whole: int) -> Collection[Digest]:
        return self._intake.lacking(content, whole)

    async def blob(self, digest: Digest, size: int, file: BinaryIO) -> None:
        await self._intake.blob(digest, size, _read(file))

    async def manifest(self, image: Image, manifest: Manifest) -> None:
        await self._intake.manifest(image, manifest)


async def _read(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK):
        yield chunk


class _Server:
    """The running program takes it in."""

    def __init__(self, api: AdminApi) -> None:
        self._api = api

    async def lacking(self, content: Mapping[Digest, int], whole: int) -> Collection[Digest]:
        digests, found = list(content), set[Digest]()
        for start in range(0, len(digests), _BATCH):
            blobs = {digest: content[digest] for digest in digests[start : start + _BATCH]}
            answer = await _asked(self._api.post, "/api/v1/import/lacking", {"blobs": blobs, "whole": whole})
            found |= set(map(Digest.parse, answer["lacking"]))
        return found

    async def blob(self, digest: Digest, size: int, file: BinaryIO) -> None:
        content = iter(lambda: file.read(_CHUNK), b"")
        kind = "application/octet-stream"
        await _asked(self._api.send, "/api/v1/import/blob", {"digest": digest}, content, size, kind)

    async def manifest(self, image: Image, manifest: Manifest) -> None:
        query, size = {"image": str(image)}, len(manifest.body)
        await _asked(self._api.send, "/api/v1/import/manifest", query, [manifest.body], size, manifest.media_type)


async def _asked(call: Callable[..., T], *arguments: Any) -> T:
    """What the server answers. A refusal concerns the one image; everything else is the end."""
    try:
        return await asyncio.to_thread(call, *arguments)
    except Refused as error:
        raise MillpondError(str(error)) from None

"""`millpond pin | unpin | purge | refresh | reload`"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import text
from proxy.cli.cached import Row, locate_in
from proxy.cli.command import api_of, command, json_option
from proxy.cli.completion import image_names
from proxy.cli.config import settings_or_exit
from proxy.cli.directory import directory_or_server
from proxy.oci.errors import Unsupported
from proxy.oci.figures import sized
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.cache.disk import DiskCache
    from proxy.pull.keeping import Keeping

_image = click.argument("image", shell_complete=image_names)


@command()
@_image
@json_option
def pin(config_file: Path | None, image: str, as_json: bool) -> int:
    """Keep IMAGE, whatever has to make room. What is pulled of it later stays as well."""

    async def change(keeping: Keeping) -> Row:
        return keeping.pin(image)

    return _change(config_file, "pin", image, change, what="kept" if not as_json else "")


@command()
@_image
@json_option
def unpin(config_file: Path | None, image: str, as_json: bool) -> int:
    """Let IMAGE go again when room is needed."""

    async def change(keeping: Keeping) -> Row:
        return keeping.unpin(image)

    return _change(config_file, "unpin", image, change, what="may go" if not as_json else "")


@command()
@_image
@json_option
def purge(config_file: Path | None, image: str, as_json: bool) -> int:
    """Remove IMAGE from the cache, with all that no other image names. Its copies in ECR stay."""

    async def change(keeping: Keeping) -> Row:
        return await keeping.purge(image)

    return _change(config_file, "purge", image, change, what="removed" if not as_json else "")


@command()
@_image
@json_option
def refresh(config_file: Path | None, image: str, as_json: bool) -> int:
    """Ask upstream now where the tag of IMAGE points."""
    answer = api_of(config_file).post("/api/v1/refresh", {"image": image})
    if as_json:
        click.echo(json.dumps(answer))
        return 0
    before, after = (text.short(answer[key] or "nothing") for key in ("before", "after"))
    said = f"moved from {before} to {after}" if answer["changed"] else f"still at {after}"
    text.print_line([answer["image"], said if answer["confirmed"] else f"{said}, by ECR: upstream does not answer"])
    return 0


@command()
@json_option
def reload(config_file: Path | None, as_json: bool) -> int:
    """Have the server read its configuration again. One that cannot be used is refused, and the old one stays."""
    answer = api_of(config_file).post("/api/v1/reload", {})
    if as_json:
        click.echo(json.dumps(answer))
        return 0
    text.print_line(["changed", ", ".join(answer["changed"]) or "nothing"])
    if answer["restart"]:
        text.print_line(["needs a restart", ", ".join(answer["restart"])])
    return 0


def _change(
    config_file: Path | None, name: str, image: str, change: Callable[[Keeping], Awaitable[Row]], *, what: str
) -> int:
    """By the server, or in the directory while none runs; then say `what` was done, as JSON where that is empty."""
    settings = settings_or_exit(config_file)

    async def in_directory(cache: DiskCache) -> Row:
        return await change(_keeping(settings, cache))

    answer = directory_or_server(settings, in_directory, lambda api: api.post(f"/api/v1/{name}", {"image": image}))
    if not what:
        click.echo(json.dumps(answer))
    else:
        blobs = text.count(answer["digests"], "blob")
        text.print_line([answer["image"], f"{what}: {blobs}, {sized(answer['bytes'])}"])
    return 0


def _keeping(settings: Settings, cache: DiskCache) -> Keeping:
    from proxy.pull.images import Images  # noqa: PLC0415 - as in `serve`: `--version` is to be quick
    from proxy.pull.keeping import Keeping  # noqa: PLC0415

    async def revalidate(*_: Any) -> Any:
        raise Unsupported("no upstream is asked while no server runs")

    locate = locate_in(settings)
    return Keeping(cache, Images(cache, locate), locate, revalidate)

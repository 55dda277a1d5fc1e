"""`millpond export`"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import click

from proxy.cli.cached import Row, cached_images, full_name, locate_in
from proxy.cli.command import command, json_option
from proxy.cli.completion import image_names
from proxy.cli.config import settings_or_exit
from proxy.cli.progress import follow
from proxy.oci.digest import Digest
from proxy.oci.errors import ManifestUnknown
from proxy.oci.manifest import Descriptor
from proxy.oci.names import Image, parse_image
from proxy.settings import Settings

directory_argument = click.argument("directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
platforms_option = click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Of an index these only, such as linux/amd64."
)


@command()
@directory_argument
@click.argument("images", nargs=-1, metavar="[IMAGE]...", shell_complete=image_names)
@platforms_option
@json_option
def export(
    config_file: Path | None, directory: Path, images: tuple[str, ...], platforms: tuple[str, ...], as_json: bool
) -> int:
    """Write IMAGEs, by default all that are cached, to DIR as an OCI layout, with their signatures.

    Of an index the platforms that are on disk; `millpond warm` brings the others. What DIR has already is not written
    again. Reads the cache directory: if a server runs, run this beside it. Exit 1 if an image is not whole.
    """
    from proxy.cache.files import Files  # noqa: PLC0415 - as in `serve`: `--version` is to be quick
    from proxy.cache.layout import Layout  # noqa: PLC0415
    from proxy.pull import shipping  # noqa: PLC0415

    settings = settings_or_exit(config_file)
    chosen = _chosen(settings, images)
    layout = Layout(directory)
    layout.begin()
    rows = shipping.export(chosen, Files(settings.cache.directory), layout, platforms)
    return follow(rows, "exported", as_json=as_json)


def _chosen(settings: Settings, names: Collection[str]) -> list[tuple[Image, Descriptor]]:
    """What is to be exported, each with its root, whose size is not known yet. Raises ManifestUnknown where one is not
    cached at all."""
    locate = locate_in(settings)
    if names:
        rows = [row for name in names for row in _found(settings, parse_image(name, locate))]
    else:
        rows = list(cached_images(settings))
    unique = {full_name(row): row for row in rows}
    return [
        (parse_image(name, locate), Descriptor(Digest.parse(row["digest"]), 0, row["media_type"]))
        for name, row in unique.items()
    ]


def _found(settings: Settings, image: Image) -> Iterator[Row]:
    """The image, and what is signed or attested of it: cosign tags that with the digest."""
    name = str(image.repository)
    rows = [row for row in cached_images(settings, name) if row["name"] == name]
    mine = [row for row in rows if image.digest in (None, row["digest"]) and image.tag in (None, row["tag"])]
    if not mine:
        raise ManifestUnknown(f"{image} is not in the cache; `millpond warm {image}` brings it")
    yield from mine
    signed = {str(row["digest"]).replace(":", "-") for row in mine}
    yield from (row for row in rows if row["tag"] and row["tag"].partition(".")[0] in signed)

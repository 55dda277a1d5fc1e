"""`millpond warm`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click

from proxy.cli.cached import locate_in
from proxy.cli.command import api_of, command, json_option
from proxy.cli.completion import image_names
from proxy.cli.config import settings_or_exit
from proxy.cli.progress import follow
from proxy.cli.sources import listed, of_chart, of_cluster
from proxy.oci.errors import MillpondError
from proxy.oci.names import parse_image
from proxy.settings import Settings

_chart = click.Path(exists=True, file_okay=False, path_type=Path)
_values = click.Path(exists=True, dir_okay=False, path_type=Path)


@command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...", shell_complete=image_names)
@click.option("-f", "--file", type=click.File(), help="A file with one IMAGE a line; - is standard input.")
@click.option("--from-cluster", is_flag=True, help="The images of all pods that kubectl tells of.")
@click.option("--from-chart", "chart", type=_chart, metavar="DIR", help="The images of a Helm chart, by helm template.")
@click.option("--values", type=_values, multiple=True, metavar="FILE", help="Values for --from-chart.")
@click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Of an index these only, by default all."
)
@json_option
def warm(
    *,
    config_file: Path | None,
    images: tuple[str, ...],
    file: TextIO | None,
    from_cluster: bool,
    chart: Path | None,
    values: tuple[Path, ...],
    platforms: tuple[str, ...],
    as_json: bool,
) -> int:
    """Bring IMAGEs into the cache before anybody pulls them, behind every client. What is there is skipped.

    Exit 1 if one of them failed. Whoever breaks it off can simply begin anew.
    """
    settings = settings_or_exit(config_file)
    found = [*(of_cluster() if from_cluster else ()), *(of_chart(chart, values) if chart else ())]
    try:
        lines = listed(file)
    except UnicodeDecodeError:
        raise MillpondError(f"{file.name if file else '-'} is not text in UTF-8; write it as such") from None
    wanted = list(dict.fromkeys([*images, *lines, *_ours(settings, found)]))
    if not wanted and not found:
        raise click.UsageError("name an IMAGE, or where to find some: -f FILE, --from-cluster, --from-chart DIR")
    if not wanted:
        raise MillpondError("none of these images is of an upstream that is configured here")
    body = {"images": wanted, "platforms": list(platforms) or "all"}
    return follow(api_of(config_file).stream("/api/v1/warm", body=body), "warm", as_json=as_json)


def _ours(settings: Settings, found: Sequence[str]) -> list[str]:
    """Those of our upstreams. A cluster has others, which are named, but are no reason to bring none."""
    locate, ours = locate_in(settings), list[str]()
    for image in found:
        try:
            ours.append(str(parse_image(image, locate)))
        except MillpondError as error:
            click.echo(f"millpond: left out {image}: {error}", err=True)
    return ours

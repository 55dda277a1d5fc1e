"""`millpond images`"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from proxy.cli import text
from proxy.cli.cached import Row, cached_images, full_name
from proxy.cli.command import command, json_option
from proxy.cli.completion import image_names
from proxy.cli.config import settings_or_exit
from proxy.oci.figures import sized, span_of

_HEADS = ["image", "digest", "size", "on disk", "platforms", "confirmed", "used", "", "held by"]


@command()
@click.argument("pattern", default="", shell_complete=image_names)
@json_option
def images(config_file: Path | None, pattern: str, as_json: bool) -> int:
    """List cached images whose name:tag@digest has PATTERN in it, or fits it as a glob (with * ? or []).

    Reads the cache directory itself while no server runs. Exit 1 if there is none.
    """
    found = cached_images(settings_or_exit(config_file), pattern)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        now = time.time()
        text.print_table(_HEADS, [_cells(row, now) for row in found])
    return 0 if found else 1


def _cells(row: Row, now: float) -> list[str]:
    targets = sorted(name for name, held in row["held"].items() if held == "yes")
    return [
        full_name(row),
        text.short(row["digest"]),
        sized(row["size"]),
        text.share(row["present"], row["size"]),
        ", ".join(row["platforms"]),
        _ago(row["checked"], now),
        _ago(row["used"], now),
        "pinned" if row["pinned"] else "",
        ", ".join(targets),
    ]


def _ago(moment: float | None, now: float) -> str:
    return f"{span_of(now - moment)} ago" if moment else ""

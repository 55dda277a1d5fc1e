"""`millpond ecr plan | status | retry | sync | verify`"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final, TextIO

import click

from proxy.cli import show
from proxy.cli.cached import locate_in
from proxy.cli.command import api_of, command, json_option
from proxy.cli.config import settings_or_exit
from proxy.cli.sources import listed
from proxy.ecr.plan import Login, plan
from proxy.oci.names import parse_image
from proxy.settings import Settings, Upstream, ecr_targets

_ACCOUNT: Final = re.compile(r"://(\d{12})\.dkr[.-]ecr")  # as the host of a private registry begins


@click.group()
def ecr() -> None:
    """Amazon ECR: what is pushed there, and what it takes."""


@command(ecr.command)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@json_option
def _plan(config_file: Path | None, images: tuple[str, ...], as_json: bool) -> int:
    """Print which repositories IMAGEs would get in each target, and the least IAM policy for this configuration.

    Asks neither AWS nor a running Millpond.
    """
    settings = settings_or_exit(config_file)
    parsed = [parse_image(image, locate_in(settings)) for image in images]
    document = plan(ecr_targets(settings), _logins(settings), parsed)
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(document, indent=2))
    else:
        show.plan(document)
    return 0


@command(ecr.command)
@json_option
def _status(config_file: Path | None, as_json: bool) -> int:
    """Show each target, and what waits or has failed, with the reason."""
    document = api_of(config_file).get("/api/v1/ecr")
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        show.status(document)
    return 0


@command(ecr.command)
@click.option("--target", metavar="NAME", help="Of this target only.")
@click.argument("image", required=False)
def _retry(config_file: Path | None, target: str | None, image: str | None) -> int:
    """Begin at once what was rejected or waits: all of it, or IMAGE's."""
    body = {key: value for key, value in (("target", target), ("image", image)) if value is not None}
    count = api_of(config_file).post("/api/v1/ecr/retry", body)["retried"]
    click.echo(f"{count} {'image begins' if count == 1 else 'images begin'} at once")
    return 0


@command(ecr.command)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--file", type=click.File(), help="A file with one IMAGE a line; - is standard input.")
@json_option
def _sync(config_file: Path | None, images: tuple[str, ...], file: TextIO | None, as_json: bool) -> int:
    """Push IMAGEs to all targets, and wait until they are there. Exit 1 if one of them is not."""
    wanted = [*images, *listed(file)]
    if not wanted:
        raise click.UsageError("name an IMAGE, or a file of them with --file")
    rows = api_of(config_file).stream("/api/v1/ecr/sync", body={"images": wanted})
    summary = show.as_lines(rows) if as_json else show.sync(rows)
    return 1 if summary.get("failed") else 0


@command(ecr.command)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@json_option
def _verify(config_file: Path | None, images: tuple[str, ...], as_json: bool) -> int:
    """Compare IMAGEs, by default all that are on disk, with upstream and every target. Exit 1 if they differ."""
    rows = api_of(config_file).stream("/api/v1/ecr/verify", query={"image": images})
    summary = show.as_lines(rows) if as_json else show.verify(rows)
    return 1 if summary.get("differs") or summary.get("unverified") else 0


def _logins(settings: Settings) -> list[Login]:
    return [_login(name, upstream) for name, upstream in settings.upstreams.items() if upstream.auth == "ecr"]


def _login(name: str, upstream: Upstream) -> Login:
    account = _ACCOUNT.search(upstream.url)
    return Login(
        upstream=name,
        region=upstream.region or "",
        account=account[1] if account else None,
        role_arn=upstream.role_arn,
        public=upstream.is_ecr_public,
    )

"""`millpond check`"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.config import config_option, settings_or_exit
from proxy.observe import logs
from proxy.oci.errors import MillpondError
from proxy.settings import Cache, Settings, Size

if TYPE_CHECKING:
    from proxy.upstream.client import Registry

# An upstream that needs longer for /v2/ and a token would also be too slow for a node that waits for its image.
DEADLINE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    ok: bool
    detail: str


@click.command()
@config_option
def check(config_file: Path | None) -> None:
    """Validate the configuration, try each upstream and look at the cache directory. Exit 0 if all is well, else 1."""
    settings = settings_or_exit(config_file)
    logs.configure(settings.log.format, "error")  # a retry that is logged would tear the report apart
    findings = [cache_state(settings.cache), *asyncio.run(upstream_states(settings)), *ecr_states(settings)]
    report(findings)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


async def upstream_states(settings: Settings) -> list[Finding]:
    """Tries all upstreams at once; takes at most DEADLINE."""
    from proxy import app  # noqa: PLC0415 - as in `serve`: `--version` is to be quick

    registries = app.registries(settings)
    try:
        return await asyncio.gather(
            *(_state(name, settings.upstreams[name].url, registry) for name, registry in registries.items())
        )
    finally:
        for registry in registries.values():
            await registry.aclose()


async def _state(name: str, url: str, registry: Registry) -> Finding:
    subject = f"upstream {name}"
    try:
        async with asyncio.timeout(DEADLINE):
            await registry.ping()
    except TimeoutError:
        return Finding(
            subject, False, f"{url} did not answer within {DEADLINE:.0f} s; check the network, a proxy or a firewall"
        )
    except (MillpondError, OSError) as error:
        return Finding(subject, False, str(error))
    return Finding(subject, True, f"{url} answers")


def ecr_states(settings: Settings) -> list[Finding]:
    """A target that is configured is not used yet; whoever configured it should know."""
    return [
        Finding(f"ecr target {target.name}", True, "its settings are valid; this version does not push to ECR yet")
        for target in settings.ecr.targets
    ]


def cache_state(cache: Cache) -> Finding:
    """Whether the directory could be used now, and how much of it. Nothing is created."""
    subject, directory = "cache.directory", cache.directory
    present = next(path for path in (directory, *directory.parents) if path.exists())
    if not present.is_dir():
        return Finding(subject, False, f"{present} is not a directory; move it away or write another cache.directory")
    if not os.access(present, os.W_OK | os.X_OK):
        return Finding(
            subject, False, f"{present} is not writable by user id {os.geteuid()}; change its owner or cache.directory"
        )
    usage = shutil.disk_usage(present)
    state = "is there" if present == directory else "will be created"
    budget = min(cache.max_size.resolve(usage.total), usage.total)
    kept_free = cache.min_free.resolve(usage.total)
    if usage.free < kept_free:
        return Finding(
            subject,
            False,
            f"only {_size(usage.free)} free on the file system of {present}, and cache.min_free keeps "
            f"{_size(kept_free)} of it; make room or lower cache.min_free",
        )
    return Finding(
        subject, True, f"{directory} {state}; up to {_size(budget)} will be used, {_size(usage.free)} free now"
    )


def _size(count: int) -> str:
    for unit in ("TiB", "GiB", "MiB"):
        whole = Size.parse(f"1{unit}").bytes
        if count >= whole:
            return f"{count / whole:.1f} {unit}"
    return f"{count} bytes"


def report(findings: Sequence[Finding]) -> None:
    """A table on a terminal; elsewhere one plain line a finding, fit for grep."""
    if not sys.stdout.isatty():
        for finding in findings:
            click.echo(f"{'ok' if finding.ok else 'FAILED'}\t{finding.subject}\t{finding.detail}")
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("", "", "", show_header=False, box=None)
    for finding in findings:
        mark = Text("ok", style="green") if finding.ok else Text("FAILED", style="bold red")
        table.add_row(mark, Text(finding.subject), Text(finding.detail))
    Console().print(table)

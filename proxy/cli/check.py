"""`millpond check`"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from proxy.cli.config import config_option, settings_or_exit
from proxy.ecr.errors import Refused, RepositoryMissing
from proxy.ecr.target import Target
from proxy.observe import logs
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, MillpondError
from proxy.oci.figures import sized
from proxy.oci.names import Repository
from proxy.settings import Cache, Settings, Upstream, ecr_targets

if TYPE_CHECKING:
    from proxy.ecr.session import Sessions
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
    """Validate the configuration, try each upstream and each ECR target, and look at the cache directory.

    Exit 0 if all is well, else 1. Nothing is created or changed.
    """
    settings = settings_or_exit(config_file)
    logs.configure(settings.log.format, "error")  # a retry that is logged would tear the report apart
    findings = [cache_state(settings.cache), *asyncio.run(_remote_states(settings))]
    report(findings)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


async def _remote_states(settings: Settings) -> list[Finding]:
    from proxy.ecr.session import Sessions  # noqa: PLC0415 - as in `serve`: `--version` is to be quick

    sessions = Sessions()
    try:
        upstreams, targets = await asyncio.gather(
            upstream_states(settings, sessions), ecr_states(ecr_targets(settings), sessions)
        )
    finally:
        await sessions.aclose()
    return [*upstreams, *targets]


async def upstream_states(settings: Settings, sessions: Sessions) -> list[Finding]:
    """Tries all upstreams at once; takes at most DEADLINE."""
    from proxy.parts.upstreams import registries  # noqa: PLC0415 - as above

    made = registries(settings, sessions)
    try:
        return await asyncio.gather(
            *(upstream_state(name, settings.upstreams[name], registry) for name, registry in made.items())
        )
    finally:
        for registry in made.values():
            await registry.aclose()


async def upstream_state(name: str, upstream: Upstream, registry: Registry) -> Finding:
    """Asks it for the API's root, as `upstream` has it configured; takes at most DEADLINE."""
    subject = f"upstream {name}"
    try:
        async with asyncio.timeout(DEADLINE):
            await registry.ping()
    except TimeoutError:
        return Finding(
            subject,
            False,
            f"{upstream.url} did not answer within {DEADLINE:.0f} s; check the network, a proxy or a firewall",
        )
    except Denied as error:
        if upstream.auth is None:
            return Finding(subject, False, str(error))
        key, value = ("role_arn", upstream.role_arn) if upstream.role_arn else ("auth", upstream.auth)
        return Finding(subject, False, f"upstreams.{name}.{key}: {value!r} -> {error}")
    except (MillpondError, OSError) as error:
        return Finding(subject, False, str(error))
    return Finding(subject, True, f"{upstream.url} answers")


async def ecr_states(targets: Sequence[Target], sessions: Sessions) -> list[Finding]:
    """Logs in to all targets at once, by their roles, and asks for a layer; takes at most DEADLINE."""
    return await asyncio.gather(*(_target_state(index, target, sessions) for index, target in enumerate(targets)))


async def _target_state(index: int, target: Target, sessions: Sessions) -> Finding:
    subject = f"ecr target {target.name}"
    try:
        async with asyncio.timeout(DEADLINE):
            account = await _try_target(target, sessions)
    except TimeoutError:
        key = _blamed(index, target, "endpoint_url", "region")
        return Finding(subject, False, f"{key} -> no answer within {DEADLINE:.0f} s; check the network or a firewall")
    except Refused as error:
        return Finding(subject, False, f"{_blamed(index, target, 'role_arn', 'account')} -> {error}")
    except (MillpondError, OSError) as error:
        return Finding(subject, False, f"{_blamed(index, target, 'endpoint_url', 'region')} -> {error}")
    other = f"; as account {account}, which its repositories must allow" if account != target.account else ""
    return Finding(subject, True, f"{target.registry} answers{other}")


async def _try_target(target: Target, sessions: Sessions) -> str:
    """The account that the credentials are of. Raises as `Api` does, when it may not log in, or not look."""
    from proxy.ecr.api import Api  # noqa: PLC0415 - as above
    from proxy.ecr.quota import Quotas  # noqa: PLC0415

    client = sessions.client("ecr", target.region, target.role_arn, target.endpoint_url)
    answer = await client.call("get_authorization_token", timeout=DEADLINE)
    # What may be asked of a repository is decided before whether there is one.
    name = target.repository_name(Repository(min(target.upstreams), "millpond/check"))
    with contextlib.suppress(RepositoryMissing):
        await Api(target, client, Quotas(), lambda *_: None).missing_layers(name, [Digest.of(b"")])
    host = urlsplit(str(answer["authorizationData"][0].get("proxyEndpoint"))).hostname or ""
    return host.partition(".")[0] if host.endswith(target.registry.partition(".")[2]) else target.account


def _blamed(index: int, target: Target, *keys: str) -> str:
    """The first of `keys` that has a value, with its path and that value."""
    key, value = next((key, value) for key in keys if (value := getattr(target, key)))
    return f"ecr.targets[{index}].{key}: {value!r}"


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
            f"only {sized(usage.free)} free on the file system of {present}, and cache.min_free keeps "
            f"{sized(kept_free)} of it; make room or lower cache.min_free",
        )
    return Finding(
        subject, True, f"{directory} {state}; up to {sized(budget)} will be used, {sized(usage.free)} free now"
    )


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

"""`millpond status`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import text
from proxy.cli.admin_api import AdminApi
from proxy.cli.cached import Row
from proxy.cli.command import command, json_option
from proxy.cli.config import settings_or_exit
from proxy.cli.directory import directory_or_server
from proxy.oci.figures import sized, span_of

if TYPE_CHECKING:
    from proxy.cache.disk import DiskCache


@command()
@json_option
def status(config_file: Path | None, as_json: bool) -> int:
    """Show how the server is: cache, upstreams, ECR targets, and what it has saved.

    While none runs, what is in the cache directory. Exit 0 if it is ready and all is well, else 1.
    """
    settings = settings_or_exit(config_file)

    async def in_directory(cache: DiskCache) -> dict[str, Any]:
        max_size, min_free = cache.blobs.budget
        room = {
            "state": cache.blobs.trouble or "ok",
            "directory": str(settings.cache.directory),
            "bytes": cache.blobs.accounted,
            "blobs": cache.blobs.count,
            "max_size": max_size,
            "min_free": min_free,
            "free": await cache.blobs.free(),
            "pinned_bytes": cache.blobs.pinned,
        }
        return {"ready": False, "cache": room}

    def by_server(api: AdminApi) -> dict[str, Any]:
        return api.get("/api/v1/status")

    found = directory_or_server(settings, in_directory, by_server)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    return 0 if _well(found) else 1


def _well(found: Row) -> bool:
    """An upstream that fails or limits is no fault of this program's, but whoever asks wants to know."""
    troubled = [each for each in found.get("upstreams", ()) if each["state"] not in ("ok", "idle")]
    config = found.get("config", {}).get("error")
    return bool(found["ready"] and found["cache"]["state"] == "ok" and not troubled and not config)


def _show(found: Row) -> None:
    text.print_table(["", "", "", ""], [_program(found), _cache(found["cache"])])
    if "version" not in found:
        return
    if error := found["config"]["error"]:
        text.print_line(["config", "refused", error])
    text.print_table(
        ["upstream", "state", "requests", "failures", "fetched", "rate limit", "why"],
        [_upstream(each, found["now"]) for each in found["upstreams"]],
        kind="upstream",
    )
    counts = ("queued", "pushing", "done", "rejected")
    text.print_table(
        ["ecr target", "state", *counts],
        [[each["name"], each["state"], *(str(each[count]) for count in counts)] for each in found["ecr"]],
        kind="ecr",
    )


def _program(found: Row) -> list[str]:
    if "version" not in found:
        return ["server", "stopped", "this is what lies in the directory", ""]
    totals = found["totals"]
    state = "ok" if found["ready"] else "draining" if found["draining"] else "not ready"
    hits = f" ({text.share(totals['hits'], totals['requests'])} hits)" if totals["requests"] else ""
    work = f"{text.count(found['active'], 'response')} and {text.count(found['flights'], 'download')} in progress"
    moved = ", ".join(f"{sized(totals[f'{way}_bytes'])} {way}" for way in ("served", "fetched", "saved"))
    return [
        f"millpond {found['version']}",
        state,
        f"up {span_of(found['now'] - found['started'])}, {work}, loop at most {found['lag'] * 1000:.0f} ms late",
        f"{text.count(totals['requests'], 'request')}{hits}, {moved}",
    ]


def _cache(room: Row) -> list[str]:
    free = sized(room["free"]) if room["free"] is not None else "nobody knows how much"
    filled = f"{sized(room['bytes'])} of {sized(room['max_size'])}, {sized(room['pinned_bytes'])} pinned"
    return [
        "cache",
        room["state"],
        f"{text.count(room['blobs'], 'blob')}, {filled}",
        f"{free} free, of which {sized(room['min_free'])} stay so",
    ]


def _upstream(each: Row, now: float) -> list[str]:
    limit = each["rate_limit"]
    until = f" (asked again in {span_of(each['until'] - now)})" if each["until"] else ""
    return [
        each["name"],
        each["state"],
        str(each["requests"]),
        str(each["failures"]),
        sized(each["fetched_bytes"]),
        f"{limit['remaining']} of {limit['limit']} left" if limit else "",
        f"{each['why'] or ''}{until}",
    ]

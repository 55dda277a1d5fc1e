"""`millpond verify`"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click

from proxy.cli.admin_api import AdminApi, ApiError
from proxy.cli.config import EXIT_UNUSABLE, config_option, settings_or_exit
from proxy.cli.directory import directory_or_server
from proxy.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from proxy.cache.disk import DiskCache
    from proxy.cache.verdict import Verdict
    from proxy.oci.digest import Digest

Row = Mapping[str, Any]

# What a summary counts beside intact blobs. The first two are evicted, and fetched again at the next pull.
_BAD: Final = ("damaged", "missing", "unreadable")


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON: each bad blob, progress, a summary.")
def verify(config_file: Path | None, as_json: bool) -> None:
    """Hash every blob in the cache. A damaged one is evicted, and fetched again when it is asked for.

    Asks the Millpond that runs with this configuration; opens the cache directory itself while none does.
    Exit 0 if all are intact, else 1.
    """
    settings = settings_or_exit(config_file)
    shown: _Lines | _Bars = _Lines(as_json) if as_json or not sys.stdout.isatty() else _Bars()
    try:
        with shown:
            summary = _verified(settings, shown)
    except ApiError as error:
        click.echo(f"millpond: {error}", err=True)
        sys.exit(EXIT_UNUSABLE)
    shown.end(summary)
    sys.exit(1 if any(summary[verdict] for verdict in _BAD) else 0)


def _verified(settings: Settings, shown: _Lines | _Bars) -> Row:
    """The summary. Raises ApiError where there is neither a directory to open nor a server to ask."""

    async def in_directory(cache: DiskCache) -> Row:
        dropped: Counter[str] = Counter()

        def tell(digest: Digest, verdict: Verdict) -> None:
            dropped[verdict] += 1
            shown.take({"digest": digest, "verdict": verdict})

        async with aclosing(cache.scrubber.verify()) as rows:
            await cache.settle(tell)
            async for row in rows:
                if "summary" in row:
                    return {**row["summary"], **{name: row["summary"][name] + dropped[name] for name in _BAD}}
                shown.take(row)
        raise AssertionError("the rows end with their summary")

    def by_server(api: AdminApi) -> Row:
        for row in api.stream("/api/v1/cache/verify", body={}):
            if "summary" in row:
                return dict(row["summary"])
            shown.take(row)
        raise AssertionError("a stream ends with its summary, or with an error")

    return directory_or_server(settings, in_directory, by_server)


class _Lines(AbstractContextManager["_Lines"]):
    """For pipes and files: a line for each bad blob; as JSON, every row."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def __exit__(self, *_: object) -> None:
        pass

    def take(self, row: Row) -> None:
        if self._json:
            click.echo(json.dumps(row))
        elif "digest" in row:
            click.echo(f"{row['verdict']}\t{row['digest']}")

    def end(self, summary: Row) -> None:
        click.echo(json.dumps({"summary": summary}) if self._json else _sentence(summary))


class _Bars(AbstractContextManager["_Bars"]):
    """For a terminal: a bar over the bytes, and above it each bad blob."""

    def __init__(self) -> None:
        from rich import progress  # noqa: PLC0415 - only a terminal needs it

        self._bars: Progress = progress.Progress(
            progress.TextColumn("{task.fields[blobs]}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        self._task = self._bars.add_task("", total=None, blobs="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def take(self, row: Row) -> None:
        if "digest" in row:
            self._bars.console.print(f"{row['verdict']}  {row['digest']}", style="bold red", highlight=False)
        else:
            self._bars.update(
                self._task,
                completed=row["bytes_done"],
                total=row["bytes_total"],
                blobs=f"{row['blobs_done']} of {row['blobs_total']} blobs",
            )

    def end(self, summary: Row) -> None:
        click.echo(_sentence(summary))


def _sentence(summary: Row) -> str:
    bad = ", ".join(f"{summary[verdict]} {verdict}" for verdict in _BAD)
    text = f"{summary['blobs']} blobs, {summary['bytes']} bytes: {summary['intact']} intact, {bad}"
    if summary["damaged"] or summary["missing"]:
        text += "; what was damaged is gone, and is fetched again when it is asked for"
    return text

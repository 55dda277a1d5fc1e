"""How far `warm`, `export` and `import` are: bars on a terminal, a line for each image that has ended elsewhere.

Rows are {image, state, bytes_done, bytes_total, blobs_done, blobs_total, reason}, `state` one of waiting, pulling,
done and failed; the last one is {"summary": {done, failed, bytes}}.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from proxy.cli import text
from proxy.cli.show import as_lines
from proxy.oci.figures import sized

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Row = Mapping[str, Any]

_ENDED: Final = frozenset({"done", "failed"})


def follow(rows: Iterable[Row], verb: str, *, as_json: bool) -> int:
    """Show them until the summary. The exit code: 1 if an image has failed. `verb` is what was done, as `exported`."""
    if as_json:
        return 1 if as_lines(rows).get("failed") else 0
    summary = _bars(rows) if text.on_terminal() else _lines(rows)
    failed = f", {summary['failed']} failed" if summary["failed"] else ""
    click.echo(f"{text.count(summary['done'], 'image')} {verb}, {sized(summary['bytes'])}{failed}")
    return 1 if summary["failed"] else 0


def _lines(rows: Iterable[Row]) -> Row:
    summary: Row = {}
    for row in rows:
        if "summary" in row:
            summary = row["summary"]
        elif row["state"] in _ENDED:
            text.print_line([row["state"], row["image"], row["reason"] or sized(row["bytes_total"])])
    return summary


def _bars(rows: Iterable[Row]) -> Row:
    """A bar for each image that is on its way, one over all; above them what has ended."""
    from rich import progress  # noqa: PLC0415 - only a terminal needs it

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TextColumn("{task.fields[blobs]}"),
    )
    newest: dict[str, Row] = {}
    tasks: dict[str, progress.TaskID] = {}
    with progress.Progress(*columns) as bars:
        whole = bars.add_task("in all", blobs="", total=None)
        for row in rows:
            if "summary" in row:
                return dict(row["summary"])
            image = row["image"]
            newest[image] = row
            if row["state"] in _ENDED:
                if image in tasks:
                    bars.remove_task(tasks.pop(image))
                line = [row["state"], image, row["reason"] or sized(row["bytes_total"])]
                bars.console.print(*map(text.styled, line), sep="  ")
            elif row["state"] == "pulling":
                if image not in tasks:
                    tasks[image] = bars.add_task(image, blobs="")
                _move(bars, tasks[image], [row], f"{row['blobs_done']} of {row['blobs_total']} blobs")
            ended = sum(one["state"] in _ENDED for one in newest.values())
            _move(bars, whole, newest.values(), f"{ended} of {len(newest)} images")
    return {}


def _move(bars: Progress, task: TaskID, rows: Collection[Row], blobs: str) -> None:
    done, total = (sum(row[key] for row in rows) for key in ("bytes_done", "bytes_total"))
    bars.update(task, completed=done, total=total or None, blobs=blobs)

"""What the commands of `millpond ecr` print: tables and bars on a terminal, plain lines with tabs elsewhere."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click

from proxy.cli.text import on_terminal, print_line, print_table, share, short

Row = Mapping[str, Any]

ENDED: Final = frozenset({"done", "rejected", "waiting", "failed"})


def plan(document: Row) -> None:
    """For a terminal; elsewhere a plan is JSON."""
    for target in document["targets"]:
        rows = [[found["image"], found.get("name") or found["problem"]] for found in target["repositories"]]
        click.secho(f"{target['name']}: {target['registry']}, by {target['identity']}", bold=True)
        print_table(["image", "repository"], rows)
        if settings := next((found["settings"] for found in target["repositories"] if "settings" in found), None):
            click.echo(f"  created with {json.dumps(settings)}")
    for entry in document["policies"]:
        click.secho(f"\nIAM policy for {entry['identity']}", bold=True)
        click.echo(json.dumps(entry["policy"], indent=2))


def status(document: Row) -> None:
    """Targets, then jobs, those that failed first."""
    targets, jobs = document["targets"], sorted(document["jobs"], key=_urgency)
    counts = ["queued", "pushing", "done", "rejected"]
    print_table(
        ["target", "registry", "state", *counts],
        [
            [found["name"], found["registry"], found["state"], *(str(found[count]) for count in counts)]
            for found in targets
        ],
        kind="target",
    )
    off = [[found["name"], name, why] for found in targets for name, why in found["repositories_off"].items()]
    print_table(["target", "repository that is left out", "why"], off, kind="repository")
    print_table(["target", "image", "state", "progress", "reason"], [_job(job) for job in jobs], kind="job")


def sync(rows: Iterable[Row]) -> Row:
    """Shows the progress until the summary, which it returns."""
    follow = _bars if on_terminal() else _changes
    summary = follow(iter(rows))
    click.echo(f"{summary['done']} done, {summary['failed']} failed")
    return summary


def verify(rows: Iterable[Row]) -> Row:
    """A table once all is known, elsewhere a line as soon as an image is; returns the summary."""
    found: list[Row] = []
    summary: Row = {}
    terminal = on_terminal()
    for row in rows:
        if "summary" in row:
            summary = row["summary"]
        elif terminal:
            found.append(row)
        else:
            places = {"disk": row["disk"], "upstream": row["upstream"], **row["targets"]}
            print_line([row["verdict"], row["image"], *(f"{name}: {_cell(place)}" for name, place in places.items())])
    names = list(dict.fromkeys(name for row in found for name in row["targets"]))
    lines = [
        [
            row["verdict"],
            row["image"],
            _cell(row["disk"]),
            _cell(row["upstream"]),
            *(_cell(row["targets"][name]) for name in names),
        ]
        for row in found
    ]
    print_table(["", "image", "disk", "upstream", *names], lines)
    click.echo(", ".join(f"{count} {verdict}" for verdict, count in summary.items()))
    return summary


def as_lines(rows: Iterable[Row]) -> Row:
    """Each row as a line of JSON, the summary too, which it returns."""
    summary: Row = {}
    for row in rows:
        summary = row.get("summary", {})
        click.echo(json.dumps(row))
    return summary


def _changes(rows: Iterator[Row]) -> Row:
    """A line when a state changes, not for each piece of progress."""
    last: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        if "summary" in row:
            return dict(row["summary"])
        key, now = _key(row), (row["state"], row["reason"])
        if last.get(key) != now:
            last[key] = now
            print_line([row["state"], *key, row["reason"]])
    return {}


def _bars(rows: Iterator[Row]) -> Row:
    """One bar for each target, over the bytes of all its images; what failed stands above them."""
    from rich import progress  # noqa: PLC0415 - only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    newest: dict[str, dict[str, Row]] = defaultdict(dict)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TextColumn("{task.fields[images]}"),
    )
    with progress.Progress(*columns) as bars:
        tasks: dict[str, progress.TaskID] = {}
        for row in rows:
            if "summary" in row:
                return dict(row["summary"])
            target, image = _key(row)
            newest[target][image] = row
            if row["state"] in ENDED - {"done"}:
                bars.console.print(Text(f"{row['state']}  {target}  {image}  {row['reason']}", style="bold red"))
            if target not in tasks:
                tasks[target] = bars.add_task(target, images="")
            mine = newest[target].values()
            bars.update(
                tasks[target],
                completed=sum(one["bytes_done"] for one in mine),
                total=sum(one["bytes_total"] for one in mine),
                images=f"{sum(one['state'] in ENDED for one in mine)} of {len(mine)} images",
            )
    return {}


def _urgency(job: Row) -> tuple[bool, bool]:
    return job["state"] != "rejected", not job["reason"]


def _job(job: Row) -> list[str]:
    tags = ", ".join(sorted(job["tags"]))
    image = f"{job['repository']}{f':{tags}' if tags else ''}@{short(job['digest'])}"
    done, total = job["bytes_done"], job["bytes_total"]
    waits = f" (again in {job['next_try']:.0f} s)" if job["next_try"] else ""
    return [job["target"], image, job["state"], share(done, total), (job["reason"] or job["note"]) + waits]


def _key(row: Row) -> tuple[str, str]:
    return row["target"] or "all targets", row["image"]


def _cell(place: Row) -> str:
    return short(place["digest"]) if place["digest"] else str(place["note"])

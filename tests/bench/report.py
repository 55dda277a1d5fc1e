"""Medians and ratios: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.bars import verdicts
from tests.bench.measure import Measurement


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `cpu`, `after` and `upstream` are medians, `peak` is the most; None: not measured."""

    case: str
    peer: str
    unit: str
    median: float
    least: float
    most: float
    ratio: float
    """The median over that of the case's first peer."""
    cpu: float | None
    peak: float | None
    after: float | None
    upstream: float | None
    values: list[float]


def show(found: Sequence[Row]) -> None:
    table = Table(title="medians of the rounds", caption=_CAPTION, caption_justify="left")
    table.add_column("case", max_width=34)
    table.add_column("who", no_wrap=True)
    headings = ("median", "least", "most", "x first", "unit", "CPU", "peak MiB", "after MiB", "upstream")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    for case, group in groupby(found, lambda row: row.case):
        for number, row in enumerate(group):
            numbers = (row.median, row.least, row.most, row.ratio)
            costs = (row.cpu, row.peak, row.after, row.upstream)
            cells = [*map(_number, numbers), row.unit, *map(_number, costs)]
            table.add_row("" if number else case, row.peer, *cells)
        table.add_section()
    console = Console(width=None if Console().is_terminal else 170)
    console.print(table)
    bars = Table(title="what issue 3 promises, in this run")
    for heading in ("bar", "wanted", "found", ""):
        bars.add_column(heading)
    for verdict in verdicts(found):
        bars.add_row(verdict.bar, verdict.wanted, verdict.found, "met" if verdict.met else "MISSED")
    console.print(bars)


_CAPTION = (
    "CPU: the server's seconds of processor time for each GiB that clients got (manifests: for each 1,000 requests). "
    "peak, after: its resident memory. upstream: what the upstream sent, as a multiple of the content."
)


def write(found: Sequence[Row], path: Path, load: float = 0.0) -> None:
    """`load` is the machine's load average before the first case.

    {"machine": {...}, "results": [a Row each], "bars": [{bar, wanted, found, met}, ...]}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": load,
    }
    document = {"machine": machine, "results": list(map(asdict, found)), "bars": list(map(asdict, verdicts(found)))}
    path.write_text(json.dumps(document, indent=2) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of what `write` wrote."""
    document: dict[str, Any] = json.loads(path.read_text())
    return [Row(**result) for result in document["results"]]


def rows(measurements: Iterable[Measurement]) -> list[Row]:
    found = []
    for _, group in groupby(measurements, lambda measurement: measurement.case):
        base = 0.0
        for measurement in group:
            median = statistics.median(measurement.values)
            base = base or median
            found.append(
                Row(
                    case=measurement.case,
                    peer=measurement.peer,
                    unit=measurement.unit,
                    median=median,
                    least=min(measurement.values),
                    most=max(measurement.values),
                    ratio=median / base if base else 0.0,
                    cpu=_median(measurement.cpu),
                    peak=max(measurement.peak, default=None),
                    after=_median(measurement.after),
                    upstream=_median(measurement.upstream),
                    values=measurement.values,
                )
            )
    return found


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.2f}"

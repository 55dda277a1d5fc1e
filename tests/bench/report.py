"""Medians and ratios: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.cases import Measurement


def show(measurements: Iterable[Measurement]) -> None:
    table = Table("case", "who", title="medians, with the least and the most of the rounds")
    for heading in ("median", "least", "most", "x the first"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    previous = ""
    for row in rows(measurements):
        if row["case"] != previous and previous:
            table.add_section()
        numbers = [f"{row[key]:.2f}" for key in ("median", "least", "most", "ratio")]
        table.add_row(row["case"] if row["case"] != previous else "", row["peer"], *numbers, row["unit"])
        previous = row["case"]
    Console().print(table)


def write(measurements: Iterable[Measurement], path: Path) -> None:
    """{"machine": {...}, "results": [{case, peer, unit, median, least, most, ratio, values}, ...]}"""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"machine": machine, "results": list(rows(measurements))}, indent=2) + "\n")


def rows(measurements: Iterable[Measurement]) -> Iterator[dict[str, Any]]:
    """One for each measurement; `ratio` is its median over that of the case's first peer."""
    for case, group in groupby(measurements, lambda measurement: measurement.case):
        base = 0.0
        for measurement in group:
            median = statistics.median(measurement.values)
            base = base or median
            yield {
                "case": case,
                "peer": measurement.peer,
                "unit": measurement.unit,
                "median": median,
                "least": min(measurement.values),
                "most": max(measurement.values),
                "ratio": median / base if base else 0.0,
                "values": measurement.values,
            }

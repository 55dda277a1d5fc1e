"""The pictures in the README. `python -m tests.bench.plots build/bench.json` draws those of an earlier run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.report import Row, read

PLACE: Final = Path(__file__).parent / "plots"
COLORS: Final = {
    "millpond": "#2f81f7",
    "nginx sendfile": "#3fa34d",
    "distribution proxy": "#d9822b",
    "direct": "#8b949e",
}
INK: Final = "#7d8590"
"""Of text and lines: as legible on white as on a dark page, because the ground is transparent."""
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "path",  # no font is needed where it is looked at
    "svg.hashsalt": "millpond",  # the same figures give the same file
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
SIZE: Final = (6.4, 3.0)
"""Inches; at 72 points each, what a page of text has room for."""


def draw(rows: Sequence[Row], directory: Path = PLACE) -> list[Path]:
    """Write a picture for each case that `rows` has, and return where they are."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(STYLE):
        for name, picture in (("warm", _warm), ("storm", _storm), ("limited", _limited)):
            figure = Figure(SIZE, layout="constrained")
            if picture(figure.subplots(), rows):
                file = directory / f"{name}.svg"
                figure.savefig(file, transparent=True, metadata={"Date": None, "Creator": None})
                drawn.append(file)
    return drawn


def _warm(axes: Axes, rows: Sequence[Row]) -> bool:
    """Lines: throughput over clients."""
    points = dict(_points(rows, r"warm blob, (\d+) clients?"))
    for peer in ("nginx sendfile", "millpond", "distribution proxy"):
        mine = [(clients, row.median) for (clients, name), row in points.items() if name == peer]
        _line(axes, peer, mine)
    ticks = sorted({clients for clients, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.set(title="A cached blob: GB/s, all clients together", xlabel="clients")
    return bool(points)


def _storm(axes: Axes, rows: Sequence[Row]) -> bool:
    """Bars: seconds until the last node has the image."""
    found = [row for row in rows if row.case.startswith("storm") and row.case.endswith("last node")]
    labels = []
    for place, row in enumerate(found):
        state = "cold" if "cold" in row.case else "warm"
        labels.append(f"{state}: {row.peer}")
        axes.barh(place, row.median, color=COLORS[row.peer], height=0.65)
        axes.text(row.median, place, f"  {row.median:.1f} s", va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    title = ",".join(found[0].case.split(",")[:2]) if found else ""
    axes.set(title=f"{title.capitalize()}: seconds to the last node".replace("mib", "MiB"))
    return bool(found)


def _limited(axes: Axes, rows: Sequence[Row]) -> bool:
    """Lines: MB/s of a cold pull, direct and through Millpond, over what the upstream gives each connection."""
    points = dict(_points(rows, r"cold blob of \d+ MiB, (\d+|no) (?:MB/s|limit) a connection"))
    speeds = sorted({speed for speed, _ in points}, key=lambda speed: speed or float("inf"))
    for peer in ("direct", "millpond"):
        mine = [(place, points[speed, peer].median) for place, speed in enumerate(speeds)]
        _line(axes, peer, mine)
        for place, value in mine:
            best = value == max(points[speeds[place], name].median for name in ("direct", "millpond"))
            axes.annotate(
                f"{value:,.0f}",
                (place, value),
                (0, 7 if best else -7),
                textcoords="offset points",
                ha="center",
                va="bottom" if best else "top",
            )
    axes.set_xticks(range(len(speeds)), [f"{speed:g} MB/s" if speed else "no limit" for speed in speeds])
    axes.set_yscale("log")
    axes.set_yticks([])
    axes.minorticks_off()
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1, y=0.2)
    axes.set(title="A cold blob, one client: MB/s (log scale)", xlabel="what the upstream gives each connection")
    return bool(points)


def _line(axes: Axes, peer: str, points: Sequence[tuple[float, float]]) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", color=COLORS[peer], label=peer, linewidth=2)
        axes.legend(loc="lower right", ncols=3)


def _points(rows: Sequence[Row], pattern: str) -> Iterator[tuple[tuple[float, str], Row]]:
    """((the number in the case's name, or 0 for "no", the peer), the row)."""
    for row in rows:
        if match := re.fullmatch(pattern, row.case):
            number: Any = match[1]
            yield (float(0 if number == "no" else number), row.peer), row


if __name__ == "__main__":
    for written in draw(read(Path(sys.argv[1]))):
        print(written)

"""python -m tests.bench: run the cases and show Millpond beside its peers."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench import report
from tests.bench.cases import CASES, EXTRA
from tests.bench.measure import MIB, Effort, Measurement
from tests.bench.stage import stage

PLOTS = Path(__file__).parent / "plots"
STORM, FULL_STORM = 512, 2048
"""MiB of the storm's image: what fits the time of a default run, and issue 3's."""

QUIET = 0.5
"""Load average above which something else takes part in the measurement."""


def main() -> None:
    options = _options()
    cases = {**CASES, **EXTRA}
    if unknown := [name for name in options.cases if name not in cases]:
        raise SystemExit(f"no such case: {', '.join(unknown)}; there are {', '.join(cases)}")
    names = options.cases or list(CASES)
    found: list[Measurement] = []
    load = os.getloadavg()[0]
    if load > QUIET:
        print(f"this machine is busy (load {load:.1f}): what is measured will be uneven, and ratios with it")
    with (
        tempfile.TemporaryDirectory(prefix="millpond-bench-", dir=options.directory) as directory,
        stage(Path(directory), options.size * MIB) as played,
        _progress() as progress,
    ):
        task = progress.add_task("", total=len(names))
        began = time.monotonic()

        def say(what: str) -> None:
            progress.update(task, description=what)
            if not progress.console.is_terminal:
                progress.console.print(f"{time.monotonic() - began:5.0f} s  {what}", highlight=False)

        storm = FULL_STORM if options.full else options.storm
        effort = Effort(options.rounds, options.seconds, options.nodes, storm * MIB, say)
        for name in names:
            found.extend(cases[name](played, effort))
            progress.advance(task)
    rows = report.rows(found)
    report.show(rows)
    report.write(rows, options.json, load)
    if options.plots:
        from tests.bench import plots

        plots.draw(rows, PLOTS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Millpond beside its peers. By default about ten minutes, with a storm of a quarter of issue 3's.",
    )
    known = f"of {', '.join(CASES)}; all of these without any; besides: {', '.join(EXTRA)}"
    parser.add_argument("cases", nargs="*", metavar="case", help=known)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each peer (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of a rate (default 2)")
    parser.add_argument("--size", type=int, default=1024, help="of the blob, in MiB (default 1024)")
    parser.add_argument("--nodes", type=int, default=100, help="of the storm (default 100)")
    parser.add_argument("--storm", type=int, default=STORM, help=f"the storm's image, in MiB (default {STORM})")
    parser.add_argument("--full", action="store_true", help=f"a storm of {FULL_STORM} MiB, as issue 3 has it")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="default build/bench.json")
    parser.add_argument("--plots", action="store_true", help="draw tests/bench/plots/*.svg anew")
    parser.add_argument("--directory", type=Path, help="for blobs and caches, about five times the size; default: /tmp")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.nodes) <= 0 or options.size < 64:
        parser.error("rounds, seconds and nodes are above 0, the size is 64 or more")
    return options


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    main()

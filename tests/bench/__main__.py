"""python -m tests.bench: run the cases and show Millpond beside its peers."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench import peers, report
from tests.bench.cases import CASES, Effort, Measurement

MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Millpond beside its peers.")
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all without any")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each peer (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of a rate (default 2)")
    parser.add_argument("--size", type=int, default=1024, help="of the blob, in MiB (default 1024)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="default build/bench.json")
    parser.add_argument("--directory", type=Path, help="for blobs and caches, about five times the size; default: /tmp")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    found: list[Measurement] = []
    with (
        tempfile.TemporaryDirectory(prefix="millpond-bench-", dir=options.directory) as directory,
        peers.stage(Path(directory), options.size * MIB) as stage,
    ):
        for name in options.cases or CASES:
            found.extend(CASES[name](stage, Effort(options.rounds, options.seconds)))
    report.show(found)
    report.write(found, options.json)


if __name__ == "__main__":
    main()

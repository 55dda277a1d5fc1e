"""python -m tests.soak: ten minutes of mixed load, and what they leave behind."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of load (default 600)")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of images and faults")
    parser.add_argument("--directory", type=Path, help="for the cache and the log; kept. Default: a temporary one")
    options = parser.parse_args()
    if options.seconds < 10:
        parser.error("--seconds is 10 or more")
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr, flush=True)

    say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="millpond-soak-") as temporary:
        report = soak(options.seconds, options.seed, options.directory or Path(temporary), say)
    print("\n".join(report.lines()))
    return 1 if list(report.failures()) else 0


if __name__ == "__main__":
    sys.exit(main())

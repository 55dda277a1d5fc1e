#!/usr/bin/env python3
"""pins.py LOCK PACKAGE…: the entries of these packages, with their hashes, out of a lock file.

The build needs the build backend, not all that development needs. pip itself refuses a list that is not complete.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main() -> None:
    lock, wanted = Path(sys.argv[1]).read_text(), sys.argv[2:]
    entries = {entry.partition("==")[0]: entry for entry in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)}
    missing = [name for name in wanted if name not in entries]
    if missing:
        sys.exit(f"not in {sys.argv[1]}: {', '.join(missing)}")
    sys.stdout.write("".join(entries[name] for name in wanted))


main()

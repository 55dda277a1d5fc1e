"""`python -m tests.conformance`: the reports of the suite, before docker-registry and before one with referrers.

Ends with 1 when one of them is not a pass.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.conformance import shelf
from tests.conformance.suite import PROGRAM, run
from tests.support.millpond import Millpond
from tests.support.programs import find
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream


def main() -> int:
    missing = [name for name in (PROGRAM, "docker-registry") if find(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}. `make test` installs them, as root.", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        real = Registry(directory / "registry").start()
        stack.callback(real.stop)
        plain, full = (shelf.make(directory / "layers", referrers=referrers) for referrers in (False, True))
        scripted = stack.enter_context(ScriptedUpstream())
        for root, tags in plain.roots.items():
            real.push(root, shelf.REPOSITORY, *tags)
        for root, tags in full.roots.items():
            scripted.add(root, shelf.REPOSITORY, *tags)
        upstreams = {"real.test": real.upstream(), "scripted.test": scripted.upstream()}
        millpond = Millpond({"upstreams": upstreams}, directory / "millpond").start()
        stack.callback(millpond.stop)
        held = {"real.test": plain, "scripted.test": full}
        reports = [run(f"{millpond.host}/{name}", shelf.REPOSITORY, one, directory) for name, one in held.items()]
    for name, report in zip(upstreams, reports, strict=True):
        print(f"===== in front of {name}\n{report.text}")
    return 0 if all(report.verdict == "Pass" for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())

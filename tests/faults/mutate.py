"""python -m tests.faults.mutate [ROW…]: take away one behaviour after the other, and see that a test notices."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from tests.faults.mutations import MUTATIONS, Mutation

_ROOT: Final = Path(__file__).parents[2]
# Whoever can serve a blob, cold and warm, works on the whole. A mutation that prevents even that proves nothing.
_WORKS: Final = "test_head_of_a_warm_blob_asks_nobody"
# For one test with all of its cases. A behaviour whose loss is a hang is noticed by the tests' own deadlines.
_DEADLINE: Final = 300.0
# For a test that was interrupted, to end the programs that it has started.
_GRACE: Final = 30.0
# What is not the project's own, and is large.
_LEFT_OUT: Final = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist")
_TEST: Final = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)
_TAIL: Final = 1500  # characters of what pytest said

Outcome = Literal["passed", "failed", "unclear"]


def main(arguments: Sequence[str] | None = None, mutations: Sequence[Mutation] = MUTATIONS, root: Path = _ROOT) -> int:
    """0 when each of the mutations was noticed by each of its tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutate", description=__doc__)
    parser.add_argument("rows", metavar="ROW", type=int, nargs="*", help="of the fault table; default: all")
    rows = parser.parse_args(arguments).rows
    chosen = [mutation for mutation in mutations if not rows or mutation.behaviour.row in rows]
    if not chosen:
        print(f"no mutation belongs to any of the rows {rows}")
        return 1
    if wrong := problems(chosen, root):
        print(*wrong, sep="\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="mutate-") as place:
        return _judge_all(chosen, root, Path(place))


def problems(mutations: Sequence[Mutation], root: Path = _ROOT) -> list[str]:
    """Why mutations cannot be made, or their tests not be found, in the tree at `root`; empty when all is well."""
    tests = _tests(root)
    return [
        f"row {mutation.behaviour.row}: {problem}"
        for mutation in mutations
        for problem in (*_edit_problems(mutation, root), *_test_problems(mutation, tests))
    ]


def _edit_problems(mutation: Mutation, root: Path) -> list[str]:
    found = []
    for edit in mutation.edits:
        file = root / "proxy" / edit.file
        count = file.read_text().count(edit.old) if file.exists() else 0
        if count != 1:
            found.append(f"proxy/{edit.file} has {edit.old!r} {count} times, not once")
    for path, text in {} if found else _mutated(mutation, root).items():
        try:
            ast.parse(text)
        except SyntaxError as error:
            found.append(f"{path.relative_to(root)} would be no Python: {error}")
    return found


def _test_problems(mutation: Mutation, tests: Mapping[str, Sequence[str]]) -> list[str]:
    counts = {test: len(tests.get(test, ())) for test in (_WORKS, *mutation.tests)}
    return [f"there are {count} tests that are called {test}, not one" for test, count in counts.items() if count != 1]


def _judge_all(mutations: Sequence[Mutation], root: Path, place: Path) -> int:
    needed = dict.fromkeys([_WORKS, *(test for mutation in mutations for test in mutation.tests)])
    print(f"{len(needed)} tests without a mutation: ", end="", flush=True)
    began = time.monotonic()
    outcome, said = _run(needed, _copied(root, place), _DEADLINE * len(needed))
    print(f"{outcome}, {time.monotonic() - began:.0f} s", flush=True)
    if outcome != "passed":
        print(said)
        return 1
    good = 0
    for number, mutation in enumerate(mutations, 1):
        lost = mutation.behaviour
        print(f"{number:3}/{len(mutations)}  row {lost.row:2}  {lost.invariants:4} ", end="", flush=True)
        began = time.monotonic()
        verdict, said = _judge(mutation, root, place)
        print(f"{verdict:9}{time.monotonic() - began:5.0f} s  {lost.text}", flush=True)
        if said:
            print(said, flush=True)
        good += verdict == "killed"
    print(f"{good} of {len(mutations)} mutations were noticed by their tests")
    return 0 if good == len(mutations) else 1


def _judge(mutation: Mutation, root: Path, place: Path) -> tuple[Literal["killed", "survived", "unclear"], str]:
    """The verdict, and what there is to say about one that is not `killed`."""
    tree = _copied(root, place)  # anew each time: compiled files of the last mutation must not be taken for this one's
    for path, text in _mutated(mutation, tree).items():
        path.write_text(text)
    outcome, said = _run([_WORKS], tree, _DEADLINE)
    if outcome != "passed":
        return "unclear", f"the program does not even serve any more: choose a smaller edit\n{said}"
    for test in mutation.tests:
        outcome, said = _run([test], tree, _DEADLINE)
        if outcome == "passed":
            return "survived", f"{test} does not notice: mend it, or write the test that does"
        if outcome == "unclear":
            return "unclear", said
    return "killed", ""


def _run(tests: Iterable[str], tree: Path, deadline: float) -> tuple[Outcome, str]:
    """Run tests by name in the copy at `tree`; the outcome, and the end of what pytest said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    places = _tests(tree)
    command += [f"--basetemp={tree.parent / 'pytest'}", *(places[test][0] for test in tests)]
    process = subprocess.Popen(
        command,
        cwd=tree,
        # Before what is installed, so that it is the copy's program that runs.
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=deadline)
    except BaseException as error:
        said = _end(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return "unclear", f"{said}\nnot finished within {deadline:g} s"
    # Everything but 0 and 1 means that pytest could not do its work.
    outcome: Outcome = "passed" if process.returncode == 0 else "failed" if process.returncode == 1 else "unclear"
    return outcome, said[-_TAIL:]


def _end(process: subprocess.Popen[str]) -> str:
    """Interrupt pytest, which then ends what its tests have started."""
    process.send_signal(signal.SIGINT)
    try:
        said, _ = process.communicate(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    return said[-_TAIL:]


def _copied(root: Path, place: Path) -> Path:
    tree = place / "tree"
    if tree.exists():
        shutil.rmtree(tree)
    shutil.copytree(root, tree, symlinks=True, ignore=_LEFT_OUT)
    (tree / ".venv").symlink_to((root / ".venv").resolve())
    return tree


def _mutated(mutation: Mutation, tree: Path) -> dict[Path, str]:
    """What the files of `tree` that a mutation changes become."""
    found: dict[Path, str] = {}
    for edit in mutation.edits:
        path = tree / "proxy" / edit.file
        found[path] = (found.get(path) or path.read_text()).replace(edit.old, edit.new)
    return found


def _tests(root: Path) -> dict[str, list[str]]:
    """Where the tests of each name are, as pytest wants it."""
    found: dict[str, list[str]] = {}
    for file in sorted((root / "tests").rglob("test_*.py")):
        for name in _TEST.findall(file.read_text()):
            found.setdefault(name, []).append(f"{file.relative_to(root)}::{name}")
    return found


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.fuzz TARGET`: one target by atheris, which follows what an input reaches, for a minute by default.

What it finds is written to `crash-…` in the directory that it was started in; `--again FILE` shows that once more.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.target import Target

# Larger than any seed a few times over; longer inputs only make it slow.
_MAX_INPUT: Final = 4096


def main() -> int:
    atheris = importlib.util.find_spec("atheris")
    instrumented = atheris is not None and "--again" not in sys.argv
    targets = _instrumented() if instrumented else _plain()
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(targets))
    parser.add_argument("--seconds", type=int, default=60, help="how long; 0 is until it finds something")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run this input alone; needs no atheris")
    arguments = parser.parse_args()
    target = targets[arguments.target]
    if arguments.again:
        print("taken" if target.run(arguments.again.read_bytes()) else "refused, as it should be")
        return 0
    if atheris is None:
        print(
            "atheris is not installed, and is not among the development dependencies: it has no wheels for some "
            "platforms.\nInstall it with `.venv/bin/python -m pip install atheris`, and run this again.",
            file=sys.stderr,
        )
        return 2
    _fuzz(target, arguments.seconds)
    return 0


def _plain() -> dict[str, Target]:
    from tests.fuzz.targets import TARGETS

    return TARGETS


def _instrumented() -> dict[str, Target]:
    """The targets, with our own modules imported so that atheris sees which branches an input takes."""
    with importlib.import_module("atheris").instrument_imports(include=["proxy"]):
        return _plain()


def _fuzz(target: Target, seconds: int) -> None:
    """Does not return: atheris ends the process, with 0 when it found nothing."""
    atheris = importlib.import_module("atheris")  # not there where the types are checked
    directory = Path(tempfile.mkdtemp(prefix=f"fuzz-{target.name}-"))
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if len(word) < 64))

    def once(data: bytes) -> None:
        target.run(data)

    options = [f"-max_total_time={seconds}", f"-max_len={_MAX_INPUT}", f"-dict={words}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())

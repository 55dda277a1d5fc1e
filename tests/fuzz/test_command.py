"""`python -m tests.fuzz`, as far as it goes without atheris."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.support.programs import environment

ROOT = Path(__file__).parents[2]


def fuzz(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=ROOT,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_atheris_it_says_what_to_install(tmp_path: Path) -> None:
    # Found and not found alike: a name that Python may not import is as good as one that is missing.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'atheris' else find(name, *a)\n"
    )
    done = fuzz("range", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install atheris" in done.stderr


def test_a_target_that_does_not_exist_is_refused_with_those_that_do() -> None:
    done = fuzz("nothing")
    assert done.returncode == 2
    assert all(name in done.stderr for name in TARGETS)


def test_what_was_found_can_be_shown_again(tmp_path: Path) -> None:
    found = tmp_path / "crash"
    found.write_bytes(b"2500 bytes=500-")
    done = fuzz("range", "--again", str(found))
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr

"""Imports only go down, and each library has its home: the contracts of pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_layers_of_the_house_hold() -> None:
    root = Path(__file__).parents[1]
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_a_module_does_nothing(tmp_path: Path) -> None:
    """No file, no thread, no event loop, no logging configuration: one composition root builds everything."""
    root = Path(__file__).parents[1]
    modules = sorted(
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for file in (root / "proxy").rglob("*.py")
        if file.name != "__main__.py"
    )
    program = (
        "import importlib, sys, threading\n"
        "import urllib3\n"  # boto3's; it binds a socket to learn whether this machine has IPv6
        "opened = []\n"
        "watched = ('socket.connect', 'socket.bind', 'os.mkdir', 'os.remove', 'os.rename', 'sqlite3.connect')\n"
        "sys.addaudithook(lambda event, args: opened.append(event) if event in watched else None)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import structlog\n"
        "assert not structlog.is_configured()\n"
        "assert threading.active_count() == 1\n"
        "assert not opened, opened\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []

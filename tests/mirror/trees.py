"""A directory as a value, to compare what was there with what is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.mirror import Address, Plan, Registry, plan

MILLPOND: Final = "http://127.0.0.1:5000"
BUILT_IN: Final = ("docker.io", "ghcr.io", "registry.k8s.io", "quay.io")

Tree = dict[str, tuple[int, bytes | None]]


def tree(directory: Path) -> Tree:
    """Every file and folder below `directory` and itself: mode, and content of a file."""
    if not directory.exists():
        return {}
    return {
        str(path.relative_to(directory)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else None,
        )
        for path in (directory, *directory.rglob("*"))
    }


def made(
    client: str, directory: Path, *names: str, address: str = MILLPOND, ca: Path | None = None, url: str | None = None
) -> Plan:
    """The plan of `client` for these registries, by default the built-in ones."""
    registries = [Registry.parse(name, url) for name in names or (("docker.io",) if client == "docker" else BUILT_IN)]
    return plan(client, Address.parse(address), registries, directory=directory, ca=ca)


def command(*arguments: str) -> Result:
    """`millpond mirror-config`, in this process: a program of its own takes half a second to start."""
    hidden = {name: None for name in os.environ if name.startswith("MILLPOND_")}
    return CliRunner(env=hidden).invoke(main, ["mirror-config", *arguments], prog_name="millpond")


def write(file: Path, text: str | bytes, mode: int = 0o644) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(mode)
    return file

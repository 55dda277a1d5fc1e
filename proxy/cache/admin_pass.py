"""A token for the command line beside the program: whoever can read the cache directory may change what it serves."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

_NAME: Final = "admin-token"
_MAX: Final = 4096  # bytes that are read of it


def write_pass(directory: Path) -> str:
    """Make a new one, for the owner's eyes only; that of an earlier run is worth nothing any more. Raises OSError."""
    token = secrets.token_urlsafe(32)
    file = directory / f"{_NAME}.new"
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:  # noqa: PTH123
        opened.write(token)
    file.replace(directory / _NAME)
    return token


def read_pass(directory: Path) -> str | None:
    """That of the program that runs on the directory; None where there is none, or it is not for us to read."""
    try:
        with (directory / _NAME).open(encoding="ascii") as opened:
            return opened.read(_MAX).strip() or None
    except (OSError, UnicodeDecodeError):
        return None

"""Files as they were and as they shall be: read whole, written atomically, never through a symbolic link."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.mirror.pieces import Refused

NEW_FILE: Final = 0o644  # what other users' clients read as well
NEW_FOLDER: Final = 0o755
MAX_SIZE: Final = 4 << 20  # a configuration file; what is larger is something else
LOCK_DEADLINE: Final = 10.0  # seconds; whoever holds the lock writes a few small files
_PAUSE: Final = 0.05
_PART: Final = ".millpond-part"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a file that comes back with it."""

    data: bytes
    mode: int = NEW_FILE
    uid: int | None = None  # None is whoever writes it
    gid: int | None = None


def look(root: Path, path: str) -> Snapshot | None:
    """The file at `path` below `root`, or None.

    Raises:
        Refused: it is not a plain file, or lies behind a symbolic link, that may lead anywhere.
        OSError: it cannot be read.
    """
    file = root / path
    for part in (file, *file.parents):
        if part == root:
            break
        if part.is_symlink():
            raise Refused(f"{part} is a symbolic link; write to where it leads with --directory, or replace it")
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as opened:  # noqa: PTH123 - it is open already, without following links
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_SIZE:
            raise Refused(f"{file} is not a plain file of less than {MAX_SIZE >> 20} MiB; move it away")
        return Snapshot(opened.read(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def put(file: Path, content: Snapshot) -> None:
    """Write `file` so that whoever reads it sees the old content or the new one, whole, also after a power failure."""
    part = file.with_name(f".{file.name}{_PART}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as opened:  # noqa: PTH123 - as above
            opened.write(content.data)
            opened.flush()
            if content.uid is not None and content.gid is not None:
                # Without the capability, root's own files still come back as they were.
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, content.uid, content.gid)
            os.fchmod(descriptor, content.mode)
            os.fsync(descriptor)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(file.parent)


def drop(file: Path) -> None:
    """Remove `file` if it is there, and what a crash has left of writing it."""
    for name in (file, file.with_name(f".{file.name}{_PART}")):
        name.unlink(missing_ok=True)
    if file.parent.is_dir():
        _sync(file.parent)


def make_folders(folder: Path) -> list[Path]:
    """Make `folder` and what is missing above it; what was made, the outermost first."""
    missing = missing_folders(folder)
    for path in missing:
        path.mkdir()
        path.chmod(NEW_FOLDER)  # whatever the umask says
    return missing


def missing_folders(folder: Path) -> list[Path]:
    """What `make_folders` would make."""
    return [path for path in (folder, *folder.parents) if not path.exists()][::-1]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time for each directory. The lock is on the directory itself, so that it leaves nothing.

    Raises:
        Refused: somebody else has it for too long.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + LOCK_DEADLINE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Refused(f"another mirror-config is at work in {folder}; wait for it, or end it") from None
                time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""One process a directory: flights, counters and the byte budget are per process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class DirectoryInUse(Exception):
    """Another process has this cache directory."""


class DirectoryLock:
    """An exclusive lock on a cache directory, held until `release` or the end of the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DirectoryInUse: another process holds it.
            OSError: the lock file cannot be made.
        """
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise DirectoryInUse(
                f"cache.directory: {directory} is in use by another millpond process; "
                "stop that one, or give each its own directory"
            ) from None
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        os.close(self._fd)

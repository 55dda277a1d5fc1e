"""What is on the disk of the machine's program, and what is known of the files that the machine has damaged itself."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from tests.faults.machine.content import BY_DIGEST, Part
from tests.support.millpond import Millpond

How = Literal["flip", "cut", "delete"]


@dataclass(frozen=True, slots=True)
class Damage:
    """What the machine did to a file. `inode` 0: it is gone. `missing`: bytes that it lacks of what it had, and that
    are accounted for until the program notices."""

    inode: int
    missing: int


class Books:
    """P and A, told from the files."""

    def __init__(self, millpond: Millpond) -> None:
        self._millpond = millpond
        self._damaged: dict[str, Damage] = {}
        self._before: dict[str, Damage] = {}  # what was so when the program started
        self.damages = 0  # ever

    def damage(self, part: Part, how: How, share: float) -> bool:
        """Damage the part's file in place; whether there is one. Only for "delete" somebody may be reading it."""
        file = self._millpond.blob_file(part.digest)
        try:
            with file.open("r+b") as opened:
                status = os.fstat(opened.fileno())
                self._damaged[part.digest] = self._done(part.digest, how, share, opened.fileno(), status)
                if how == "delete":
                    file.unlink()
                else:  # the clock of a file system ticks seldom, and damage is known by its time
                    os.utime(opened.fileno(), ns=(0, status.st_mtime_ns + 1_000_000_000))
        except FileNotFoundError:
            if part.digest in self._damaged and self._damaged[part.digest].inode:  # else it went by our hand, unnoticed
                del self._damaged[part.digest]
            return False
        self.damages += 1
        return True

    def forge(self, part: Part) -> None:
        """While nothing runs: a file that is not what its name says, where there is none."""
        file = self._millpond.blob_file(part.digest)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
            self.damages += 1
            self._damaged[part.digest] = Damage(file.stat().st_ino, 0)

    def check_files(self) -> set[str]:
        """P: every file under blobs/ hashes to its name, but those that the machine damaged. The digests of the whole
        ones. Files come and go meanwhile."""
        whole = set()
        for file in self._files():
            digest = f"sha256:{file.name}"
            found = _look(file)
            if found is None:
                continue
            inode, right = found
            if right:
                whole.add(digest)
            else:
                ours = digest in self._damaged and self._damaged[digest].inode == inode
                name = BY_DIGEST[digest].name if digest in BY_DIGEST else digest
                assert ours, f"P: the file of {name} does not hash to its name"
        return whole

    def started(self) -> None:
        """A start begins to look at everything: it cannot miss what was damaged before."""
        self._before = dict(self._damaged)

    def noticed(self) -> None:
        """It has looked at everything: what was missing before the start is no longer accounted for. What went while it
        looked it may have seen or not."""
        self._damaged = {
            digest: damage
            for digest, damage in self._damaged.items()
            if damage is not self._before.get(digest) or self._millpond.blob_file(digest).exists()
        }

    def on_disk(self) -> list[int]:
        """The size of each file under blobs/, damaged ones too."""
        return [found.st_size for file in self._files() if (found := _status(file))]

    def possible(self) -> set[int]:
        """The sums that may be accounted for: the bytes on disk, and those of files that the machine made shorter or
        deleted, as long as the program has not noticed; of a deleted one nobody can tell from outside."""
        self._forget_mended()
        due = sum(self.on_disk())
        choices = [{0, damage.missing} if damage.inode == 0 else {damage.missing} for damage in self._damaged.values()]
        return {due + sum(chosen) for chosen in product(*choices)}

    def _done(self, digest: str, how: How, share: float, fd: int, status: os.stat_result) -> Damage:
        before = self._damaged.get(digest)
        missing = before.missing if before and before.inode == status.st_ino else 0
        at = min(int(status.st_size * share), max(status.st_size - 1, 0))
        if how == "delete":
            return Damage(0, missing + status.st_size)
        if how == "cut" and status.st_size:
            os.truncate(fd, at)
            return Damage(status.st_ino, missing + status.st_size - at)
        byte = os.pread(fd, 1, at) or b"?"
        os.pwrite(fd, bytes([byte[0] ^ 1]), at)
        return Damage(status.st_ino, missing - (0 if status.st_size else 1))

    def _forget_mended(self) -> None:
        """Damage that is over: the file has been evicted, or there is another in its place."""
        for digest, damage in list(self._damaged.items()):
            found = _look(self._millpond.blob_file(digest))
            if (found is None and damage.inode) or (found is not None and (found[1] or found[0] != damage.inode)):
                del self._damaged[digest]

    def _files(self) -> list[Path]:
        return [file for file in (self._millpond.cache / "blobs").rglob("*") if len(file.name) == 64]


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _look(file: Path) -> tuple[int, bool] | None:
    """(inode, whether it hashes to its name); None where there is no such file."""
    try:
        with file.open("rb") as opened:
            return os.fstat(opened.fileno()).st_ino, hashlib.sha256(opened.read()).hexdigest() == file.name
    except FileNotFoundError:
        return None

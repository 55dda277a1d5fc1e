"""What was there before, and what was put there: one small JSON file in `.millpond/`, beside what it is about."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from proxy.mirror.disk import Snapshot, drop, look, make_folders, put
from proxy.mirror.pieces import Refused, Undo

FOLDER: Final = ".millpond"
_VERSION: Final = 1
_PRIVATE: Final = 0o700  # what was there may hold a password


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `written` are the hashes of what it may hold of ours: two of them while one replaces the other."""

    before: Snapshot | None
    written: tuple[str, ...]
    undo: Undo

    def is_ours(self, data: bytes) -> bool:
        return fingerprint(data) in self.written


@dataclass(slots=True)
class Record:
    """`host` is Millpond's, as the files name it; `folders`, relative to `directory`, were made for them."""

    directory: Path
    client: str
    host: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.directory / FOLDER / f"{self.client}.json"

    @classmethod
    def load(cls, directory: Path, client: str) -> Record:
        """Empty where nothing was installed.

        Raises:
            Refused: it cannot be understood; without it nothing can be restored.
        """
        record = cls(directory, client)
        found = look(directory, f"{FOLDER}/{client}.json")
        if found is None:
            return record
        try:
            document = _of_this_version(json.loads(found.data))
            record.host = str(document["host"])
            record.folders = [str(folder) for folder in document["folders"]]
            record.entries = {str(path): _entry(entry) for path, entry in document["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Refused(
                f"{record.file} is not from this version or damaged ({error}); what was there before stands in it"
            ) from None
        return record

    def save(self) -> None:
        """Durable when this returns."""
        for made in make_folders(self.file.parent):
            made.chmod(_PRIVATE)
        document = {
            "version": _VERSION,
            "client": self.client,
            "host": self.host,
            "folders": self.folders,
            "files": {path: _document(entry) for path, entry in self.entries.items()},
        }
        data = (json.dumps(document, indent=2) + "\n").encode()
        if (there := look(self.directory, f"{FOLDER}/{self.client}.json")) is None or there.data != data:
            put(self.file, Snapshot(data, 0o600))

    def finish(self) -> None:
        """`save`, and remove the folders that are not needed any more; nothing is left of an empty record."""
        if not self.entries:
            drop(self.file)
            with contextlib.suppress(OSError):  # another client's is there as well
                self.file.parent.rmdir()
        removed = {name for name in self._deepest_first() if self._removed(name)}
        self.folders = [name for name in self.folders if name not in removed]
        if self.entries:
            self.save()

    def settle(self, path: str, entry: Entry | None) -> None:
        """What `path` shall hold is written: nothing of ours, or `entry`'s newest."""
        if entry is None:
            self.entries.pop(path, None)
        else:
            self.entries[path] = replace(entry, written=entry.written[:1])

    def remember(self, folders: Sequence[Path]) -> None:
        """These were made, or will be, and shall go when they are empty."""
        names = [os.path.relpath(folder, self.directory) for folder in folders]
        self.folders += [name for name in names if name not in self.folders]

    def _deepest_first(self) -> list[str]:
        return sorted(self.folders, key=lambda name: len((self.directory / name).resolve().parts), reverse=True)

    def _removed(self, name: str) -> bool:
        try:
            (self.directory / name).resolve().rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # something is in it
            return False
        return True


def fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _of_this_version(document: Mapping[str, Any]) -> Mapping[str, Any]:
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']}")
    return document


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(_snapshot(document["before"]), tuple(document["written"]), dict(document["undo"]))


def _snapshot(document: Mapping[str, Any] | None) -> Snapshot | None:
    if document is None:
        return None
    data = document["text"].encode() if "text" in document else base64.b64decode(document["base64"], validate=True)
    return Snapshot(data, int(document["mode"], 8), document["uid"], document["gid"])


def _document(entry: Entry) -> dict[str, Any]:
    before = entry.before
    if before is None:
        return {"before": None, "written": entry.written, "undo": entry.undo}
    try:
        content = {"text": before.data.decode()}  # which a person can read in an emergency
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(before.data).decode()}
    kept = {**content, "mode": f"{before.mode:04o}", "uid": before.uid, "gid": before.gid}
    return {"before": kept, "written": entry.written, "undo": entry.undo}

"""An OCI image layout: a directory with images that every tool can read, to be carried where no network leads.

oci-layout                      what this is
index.json                      the images by name
blobs/sha256/abcdef…            their content, named by what it hashes to

All of it blocks: it is for the command line, not for the event loop.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.manifest import MAX_MANIFEST, OCI_INDEX, Descriptor

# What tools call an image by: containerd and BuildKit the first, others the second, with a whole name or a tag in it.
_FULL_NAME: Final = "io.containerd.image.name"
_NAME: Final = "org.opencontainers.image.ref.name"

_MARKER: Final = "oci-layout"
_VERSION: Final = "1.0.0"
_READ: Final = 1 << 20
# An entry has some 400 bytes: room for a hundred thousand images, and a bound.
_MAX_INDEX: Final = 64 << 20


class LayoutUnusable(MillpondError):
    """The directory is not a layout, or cannot be one; the message says what to do."""


class Damaged(MillpondError):
    """Content does not hash to its name."""


@dataclass(frozen=True, slots=True)
class Named:
    """An image in the layout. `name` is empty where it has none that tells a repository."""

    name: str
    root: Descriptor


class Layout:
    """The layout in one directory."""

    def __init__(self, directory: Path) -> None:
        """Nothing is opened or made yet."""
        self._directory = directory

    def begin(self) -> None:
        """Make it, or go on with the one that is there.

        Raises:
            LayoutUnusable: the directory has something else in it, or cannot be written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if not (self._directory / _MARKER).exists() and any(self._directory.iterdir()):
                raise LayoutUnusable(f"{self._directory} is neither empty nor an OCI layout; name another directory")
            self._write(_MARKER, {"imageLayoutVersion": _VERSION})
            if not (self._directory / "index.json").exists():
                self._write_index([])
        except OSError as error:
            raise self._unusable(error) from error

    def images(self) -> list[Named]:
        """What index.json names, in its order. Raises LayoutUnusable."""
        marker = self._document(_MARKER)
        if not isinstance(marker.get("imageLayoutVersion"), str) or not marker["imageLayoutVersion"].startswith("1."):
            raise LayoutUnusable(f"{self._directory} is an OCI layout of a version that is not known here")
        return [self._named(entry) for entry in self._entries()]

    def add(self, images: Iterable[Named]) -> None:
        """Name images whose content is there; a name that exists moves. Raises LayoutUnusable."""
        entries = {(_name_in(entry), entry.get("digest")): entry for entry in self._entries()}
        for image in images:
            entries = {key: entry for key, entry in entries.items() if key[0] != image.name}
            entries[(image.name, image.root.digest)] = {
                "mediaType": image.root.media_type,
                "digest": image.root.digest,
                "size": image.root.size,
                "annotations": {_FULL_NAME: image.name, _NAME: image.name},
            }
        try:
            self._write_index(list(entries.values()))
        except OSError as error:
            raise self._unusable(error) from error

    def size(self, digest: Digest) -> int | None:
        """Of a blob's file; None where there is none."""
        try:
            return self._path(digest).stat().st_size
        except OSError:
            return None

    def holds(self, digest: Digest, size: int) -> bool:
        """Whether a blob is there, whole and intact. Reads all of it."""
        if self.size(digest) != size:
            return False
        hasher = digest.hasher()
        try:
            with self.open(digest) as file:
                while piece := file.read(_READ):
                    hasher.update(piece)
        except OSError:
            return False
        return digest.matches(hasher)

    def open(self, digest: Digest) -> io.FileIO:
        """A blob, not verified. Raises OSError."""
        return io.FileIO(self._path(digest), "rb")

    def read(self, digest: Digest) -> bytes | None:
        """A manifest, not verified; None where there is none, or what is there is too large for one."""
        try:
            with self.open(digest) as file:
                body = file.read(MAX_MANIFEST + 1)
        except OSError:
            return None
        return body if body is not None and len(body) <= MAX_MANIFEST else None

    def copy(self, digest: Digest, source: io.FileIO) -> Iterator[int]:
        """Copy a blob, from the start of `source`, under its digest: whole and verified, or not at all. Yields the
        bytes of each piece.

        Raises:
            Damaged: it hashes to something else.
            LayoutUnusable: it cannot be read or written.
        """
        path = self._path(digest)
        partial = path.with_name(f"{path.name}.part")
        hasher, buffer = digest.hasher(), memoryview(bytearray(_READ))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as target:
                while count := source.readinto(buffer):
                    hasher.update(buffer[:count])
                    target.write(buffer[:count])
                    yield count
                target.flush()
                os.fsync(target.fileno())
            if not digest.matches(hasher):
                raise Damaged(f"{digest} on disk is damaged; `millpond verify` evicts all that is")
            partial.replace(path)
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _named(self, entry: Mapping[str, Any]) -> Named:
        try:
            digest, size, kind = Digest.parse(str(entry["digest"])), int(entry["size"]), str(entry["mediaType"])
        except (KeyError, TypeError, ValueError, MillpondError):
            raise LayoutUnusable(f"{self._directory}/index.json has an entry that describes nothing") from None
        return Named(_name_in(entry), Descriptor(digest, size, kind))

    def _entries(self) -> list[dict[str, Any]]:
        entries = self._document("index.json").get("manifests")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise LayoutUnusable(f"{self._directory}/index.json is not an image index; export once more")
        return entries

    def _document(self, name: str) -> dict[str, Any]:
        try:
            with (self._directory / name).open("rb") as file:
                document = json.loads(file.read(_MAX_INDEX))
        except FileNotFoundError:
            raise LayoutUnusable(f"{self._directory} is not an OCI layout: it has no {name}") from None
        except OSError as error:
            raise self._unusable(error) from error
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise LayoutUnusable(f"{self._directory}/{name} is not a JSON object; export once more")
        return document

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        self._write("index.json", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        partial = self._directory / f"{name}.part"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._directory / name)

    def _unusable(self, error: OSError) -> LayoutUnusable:
        return LayoutUnusable(f"{self._directory}: {error.strerror or error}")

    def _path(self, digest: Digest) -> Path:
        return self._directory / "blobs" / digest.algorithm / digest.hex


def _name_in(entry: Mapping[str, Any]) -> str:
    """The image's whole name. A ref.name may also be a mere tag, which must not be taken for a repository."""
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        return ""
    short = annotations.get(_NAME)
    name = annotations.get(_FULL_NAME) or (short if isinstance(short, str) and "/" in short else "")
    return name if isinstance(name, str) else ""

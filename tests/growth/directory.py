"""A large cache directory as a long life leaves it, made in seconds: small files, and the ledger that knows them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.cache.catalog import Catalog
from proxy.cache.files import Files
from proxy.cache.ledger import Ledger, Record
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST
from proxy.oci.names import Repository

UPSTREAM: Final = "grown.test"
BLOBS_OF_AN_IMAGE: Final = 10  # a config, eight layers of its own and the base layer that its repository shares
FILES_OF_AN_IMAGE: Final = BLOBS_OF_AN_IMAGE  # the manifest is the tenth, and the base layer is no new file
_IMAGES_OF_A_REPOSITORY: Final = 100
_ROWS: Final = 20_000  # one transaction of the ledger


def grow(
    directory: Path, blobs: int, probe: bytes = b"", *, images_of_a_repository: int = _IMAGES_OF_A_REPOSITORY
) -> Digest:
    """Fill `directory` with about `blobs` files, a tenth of them manifests, and say so in the ledger.

    Returns the digest of `probe`, a blob that the first repository holds besides.
    """
    files = Files(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files.prepare()
    root = directory / "blobs" / "sha256"
    for shelf in range(256):
        (root / f"{shelf:02x}").mkdir(exist_ok=True)
    ledger = Ledger(directory / "ledger")
    rows: dict[str, Record | None] = {}
    for key, record in _records(root, max(1, blobs // FILES_OF_AN_IMAGE), images_of_a_repository):
        rows[key] = record
        if len(rows) >= _ROWS:
            ledger.write(rows)
            rows = {}
    digest = Digest.of(probe)
    rows[f"b {digest}"] = _file(root, digest, probe, 1e9)
    rows[f"h {repository(0)} {digest}"] = [len(probe)]
    ledger.write(rows)
    ledger.close()
    return digest


def repository(number: int) -> Repository:
    return Repository(UPSTREAM, f"team/project-{number}")


def manifest_of(catalog: Catalog, image: int) -> Digest:
    """What the tag `v<image>` points at."""
    record = catalog.tag(repository(image // _IMAGES_OF_A_REPOSITORY), f"v{image}")
    assert record
    return record.digest


def _records(root: Path, images: int, together: int) -> Iterator[tuple[str, Record]]:
    for image in range(images):
        place = repository(image // together)
        used = 1e9 + image
        base = f"base of {place}".encode()
        bodies = [base, *(f"{image} {part}".encode() for part in range(BLOBS_OF_AN_IMAGE - 1))]
        parts = [(Digest.of(body), body) for body in bodies]
        for digest, body in parts[1 if image % together else 0 :]:
            yield f"b {digest}", _file(root, digest, body, used)
        listed = [{"mediaType": "application/x", "digest": str(digest), "size": len(body)} for digest, body in parts]
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": listed[1], "layers": [listed[0], *listed[2:]]}
        ).encode()
        digest = Digest.of(body)
        yield f"b {digest}", _file(root, digest, body, used)
        names = [(parts[1][0], len(parts[1][1])), *((found, len(part)) for found, part in (parts[0], *parts[2:]))]
        yield f"m {place} {digest}", [OCI_MANIFEST, *names]
        yield f"t {place} v{image}", [digest, time.time()]
        yield f"h {place} {parts[1][0]}", [len(parts[1][1])]


def _file(root: Path, digest: Digest, body: bytes, used: float) -> Record:
    fd = os.open(root / digest.hex[:2] / digest.hex, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, body)
        return [len(body), os.fstat(fd).st_mtime_ns, used]
    finally:
        os.close(fd)

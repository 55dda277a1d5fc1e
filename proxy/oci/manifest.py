"""Manifests and indexes: read only as far as a cache must, kept byte for byte."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid, UpstreamInvalid

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

# What upstream is always asked for. Some registries answer 404, or convert, when the stored type is not among them;
# schema 1 is left out on purpose: its digest is not the digest of its bytes.
ACCEPT: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT)

# The specification asks for 4 MiB at least; containerd stops near there. Twice that is room, and a bound.
MAX_MANIFEST: Final = 8 * 1024 * 1024
# A thousand platforms or layers is beyond anything real; a bound keeps a hostile index from filling the ledger.
MAX_DESCRIPTORS: Final = 10_000

# RFC 6838. It goes out as a header: what a manifest states must not be able to write further ones.
_RESTRICTED: Final = "[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE: Final = re.compile(rf"{_RESTRICTED}/{_RESTRICTED}\Z", re.ASCII | re.IGNORECASE)
# Layers that only their owner may hand out; images name them with the URLs where they are, and no registry has them.
_NOT_DISTRIBUTED: Final = ("nondistributable", ".foreign.")
_GENERIC_TYPES: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says about other content. `size` is in bytes."""

    digest: Digest
    size: int
    media_type: str
    platform: str | None = None  # os/architecture[/variant], for a child of an index

    @property
    def is_foreign(self) -> bool:
        """Whether its type says that no registry hands it out."""
        return any(mark in self.media_type for mark in _NOT_DISTRIBUTED)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it came: its exact bytes, their digest, and the Content-Type that they go out with."""

    media_type: str
    digest: Digest
    body: bytes
    children: tuple[Descriptor, ...] = ()  # manifests, of an index
    blobs: tuple[Descriptor, ...] = ()  # config and layers, of an image or artifact
    subject: Digest | None = None

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES


def parse_manifest(body: bytes, content_type: str, digest: Digest | None = None) -> Manifest:
    """Read what upstream sent as a manifest.

    `content_type` is the response's header; where it is generic, the type that the body states is used. `digest` is
    what the bytes must hash to, when that is known; its algorithm names the manifest from then on.

    Raises:
        UpstreamInvalid: wrong digest, not a manifest, two kinds at once (CVE-2021-41190), or out of bounds.
    """
    actual = Digest.of(body, digest.algorithm if digest else "sha256")
    if digest is not None and actual != digest:
        raise UpstreamInvalid(f"upstream answered {actual} where {digest} was asked for; nothing of it was kept")
    document = _load(body)
    media_type = _media_type(document, content_type)
    children = _descriptors(document, "manifests")
    blobs = _descriptors(document, "layers") + _descriptors(document, "blobs")
    if "config" in document:
        blobs = (*_parse_descriptors([document["config"]]), *blobs)
    if "manifests" in document and any(key in document for key in ("config", "layers", "blobs")):
        raise UpstreamInvalid("the manifest is ambiguous: it is an index and an image at once (CVE-2021-41190)")
    if (media_type in INDEXES) != ("manifests" in document):
        raise UpstreamInvalid(f"the manifest's content does not fit its type {media_type}")
    subject = document.get("subject")
    return Manifest(
        media_type=media_type,
        digest=actual,
        body=body,
        children=children,
        blobs=blobs,
        subject=next((found.digest for found in _parse_descriptors([subject])), None) if subject else None,
    )


def _load(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_MANIFEST:
        raise UpstreamInvalid(f"the manifest is larger than {MAX_MANIFEST} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise UpstreamInvalid("upstream answered something that is not a JSON manifest") from None
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise UpstreamInvalid("upstream answered something that is not a manifest of schema version 2")
    return document


def _media_type(document: dict[str, Any], content_type: str) -> str:
    header = content_type.partition(";")[0].strip().lower()
    stated = document.get("mediaType")
    if stated is not None and not isinstance(stated, str):
        raise UpstreamInvalid("the manifest's mediaType is not a string")
    if stated and header not in _GENERIC_TYPES and stated.lower() != header:
        raise UpstreamInvalid(f"the manifest says that it is {stated!r:.100}, its Content-Type says {header!r:.100}")
    media_type = header if header not in _GENERIC_TYPES else stated
    if not media_type:
        return OCI_INDEX if "manifests" in document else OCI_MANIFEST
    if not _MEDIA_TYPE.match(media_type):
        raise UpstreamInvalid(f"{media_type!r:.100} is not a media type")
    # What is read again from the disk, with this as its header, must be the same manifest.
    return media_type.lower()


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    entries = document.get(key)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise UpstreamInvalid(f"the manifest's {key!r} is not a list")
    return _parse_descriptors(entries)


def _parse_descriptors(entries: list[Any]) -> tuple[Descriptor, ...]:
    if len(entries) > MAX_DESCRIPTORS:
        raise UpstreamInvalid(f"the manifest names {len(entries)} items; the limit is {MAX_DESCRIPTORS}")
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UpstreamInvalid("the manifest has a descriptor that is not an object")
        size, digest, media_type = entry.get("size"), entry.get("digest"), entry.get("mediaType", "")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0 or size >= 1 << 63:
            raise UpstreamInvalid("the manifest has a descriptor without a valid size")
        if not isinstance(digest, str) or not isinstance(media_type, str):
            raise UpstreamInvalid("the manifest has a descriptor whose digest or mediaType is not a string")
        try:
            parsed = Digest.parse(digest)
        except DigestInvalid:
            continue  # an algorithm that cannot be verified cannot be asked for either; the manifest itself passes
        found.append(Descriptor(parsed, size, media_type, platform_of(entry.get("platform"))))
    return tuple(found)


def platform_of(value: object) -> str | None:
    """os/architecture[/variant], of an index's word on a child, or of an image's configuration."""
    if not isinstance(value, dict):
        return None
    parts = (value.get("os"), value.get("architecture"), value.get("variant"))
    return "/".join(part for part in parts if isinstance(part, str) and part) or None

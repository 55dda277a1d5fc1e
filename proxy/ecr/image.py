"""What has to be pushed of an image: children of an index, blobs of a manifest, and what ECR never takes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.ecr.errors import Rejected
from proxy.ecr.target import Platforms
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor, Manifest

# ECR's quotas: PutImage, and a layer's parts, of which there may be 4,200. It has layers of up to 52,000 MiB, but this
# API cannot bring them there.
MAX_MANIFEST: Final = 4 * 1024 * 1024
MAX_PART: Final = 10 * 1024 * 1024
MAX_LAYER: Final = 4_200 * MAX_PART

# What BuildKit writes beside a platform's image: its attestation, which names that image.
_ATTESTS: Final = "vnd.docker.reference.digest"
_NO_PLATFORM: Final = frozenset({None, "unknown/unknown"})
# The variants that an image means when it states none (containerd's platforms package).
_VARIANT: Final = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Child:
    """One entry of an index. `attests` is the sibling that an attestation belongs to."""

    digest: Digest
    platform: str | None
    attests: Digest | None = None


def check(manifest: Manifest) -> None:
    """Raises Rejected where ECR cannot have this manifest."""
    _check_algorithm(manifest.digest, "the manifest")
    if len(manifest.body) > MAX_MANIFEST:
        raise Rejected(f"the manifest {manifest.digest} has {len(manifest.body)} bytes; ECR takes {MAX_MANIFEST}")


def children(index: Manifest) -> list[Child]:
    """The entries of an index, in its order.

    Raises:
        Rejected: it names one by a digest that ECR does not know.
    """
    entries = _entries(index, index.children, "manifests")
    digests = {str(described.digest): described.digest for _, described in entries}
    return [Child(it.digest, it.platform, _attested(entry, it, digests)) for entry, it in entries]


def choose(entries: Sequence[Child], platforms: Platforms, pulled: Collection[Digest]) -> list[Child]:
    """Those of an index's children that are to be pushed: what was pulled first, attestations with their image."""
    if platforms == "all":
        chosen = {child.digest for child in entries}
    elif platforms == "pulled":
        chosen = {child.digest for child in entries if child.digest in pulled}
    else:
        chosen = {child.digest for child in entries if child.attests is None and _listed(child.platform, platforms)}
    with_their_own = {child.digest: child for child in entries if child.digest in chosen or child.attests in chosen}
    return sorted(with_their_own.values(), key=lambda child: child.digest not in pulled)


def shortfall(entries: Sequence[Child], there: Collection[Digest]) -> str:
    """Why the index cannot be pushed: some of its children are not there. Empty where all are."""
    if all(child.digest in there for child in entries):
        return ""
    images = [child for child in entries if child.attests is None]
    count = sum(child.digest in there for child in images)
    what = "platforms are" if count < len(images) else "platforms, but not all of their attestations, are"
    return f"the index stays on disk only: {count} of {len(images)} {what} pushed"


def layers(manifest: Manifest) -> list[Descriptor]:
    """The blobs that ECR must hold before the manifest, each once; foreign layers are left where they are.

    Raises:
        Rejected: ECR cannot have one of them.
    """
    found: dict[Digest, Descriptor] = {}
    for entry, blob in _entries(manifest, manifest.blobs, "config", "layers", "blobs"):
        if entry.get("urls") or blob.is_foreign:
            continue
        if blob.size > MAX_LAYER:
            raise Rejected(too_large(blob.digest, blob.size))
        found.setdefault(blob.digest, blob)
    return list(found.values())


def too_large(digest: Digest, size: int) -> str:
    return f"the layer {digest} has {size >> 20:,} MiB; ECR takes {MAX_LAYER >> 20:,} by its API"


def _listed(platform: str | None, platforms: Sequence[str]) -> bool:
    # What is for no platform is for all of them: an index of artifacts has no others.
    return platform in _NO_PLATFORM or any(_fits(platform or "", wanted) for wanted in platforms)


def _fits(platform: str, wanted: str) -> bool:
    system, architecture, variant = _parts(platform)
    wanted_system, wanted_architecture, wanted_variant = _parts(wanted)
    return (system, architecture) == (wanted_system, wanted_architecture) and (
        not wanted_variant or wanted_variant == (variant or _VARIANT.get(architecture, ""))
    )


def _parts(platform: str) -> tuple[str, str, str]:
    system, architecture, variant, *_ = (*platform.split("/"), "", "", "")
    return system, architecture, variant


def _attested(entry: dict[str, Any], described: Descriptor, digests: Mapping[str, Digest]) -> Digest | None:
    annotations = entry.get("annotations")
    if described.platform not in _NO_PLATFORM or not isinstance(annotations, dict):
        return None
    named = annotations.get(_ATTESTS)
    return digests.get(named) if isinstance(named, str) and named != described.digest else None


def _entries(
    manifest: Manifest, described: Sequence[Descriptor], *keys: str
) -> list[tuple[dict[str, Any], Descriptor]]:
    """Each descriptor with its JSON: `Manifest` keeps what a cache needs, a push needs annotations and URLs as well."""
    document = json.loads(manifest.body)
    found: list[dict[str, Any]] = []
    for key in keys:
        value = document.get(key)
        found += value if isinstance(value, list) else [value] if value else []
    if len(found) != len(described):  # parsing leaves out what it has no way to verify
        raise Rejected(
            f"the manifest {manifest.digest} names content by digests other than sha256; ECR takes no others"
        )
    for descriptor in described:
        _check_algorithm(descriptor.digest, "content that it names")
    return list(zip(found, described, strict=True))


def _check_algorithm(digest: Digest, what: str) -> None:
    if digest.algorithm != "sha256":
        raise Rejected(f"{what} has the digest {digest:.24}…; ECR takes sha256 digests only")

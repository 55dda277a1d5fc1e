"""What can be asked of one registry, a method a noun and verb, in the terms of a registry rather than of AWS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import structlog

from proxy.ecr.calls import TRIES, Calls, Observe
from proxy.ecr.errors import (
    EcrError,
    ImageMissing,
    LayersMissing,
    PolicyMissing,
    Rejected,
    RepositoryMissing,
    ScanMissing,
    TagTaken,
    UploadLost,
)
from proxy.ecr.quota import Quotas
from proxy.ecr.scan import ABSENT, UNSCANNED, Scan, read_scan
from proxy.ecr.session import Client
from proxy.ecr.target import RepositoryTemplate, Target
from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown, UpstreamInvalid
from proxy.oci.manifest import ACCEPT, Manifest, parse_manifest
from proxy.oci.names import Reference, Tag

# Digests or references in one call (BatchCheckLayerAvailability, BatchGetImage).
BATCH: Final = 100

_EMPTY: Final = Digest.of(b"")

T = TypeVar("T")


class Api:
    """The registry of one target. `name` is a repository's name in ECR.

    Every method may raise Passing, Refused and Rejected, and, but for `create_repository`, RepositoryMissing; but
    `set_policies` RepositoryMissing alone.
    """

    def __init__(self, target: Target, client: Client, quotas: Quotas, observe: Observe, tries: int = TRIES) -> None:
        """`observe` is told of each attempt, of which a call that fails in passing has `tries`."""
        self.target = target
        self._calls = Calls(target, client, quotas, observe, tries)

    async def missing_layers(self, name: str, digests: Sequence[Digest]) -> set[Digest]:
        """Those of the layers that the repository does not have."""
        wanted = list(dict.fromkeys(_known(digest) for digest in digests))
        missing = set(wanted)
        for batch in _batches(wanted):
            missing.difference_update(layer["layerDigest"] for layer in await self._available(name, batch))
        return missing

    async def layer_size(self, name: str, digest: Digest) -> int:
        """The layer's size in bytes.

        Raises:
            BlobUnknown: the repository does not have it.
        """
        for layer in await self._available(name, [_known(digest)]):
            return int(layer["layerSize"])
        raise BlobUnknown(f"{self._repository(name)} does not have layer {digest}")

    async def begin_upload(self, name: str) -> tuple[str, int]:
        """A new upload: its id, and how many bytes each of its parts has to have but the last."""
        answer = await self._calls.ask("InitiateLayerUpload", name)
        return answer["uploadId"], answer["partSize"]

    async def upload_part(self, name: str, upload_id: str, first: int, data: bytes) -> None:
        """Send the bytes from `first` on.

        Raises:
            PartRefused: they do not follow the last byte that ECR has, which it carries; perhaps because an earlier try
                has arrived, though its answer got lost.
            UploadLost
        """
        await self._calls.ask(
            "UploadLayerPart",
            name,
            uploadId=upload_id,
            partFirstByte=first,
            partLastByte=first + len(data) - 1,
            layerPartBlob=data,
        )

    async def complete_upload(self, name: str, upload_id: str, digest: Digest) -> None:
        """Turn the upload into a layer. It is none the worse for having existed before.

        Raises:
            UploadLost: it has expired, or has parts that ECR does not take.
        """
        try:
            await self._calls.ask("CompleteLayerUpload", name, uploadId=upload_id, layerDigests=[_known(digest)])
        except UploadLost:
            if digest == _EMPTY:
                raise Rejected(f"{self._repository(name)}: ECR takes no layer of no bytes") from None
            # An earlier try may have worked and its answer got lost: that is worth a look before gigabytes go again.
            if await self.missing_layers(name, [digest]):
                raise

    async def put_image(self, name: str, manifest: Manifest, tag: Tag | None) -> None:
        """Store the manifest, and have `tag` point at it. It is none the worse for having been there before.

        Raises:
            TagTaken, LayersMissing, ChildrenMissing
        """
        tags = {} if tag is None else {"imageTag": str(tag)}
        try:
            text = manifest.body.decode()
        except UnicodeDecodeError:
            raise Rejected(
                f"{self._repository(name)}: manifest {manifest.digest} is not UTF-8, as ECR wants it"
            ) from None
        try:
            await self._calls.ask(
                "PutImage",
                name,
                imageManifest=text,
                imageManifestMediaType=manifest.media_type,
                imageDigest=_known(manifest.digest),
                **tags,
            )
        except TagTaken:
            # An immutable repository answers so even where the tag is this very image's (aws/containers-roadmap#2179):
            # after an earlier try whose answer got lost, say.
            there = None if tag is None else (await self.images(name, [tag])).get(tag)
            if there is None or there.digest != manifest.digest:
                raise

    async def images(self, name: str, references: Sequence[Reference]) -> dict[Reference, Manifest]:
        """The manifests that are there, their digests verified; the others are left out."""
        wanted = [one for one in dict.fromkeys(references) if not isinstance(one, Digest) or one.algorithm == "sha256"]
        found: dict[Reference, Manifest] = {}
        for batch in _batches(wanted):
            ids = [{"imageDigest" if isinstance(one, Digest) else "imageTag": str(one)} for one in batch]
            answer = await self._calls.ask("BatchGetImage", name, imageIds=ids, acceptedMediaTypes=list(ACCEPT))
            for image in answer.get("images", ()):
                manifest = self._manifest(name, image)
                if manifest is not None:
                    named = image["imageId"].get("imageTag"), manifest.digest
                    found |= {one: manifest for one in batch if one in named}
        return found

    async def layer_url(self, name: str, digest: Digest) -> str:
        """Where the layer can be downloaded for an hour. A secret: whoever knows it can.

        Raises:
            BlobUnknown: there is no such layer, or no image that names it yet.
        """
        try:
            answer = await self._calls.ask("GetDownloadUrlForLayer", name, layerDigest=_known(digest))
        except LayersMissing as error:
            raise BlobUnknown(str(error)) from None
        return str(answer["downloadUrl"])

    async def scan(self, name: str, digest: Digest) -> Scan:
        """What ECR has found in the image, which is a single one: it scans no index."""
        asked = {"imageId": {"imageDigest": str(_known(digest))}, "maxResults": 1}  # the counts are of all findings
        try:
            return read_scan(await self._calls.ask("DescribeImageScanFindings", name, **asked))
        except (ImageMissing, RepositoryMissing):
            return Scan(ABSENT)
        except ScanMissing:
            return Scan(UNSCANNED)

    async def create_repository(self, name: str) -> bool:
        """Create the repository as the target's template says, but for its policies. Whether it has come into being:
        one that exists is left as it is, one that came while answers got lost counts as created."""
        return bool(await self._calls.ask("CreateRepository", name, **_settings(self.target.repository)))

    async def set_policies(self, name: str, *, new: bool) -> bool:
        """Have the repository's policies as the target's template says; whether it has them all.

        Unless it is `new`, a policy that it has stays, whatever it says: somebody has set it. One that cannot be set
        leaves a repository that can be pushed to: that is logged, and not an error.

        Raises:
            RepositoryMissing
        """
        template = self.target.repository
        done = True
        for read, write, policy in (
            ("GetLifecyclePolicy", "PutLifecyclePolicy", {"lifecyclePolicyText": template.lifecycle_policy}),
            ("GetRepositoryPolicy", "SetRepositoryPolicy", {"policyText": template.policy}),
        ):
            if all(policy.values()):
                done &= await self._set(name, None if new else read, write, policy)
        return done

    async def _set(self, name: str, read: str | None, write: str, policy: Mapping[str, Any]) -> bool:
        try:
            if read is None or not await self._has(read, name):
                await self._calls.ask(write, name, **policy)
        except RepositoryMissing:
            raise
        except EcrError as error:
            structlog.get_logger().error(
                "ecr.policy_not_set", target=self.target.name, repository=name, operation=write, reason=str(error)
            )
            return False
        return True

    async def _has(self, read: str, name: str) -> bool:
        try:
            await self._calls.ask(read, name)
        except PolicyMissing:
            return False
        return True

    async def _available(self, name: str, digests: Sequence[Digest]) -> list[dict[str, Any]]:
        asked = [str(digest) for digest in digests]
        answer = await self._calls.ask("BatchCheckLayerAvailability", name, layerDigests=asked)
        return [layer for layer in answer.get("layers", ()) if layer.get("layerAvailability") == "AVAILABLE"]

    def _manifest(self, name: str, image: Mapping[str, Any]) -> Manifest | None:
        try:
            digest = Digest.parse(image["imageId"]["imageDigest"])
            return parse_manifest(image["imageManifest"].encode(), image.get("imageManifestMediaType") or "", digest)
        except (UpstreamInvalid, ValueError, KeyError) as error:
            structlog.get_logger().warning(
                "ecr.image_invalid", target=self.target.name, repository=name, reason=str(error)
            )
            return None

    def _repository(self, name: str) -> str:
        return f"{self.target.registry}/{name}"


def _known(digest: Digest) -> Digest:
    if digest.algorithm != "sha256":
        raise Rejected(f"ECR stores sha256 only, not {digest.algorithm}: {digest}")
    return digest


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _settings(template: RepositoryTemplate) -> dict[str, Any]:
    """The template as CreateRepository takes it."""
    settings: dict[str, Any] = {
        "imageTagMutability": template.tag_mutability,
        "imageScanningConfiguration": {"scanOnPush": template.scan_on_push},
        "encryptionConfiguration": {"encryptionType": "AES256"},
    }
    if template.kms_key is not None:
        settings["encryptionConfiguration"] = {"encryptionType": "KMS", "kmsKey": template.kms_key}
    if template.exclusions:
        settings["imageTagMutabilityExclusionFilters"] = [
            {"filterType": "WILDCARD", "filter": pattern} for pattern in template.exclusions
        ]
    if template.tags:
        settings["tags"] = [{"Key": key, "Value": value} for key, value in template.tags.items()]
    return settings

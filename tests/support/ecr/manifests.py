"""The operations on images: put, get, list, describe."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import Any, Final

from tests.support import images
from tests.support.ecr.desk import Desk, Operation
from tests.support.ecr.errors import AwsError, invalid_parameter
from tests.support.ecr.registry import FakeRepository, StoredImage

MAX_TAGS: Final = 1000
"""Tags of one image; AWS's quota."""

_SINGLE: Final = (images.OCI_MANIFEST, images.DOCKER_MANIFEST)
_MULTIPLE: Final = (images.OCI_INDEX, images.DOCKER_LIST)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DIGEST: Final = re.compile(r"[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+")
_PAGE: Final = 100  # entries a page where the call does not say


def put(desk: Desk) -> dict[str, Any]:
    """PutImage."""
    repository, asked = desk.repository, desk.parameters
    tag, given = asked.get("imageTag"), asked.get("imageDigest")
    if given is None or "imageManifestMediaType" not in asked:
        desk.violate("PutImage without imageDigest or imageManifestMediaType: ECR would guess")
    image = _parsed(desk)
    if given not in (None, image.digest):
        desk.violate(f"PutImage said {given}, the manifest is {image.digest}")
        raise AwsError(
            "ImageDigestDoesNotMatchException",
            f"The provided digest '{given}' does not match the calculated digest '{image.digest}'",
        )
    if tag is not None and not _TAG.fullmatch(tag):
        raise invalid_parameter("imageTag", f"must satisfy regular expression '{_TAG.pattern}'")
    _check_parts(desk, repository, image)
    held = repository.tags.get(tag) if tag else None
    # AWS looks at the tag first, even where it is this very image's (aws/containers-roadmap#2179).
    if tag and held and _immutable(repository, tag):
        raise AwsError(
            "ImageTagAlreadyExistsException",
            f"The image tag '{tag}' already exists in the '{repository.name}' repository and cannot be overwritten "
            "because the tag is immutable.",
        )
    if (image.digest in repository.images and tag is None) or held == image.digest:
        raise AwsError(
            "ImageAlreadyExistsException",
            f"Image with digest '{image.digest}' and tag '{tag}' already exists in the repository with name "
            f"'{repository.name}'",
        )
    if tag and len(repository.tags_of(image.digest)) >= MAX_TAGS:
        raise AwsError("LimitExceededException", f"an image has {MAX_TAGS} tags at most")
    repository.images.setdefault(image.digest, image)
    repository.known.add(image.digest)
    if tag:
        repository.tags[tag] = image.digest
    return {"image": _described(desk, repository, image, tag)}


def get(desk: Desk) -> dict[str, Any]:
    """BatchGetImage. Without accepted types there are no indexes, as old clients could not read them."""
    repository, found, failures = desk.repository, [], []
    accepted = desk.parameters.get("acceptedMediaTypes", _SINGLE)
    for asked in desk.parameters["imageIds"]:
        try:
            image = _find(repository, asked)
            if image.media_type not in accepted:
                raise _not_found()
        except AwsError as error:
            failures.append({"imageId": asked, "failureCode": error.code, "failureReason": error.message})
        else:
            found.append(_described(desk, repository, image, asked.get("imageTag")))
    return {"images": found, "failures": failures}


def list_images(desk: Desk) -> dict[str, Any]:
    """ListImages."""
    repository = desk.repository
    ids = [
        {"imageDigest": digest, **({"imageTag": tag} if tag else {})}
        for digest in repository.images
        for tag in repository.tags_of(digest) or [""]
    ]
    status = desk.parameters.get("filter", {}).get("tagStatus", "ANY")
    if status != "ANY":
        ids = [entry for entry in ids if ("imageTag" in entry) == (status == "TAGGED")]
    return page(desk, "imageIds", ids)


def describe(desk: Desk) -> dict[str, Any]:
    """DescribeImages."""
    repository = desk.repository
    chosen = list(repository.images.values())
    if "imageIds" in desk.parameters:
        try:
            chosen = [_find(repository, asked) for asked in desk.parameters["imageIds"]]
        except AwsError as error:
            raise AwsError("ImageNotFoundException", error.message) from None
    return page(
        desk,
        "imageDetails",
        [
            desk.answer(
                repository,
                imageDigest=image.digest,
                imageTags=repository.tags_of(image.digest),
                imageSizeInBytes=sum(len(repository.layers.get(layer, b"")) for layer in image.layers),
                imagePushedAt=image.pushed,
                imageManifestMediaType=image.media_type,
            )
            for image in chosen
        ],
    )


def page(desk: Desk, name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One page of `entries` under `name`, and the token of the next."""
    start, size = int(desk.parameters.get("nextToken", 0)), desk.parameters.get("maxResults", _PAGE)
    answer: dict[str, Any] = {name: entries[start : start + size]}
    if start + size < len(entries):
        answer["nextToken"] = str(start + size)
    return answer


IMAGES: Final[dict[str, Operation]] = {
    "PutImage": put,
    "BatchGetImage": get,
    "ListImages": list_images,
    "DescribeImages": describe,
}


def _parsed(desk: Desk) -> StoredImage:
    text = desk.parameters["imageManifest"]
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise invalid_parameter("imageManifest", "Invalid JSON syntax")
    media_type = desk.parameters.get("imageManifestMediaType", document.get("mediaType", ""))
    if media_type != document.get("mediaType", media_type):
        raise invalid_parameter("imageManifestMediaType", "the manifest says another one")
    if media_type not in _SINGLE + _MULTIPLE:
        raise invalid_parameter("imageManifestMediaType", f"unsupported media type '{media_type}'")
    named = [*document.get("layers", []), *document.get("manifests", [])]
    named += [document["config"]] if "config" in document else []
    if not all({"mediaType", "digest", "size"} <= set(entry) for entry in named):
        raise invalid_parameter("imageManifest", "a descriptor without its type, digest or size")
    types = {media_type, document.get("artifactType"), *(entry["mediaType"] for entry in named)}
    if refused := sorted(types & desk.refused_media_types):
        raise invalid_parameter("imageManifest", f"unsupported media type '{refused[0]}'")
    return StoredImage(text.encode(), media_type)


def _check_parts(desk: Desk, repository: FakeRepository, image: StoredImage) -> None:
    for held, named, code in (
        (repository.layers, image.layers, "LayersNotFoundException"),
        (repository.images, image.children, "ReferencedImagesNotFoundException"),
    ):
        missing = [digest for digest in named if digest not in held]
        # What was lost here may surprise a client; what never came shows that it does not keep the order.
        if early := [digest for digest in missing if digest not in repository.known]:
            desk.violate(f"{image.digest} was put into {repository.name} before {', '.join(early)}")
        if missing:
            raise AwsError(code, f"with digests {', '.join(missing)} do not exist in '{repository.name}'")


def _immutable(repository: FakeRepository, tag: str) -> bool:
    mutability: str = repository.settings.get("imageTagMutability", "MUTABLE")
    filters = repository.settings.get("imageTagMutabilityExclusionFilters", [])
    excluded = any(fnmatchcase(tag, entry["filter"]) for entry in filters)
    return excluded != mutability.startswith("IMMUTABLE")


def _find(repository: FakeRepository, asked: dict[str, str]) -> StoredImage:
    digest, tag = asked.get("imageDigest"), asked.get("imageTag")
    if digest is None and tag is None:
        raise AwsError("MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null")
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise AwsError("InvalidImageDigest", f"Invalid request parameters: '{digest}' is no digest")
    if tag is not None and not _TAG.fullmatch(tag):
        raise AwsError("InvalidImageTag", f"Invalid request parameters: '{tag}' is no tag")
    image = repository.image(tag or digest or "")
    if image is None:
        raise _not_found()
    if digest not in (None, image.digest):
        raise AwsError("ImageTagDoesNotMatchDigest", f"The tag '{tag}' is not one of '{digest}'")
    return image


def _not_found() -> AwsError:
    return AwsError("ImageNotFound", "Requested image not found")


def _described(desk: Desk, repository: FakeRepository, image: StoredImage, tag: str | None) -> dict[str, Any]:
    text = image.body.decode()
    if image.digest in desk.corrupt_images:
        text = text.replace("2", "3", 1)
    return desk.answer(
        repository,
        imageId={"imageDigest": image.digest, **({"imageTag": tag} if tag else {})},
        imageManifest=text,
        imageManifestMediaType=image.media_type,
    )

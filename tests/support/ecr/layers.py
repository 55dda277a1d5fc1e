"""The operations on layers: which are there, the upload in parts, and the URL to read one."""

from __future__ import annotations

import re
from typing import Any, Final

from tests.support.ecr.desk import Desk, Operation
from tests.support.ecr.errors import AwsError
from tests.support.ecr.registry import FakeRepository, Upload

MAX_PARTS: Final = 4200
"""Parts of one layer; AWS's quota."""

_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPE: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"  # ECR knows no other one for a layer


def check_availability(desk: Desk) -> dict[str, Any]:
    """BatchCheckLayerAvailability."""
    repository, layers, failures = desk.repository, [], []
    for digest in desk.parameters["layerDigests"]:
        if not _SHA256.fullmatch(digest):
            failures.append(_failure(digest, "InvalidLayerDigest", f"Invalid layer digest '{digest}'"))
        elif digest not in repository.layers:
            failures.append(_failure(digest, "MissingLayerDigest", f"Layer digest '{digest}' could not be found"))
        else:
            layers.append(
                {
                    "layerDigest": digest,
                    "layerAvailability": "AVAILABLE",
                    "layerSize": len(repository.layers[digest]),
                    "mediaType": _MEDIA_TYPE,
                }
            )
    return {"layers": layers, "failures": failures}


def initiate(desk: Desk) -> dict[str, Any]:
    """InitiateLayerUpload."""
    upload = Upload()
    desk.repository.uploads[upload.upload_id] = upload
    return {"uploadId": upload.upload_id, "partSize": desk.part_size}


def upload_part(desk: Desk) -> dict[str, Any]:
    """UploadLayerPart."""
    repository, upload = desk.repository, _upload(desk)
    first, last, data = (desk.parameters[name] for name in ("partFirstByte", "partLastByte", "layerPartBlob"))
    if len(data) != last - first + 1:
        desk.violate(f"a part of {len(data)} bytes was said to be bytes {first} to {last}")
        raise _invalid_part(repository, upload, "the part's length is not that of its range")
    if len(data) > desk.part_size:
        desk.violate(f"a part of {len(data)} bytes, the most is {desk.part_size}")
        raise _invalid_part(repository, upload, "the part is too large")
    if first != upload.size:
        raise _invalid_part(repository, upload, "the part does not follow the one before")
    if len(upload.parts) == MAX_PARTS:
        raise AwsError("LimitExceededException", f"a layer has {MAX_PARTS} parts at most")
    upload.parts.append(data)
    upload.hashed.update(data)
    upload.size += len(data)
    return desk.answer(repository, uploadId=upload.upload_id, lastByteReceived=upload.size - 1)


def complete(desk: Desk) -> dict[str, Any]:
    """CompleteLayerUpload."""
    repository, upload = desk.repository, _upload(desk)
    if not upload.size:
        raise AwsError("EmptyUploadException", f"The upload '{upload.upload_id}' contains no bytes")
    if any(len(part) < desk.min_part for part in upload.parts[:-1]):
        desk.violate(f"a part that is not the last was smaller than {desk.min_part} bytes")
        raise AwsError("LayerPartTooSmallException", f"Layer parts must be at least {desk.min_part} bytes in size")
    digest = f"sha256:{upload.hashed.hexdigest()}"
    if digest not in desk.parameters["layerDigests"]:
        desk.violate(f"an upload was completed as {desk.parameters['layerDigests']}, its bytes are {digest}")
        raise AwsError("InvalidLayerException", "The digest of the uploaded layer is not the one that was given")
    del repository.uploads[upload.upload_id]
    if digest in repository.layers:
        raise AwsError("LayerAlreadyExistsException", f"The layer with digest '{digest}' already exists")
    repository.layers[digest] = b"".join(upload.parts)
    repository.known.add(digest)
    return desk.answer(repository, uploadId=upload.upload_id, layerDigest=digest)


def download_url(desk: Desk) -> dict[str, Any]:
    """GetDownloadUrlForLayer."""
    repository, digest = desk.repository, desk.parameters["layerDigest"]
    if digest not in repository.layers:
        raise AwsError("LayersNotFoundException", f"The layer with digest '{digest}' does not exist")
    if not repository.references(digest):
        raise AwsError("LayerInaccessibleException", f"The layer '{digest}' is not referenced by any image")
    return {"downloadUrl": desk.sign(repository, digest), "layerDigest": digest}


LAYERS: Final[dict[str, Operation]] = {
    "BatchCheckLayerAvailability": check_availability,
    "InitiateLayerUpload": initiate,
    "UploadLayerPart": upload_part,
    "CompleteLayerUpload": complete,
    "GetDownloadUrlForLayer": download_url,
}


def _upload(desk: Desk) -> Upload:
    upload_id = desk.parameters["uploadId"]
    upload = desk.repository.uploads.get(upload_id)
    if upload is None:
        raise AwsError("UploadNotFoundException", f"The upload with id '{upload_id}' could not be found")
    return upload


def _invalid_part(repository: FakeRepository, upload: Upload, reason: str) -> AwsError:
    return AwsError(
        "InvalidLayerPartException",
        f"Invalid layer part: {reason}",
        registryId=repository.account,
        repositoryName=repository.name,
        uploadId=upload.upload_id,
        lastValidByteReceived=upload.size - 1,
    )


def _failure(digest: str, code: str, reason: str) -> dict[str, str]:
    return {"layerDigest": digest, "failureCode": code, "failureReason": reason}

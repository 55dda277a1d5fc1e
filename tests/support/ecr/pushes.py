"""Pushes through plain boto3, and its refusals: what the tests of the double itself are made of."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support import images


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def send_parts(client: Any, name: str, data: bytes, part_size: int = 1000, *, start: int = 0, upload: str = "") -> str:
    """Upload `data` from byte `start`; an empty `upload` begins a new one. The upload's id comes back."""
    upload = upload or client.initiate_layer_upload(repositoryName=name)["uploadId"]
    for first in range(start, len(data), part_size):
        part = data[first : first + part_size]
        client.upload_layer_part(
            repositoryName=name,
            uploadId=upload,
            partFirstByte=first,
            partLastByte=first + len(part) - 1,
            layerPartBlob=part,
        )
    return upload


def push_layer(client: Any, name: str, data: bytes, part_size: int = 1000) -> str:
    """Upload a whole layer and return its digest."""
    upload, digest = send_parts(client, name, data, part_size), sha256(data)
    client.complete_layer_upload(repositoryName=name, uploadId=upload, layerDigests=[digest])
    return digest


def put_image(client: Any, name: str, image: images.Manifest, tag: str | None = None, **changed: Any) -> Any:
    """PutImage of one manifest, with some parameters changed."""
    parameters = {
        "repositoryName": name,
        "imageManifest": image.body.decode(),
        "imageManifestMediaType": image.media_type,
        "imageDigest": image.digest,
        **({"imageTag": tag} if tag else {}),
    }
    return client.put_image(**{**parameters, **changed})


def push(client: Any, name: str, image: images.Manifest, tag: str | None = None) -> None:
    """Everything in its right order: blobs, children, the image itself."""
    for blob in image.all_blobs().values():
        push_layer(client, name, blob.read())
    for part in image.walk():
        put_image(client, name, part, tag if part is image else None)


def refused(call: Any, *arguments: Any, **parameters: Any) -> dict[str, Any]:
    """The error's answer to a call that must fail; its code is at ["Error"]["Code"]."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **parameters)
    answer: dict[str, Any] = caught.value.response
    return answer


def code_of(call: Any, *arguments: Any, **parameters: Any) -> str:
    """The code with which a call is refused."""
    return str(refused(call, *arguments, **parameters)["Error"]["Code"])

# ruff: noqa: INP001 - a script, not a package
"""pull.py ADDRESS IMAGE SECONDS: pull an image's manifest and its smallest blob through Millpond, and verify both.

USERNAME and PASSWORD in the environment are shown, where they are set.

`helm test` runs this in Millpond's own image: Python's standard library, no shell and no curl. It waits as long as
SECONDS for the first answer, and says where each one came from.
"""

import base64
import hashlib
import http.client
import json
import os
import ssl
import sys
import time
from urllib.parse import urlsplit

KINDS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


def headers() -> dict[str, str]:
    found = {"Accept": KINDS}
    if username := os.environ.get("USERNAME"):
        pair = f"{username}:{os.environ.get('PASSWORD', '')}".encode()
        found["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return found


def connect(address: str, seconds: float) -> http.client.HTTPConnection:
    """Without urllib, which would ask a proxy of the environment. The certificate is not looked at: what is tested is
    the pull, whose bytes are verified by their digest, and the nodes' trust is another one than this pod's."""
    url = urlsplit(address)
    if url.scheme != "https":
        return http.client.HTTPConnection(url.netloc, timeout=seconds)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(url.netloc, timeout=seconds, context=context)


def get(address: str, path: str, end: float) -> tuple[bytes, http.client.HTTPMessage]:
    """The body and headers of a 200. While there is time, an instance that has just started is asked again."""
    while True:
        try:
            connection = connect(address, max(end - time.monotonic(), 1))
            connection.request("GET", path, headers=headers())
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                return body, answer.headers
            trouble = f"{answer.status} {body[:500].decode(errors='replace')}"
            if answer.status == 401:
                trouble += "\nName a secret with username and password of somebody who may pull: test.existingSecret"
            if answer.status < 500:
                sys.exit(f"FAILED {path}: {trouble}")
        except (OSError, http.client.HTTPException) as error:
            trouble = repr(error)
        if time.monotonic() > end - 1:
            sys.exit(f"FAILED {address}{path}: {trouble}")
        time.sleep(1)


def verified(address: str, path: str, digest: str | None, end: float) -> bytes:
    """What stands at `path`, whose digest must be this one, else the one that the answer states."""
    body, answered = get(address, path, end)
    wanted = digest or answered["Docker-Content-Digest"]
    algorithm, _, encoded = wanted.partition(":")
    if hashlib.new(algorithm, body).hexdigest() != encoded:
        sys.exit(f"FAILED {path}: {len(body)} bytes that are not {wanted}")
    sys.stdout.write(f"ok {path}: {len(body)} bytes, verified, from: {answered['X-Millpond']}\n")
    return body


def main(address: str, image: str, seconds: str) -> None:
    # Before the pod's own deadline, so that there is a message.
    end = time.monotonic() + int(seconds) * 0.9
    name, _, digest = image.partition("@")
    head, colon, tag = name.rpartition(":")
    repository, reference = (head, tag) if colon and "/" not in tag else (name, "latest")
    get(address, "/v2/", end)
    manifest = json.loads(verified(address, f"/v2/{repository}/manifests/{digest or reference}", digest or None, end))
    if "manifests" in manifest:
        digest = manifest["manifests"][0]["digest"]
        manifest = json.loads(verified(address, f"/v2/{repository}/manifests/{digest}", digest, end))
    blob = min([manifest["config"], *manifest["layers"]], key=lambda descriptor: int(descriptor["size"]))["digest"]
    verified(address, f"/v2/{repository}/blobs/{blob}", blob, end)


main(*sys.argv[1:])

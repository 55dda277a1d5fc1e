"""A plain client for tests: says exactly what it sends, hashes what it gets, and never decodes or retries."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from tests.support.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest

TIMEOUT: Final = 60.0  # seconds without a byte
_CHUNK: Final = 1 << 20

ACCEPT: Final = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}, */*"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; header names in lower case. `complete` is False when the connection ended before the body did."""

    status: int
    headers: dict[str, str]
    size: int
    sha256: str
    body: bytes = field(repr=False)  # empty when it was asked to be hashed only
    complete: bool = True

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256}"

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error_code(self) -> str:
        """The first code of an error in OCI's form."""
        code = self.json()["errors"][0]["code"]
        assert isinstance(code, str)
        return code


class Download:
    """An answer whose body is read piece by piece, for tests that look at what has arrived, or leave in the middle."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.received = 0
        self.hasher = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer where the body ends or breaks."""
        parts = []
        while size:
            try:
                part = self._response.read1(min(size, _CHUNK))
            except (ConnectionError, http.client.IncompleteRead):
                break
            if not part:
                break
            size -= len(part)
            self.received += len(part)
            self.hasher.update(part)
            parts.append(part)
        return b"".join(parts)

    def drain(self) -> bool:
        """Read to the end without keeping anything; whether all of Content-Length came."""
        while self.read(_CHUNK):
            pass
        return self.received == int(self.headers.get("content-length", self.received))

    @property
    def digest(self) -> str:
        return f"sha256:{self.hasher.hexdigest()}"


@contextlib.contextmanager
def opened(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    content: bytes | None = None,
    ca: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[Download]:
    """Send one request on a connection of its own; leaving the block closes it, however much has arrived."""
    parts = urlsplit(url)
    assert parts.hostname
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=ca
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    with contextlib.closing(connection):
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, content, headers={"Accept": ACCEPT, **(headers or {})})
        with contextlib.closing(connection.getresponse()) as response:
            yield Download(connection, response)


def get(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    content: bytes | None = None,
    keep: bool = True,
    ca: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
) -> Reply:
    """One request and its whole answer. Without `keep` the body is hashed and dropped, so that it may be large."""
    with opened(url, headers, method=method, content=content, ca=ca, timeout=timeout) as download:
        body = bytearray()
        while part := download.read(_CHUNK):
            if keep:
                body += part
        stated = download.headers.get("content-length")
        complete = method == "HEAD" or stated is None or int(stated) == download.received
        return Reply(
            download.status, download.headers, download.received, download.hasher.hexdigest(), bytes(body), complete
        )


def head(url: str, headers: Mapping[str, str] | None = None) -> Reply:
    return get(url, headers, method="HEAD")


def pull(base: str, image: Manifest, reference: str, query: str = "") -> list[Reply]:
    """Pull everything as a client does: the tag or digest, the children, each blob; compare all with the source.

    `base` is a repository's URL below which `/manifests/` and `/blobs/` are (`http://127.0.0.1:5000/v2/library/x`).

    Raises:
        AssertionError: something differs from `image`, in status, type, size or content.
    """
    parts = [(image, reference), *((part, part.digest) for part in image.walk() if part is not image)]
    replies = [_check_manifest(base, part, name, query) for part, name in parts]
    for blob in image.all_blobs().values():
        reply = get(f"{base}/blobs/{blob.digest}{query}", keep=False)
        assert (reply.status, reply.complete) == (200, True), (blob, reply)
        assert (reply.digest, reply.size) == (blob.digest, blob.size)
        assert reply.headers.get("docker-content-digest") == blob.digest
        replies.append(reply)
    return replies


def pull_together(count: int, base: str, image: Manifest, reference: str, query: str = "") -> list[Reply]:
    """`count` clients that each pull everything, at once; the answers of all."""
    with ThreadPoolExecutor(count) as pool:
        pulls = [pool.submit(pull, base, image, reference, query) for _ in range(count)]
        return [reply for done in pulls for reply in done.result()]


def _check_manifest(base: str, manifest: Manifest, reference: str, query: str) -> Reply:
    reply = get(f"{base}/manifests/{reference}{query}")
    assert reply.status == 200, reply.text
    assert reply.body == manifest.body
    assert reply.headers["content-type"] == manifest.media_type
    assert reply.headers["docker-content-digest"] == manifest.digest
    return reply

"""The port of presigned downloads: S3 as ECR uses it. Whoever has the URL may read, until it expires."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from tests.support.ecr.errors import AwsError
from tests.support.ecr.faults import DOWNLOAD, Call
from tests.support.ecr.registry import FakeRepository
from tests.support.ecr.server import Answer, Request

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_NEVER_SENT: Final = ("authorization", "cookie")


@dataclass(frozen=True, slots=True)
class _Grant:
    account: str
    region: str
    repository: str
    digest: str
    content: bytes = field(repr=False)
    expires: float  # monotonic clock


class Downloads:
    """Signed URLs, and what they give. `seconds` is how long new ones are valid."""

    def __init__(self, violate: Callable[[str], None]) -> None:
        self.seconds = 3600.0
        self._violate = violate
        self._grants: dict[str, _Grant] = {}
        self._corrupt: set[str] = set()
        self._cuts: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def sign(self, repository: FakeRepository, digest: str) -> str:
        """The path and query of a URL for one layer."""
        now = time.gmtime()
        scope = f"ASIA{secrets.token_hex(8).upper()}/{time.strftime('%Y%m%d', now)}/{repository.region}/s3/aws4_request"
        query = {
            "X-Amz-Security-Token": secrets.token_urlsafe(60) + "+/=",
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", now),
            "X-Amz-SignedHeaders": "host",
            "X-Amz-Expires": f"{self.seconds:.0f}",
            "X-Amz-Credential": scope,
            "X-Amz-Signature": secrets.token_hex(32),
        }
        target = f"/prod-{repository.region}-starport-layer-bucket/{secrets.token_hex(8)}/{digest}?{urlencode(query)}"
        grant = _Grant(
            repository.account,
            repository.region,
            repository.name,
            digest,
            repository.layers[digest],
            time.monotonic() + self.seconds,
        )
        with self._lock:
            self._grants[target] = grant
        return target

    def signatures(self) -> list[str]:
        """Of all URLs that were given so far."""
        with self._lock:
            return [target.partition("X-Amz-Signature=")[2] for target in self._grants]

    def expire_urls(self) -> None:
        """All URLs that were given so far are valid no longer."""
        with self._lock:
            self._grants = {
                target: _Grant(old.account, old.region, old.repository, old.digest, old.content, 0.0)
                for target, old in self._grants.items()
            }

    def corrupt_layer(self, digest: str) -> None:
        """Its downloads have the right length, with one bit of each answer flipped."""
        self._corrupt.add(digest)

    def cut_layer(self, digest: str, at: int, times: int = 1) -> None:
        """The next downloads of it break after `at` bytes."""
        self._cuts.setdefault(digest, []).extend([at] * times)

    def describe(self, request: Request) -> Call:
        """The call that this request is; it may turn out not to be allowed."""
        with self._lock:
            grant = self._grants.get(request.target)
        parameters = {"method": request.method, "range": request.headers.get("range")}
        if grant is None:
            return Call(DOWNLOAD, parameters=parameters)
        parameters |= {"layerDigest": grant.digest, "repositoryName": grant.repository}
        return Call(DOWNLOAD, grant.account, grant.region, parameters=parameters)

    def answer(self, request: Request) -> Answer:
        """The layer, or a range of it.

        Raises:
            AwsError: with S3's codes.
        """
        for name in _NEVER_SENT:
            if name in request.headers:
                self._violate(f"{name} was sent to the presigned port")
        if "authorization" in request.headers:
            raise AwsError(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified",
            )
        with self._lock:
            # By the exact bytes of the target: a client that normalises it breaks the signature of the real one.
            grant = self._grants.get(request.target)
        if grant is None or request.method != "GET":
            raise AwsError("SignatureDoesNotMatch", "The request signature we calculated does not match", 403)
        if time.monotonic() >= grant.expires:
            raise AwsError("AccessDenied", "Request has expired", 403)
        return self._give(grant, request.headers.get("range"))

    def _give(self, grant: _Grant, wanted: str | None) -> Answer:
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": f'"{grant.digest[-32:]}"',
        }
        status, body, size = 200, grant.content, len(grant.content)
        found = _RANGE.fullmatch(wanted or "")  # S3 ignores what it does not understand, such as several ranges
        if found and (found[1] or found[2]):
            start = int(found[1]) if found[1] else max(0, size - int(found[2]))
            stop = min(size, int(found[2]) + 1) if found[1] and found[2] else size
            if start >= size or (found[1] and found[2] and int(found[2]) < start):
                raise AwsError("InvalidRange", "The requested range is not satisfiable", 416)
            status, body = 206, body[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if grant.digest in self._corrupt and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        with self._lock:
            cuts = self._cuts.get(grant.digest)
            cut = cuts.pop(0) if cuts else None
        return Answer(status, body, headers, cut_at=cut)

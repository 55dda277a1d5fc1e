"""AWS signatures of version 4, verified as AWS does: the whole request is signed, so a changed body is refused."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.support.ecr.errors import AwsError
from tests.support.ecr.server import Request

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>\w{16,128})/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)"
    r"/aws4_request, ?SignedHeaders=(?P<signed>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_MUST_BE_SIGNED: Final = ("host", "x-amz-date")
_MUST_BE_SIGNED_IF_SENT: Final = ("x-amz-target", "x-amz-security-token")
_CLOCK_SKEW: Final = 15 * 60  # seconds that AWS allows between a request's date and its own


class BadSignature(AwsError):
    """What no correctly built client ever sends."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Who has signed, and for where."""

    access_key: str
    region: str
    service: str


def scope_of(request: Request) -> Scope:
    """The credential scope as the request claims it; nothing is verified.

    Raises:
        BadSignature: there is no signature, or it is malformed.
    """
    found = _parse(request)
    return Scope(found["key"], found["region"], found["service"])


def verify(request: Request, secret_of: Callable[[str], str]) -> None:
    """Compute the signature again with the secret of the access key.

    Raises:
        BadSignature: it is another one, does not cover what it must, or is too old.
    """
    found = _parse(request)
    date, signed = request.headers.get("x-amz-date", ""), found["signed"].split(";")
    if not re.fullmatch(r"\d{8}T\d{6}Z", date) or not date.startswith(found["date"]):
        raise BadSignature("IncompleteSignatureException", "X-Amz-Date is missing or is not the scope's day", 403)
    missing = [name for name in _MUST_BE_SIGNED if name not in signed]
    missing += [name for name in _MUST_BE_SIGNED_IF_SENT if name in request.headers and name not in signed]
    if missing or signed != sorted(signed):
        raise BadSignature("InvalidSignatureException", f"not signed, or out of order: {missing or signed}", 403)
    if abs(timegm(time.strptime(date, "%Y%m%dT%H%M%SZ")) - time.time()) > _CLOCK_SKEW:
        raise BadSignature("InvalidSignatureException", "Signature expired", 403)
    path, _, query = request.target.partition("?")
    lines = [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed]
    body = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join([request.method, path, query, *lines, "", found["signed"], body])
    scope = f"{found['date']}/{found['region']}/{found['service']}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_of(found['key'])}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if hmac.new(key, text.encode(), hashlib.sha256).hexdigest() != found["signature"]:
        raise BadSignature(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
            403,
        )


def _parse(request: Request) -> re.Match[str]:
    header = request.headers.get("authorization")
    if header is None:
        raise BadSignature("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
    found = _AUTHORIZATION.fullmatch(header)
    if found is None:
        raise BadSignature("IncompleteSignatureException", "the Authorization header is malformed", 403)
    return found

"""The one table from errors to HTTP: status, OCI error code, and the headers that belong to it."""

from __future__ import annotations

import json
import math
from typing import Final

from starlette.responses import Response

from proxy.oci import errors

_TABLE: Final[dict[type[errors.MillpondError], tuple[int, str]]] = {
    errors.NameInvalid: (400, "NAME_INVALID"),
    errors.TagInvalid: (400, "TAG_INVALID"),
    errors.DigestInvalid: (400, "DIGEST_INVALID"),
    errors.PageInvalid: (400, "PAGINATION_NUMBER_INVALID"),
    errors.RangeInvalid: (416, "RANGE_INVALID"),
    errors.Unsupported: (405, "UNSUPPORTED"),
    errors.Unauthenticated: (401, "UNAUTHORIZED"),
    errors.AccessDenied: (403, "DENIED"),
    errors.TooManyRequests: (429, "TOOMANYREQUESTS"),
    errors.NameUnknown: (404, "NAME_UNKNOWN"),
    errors.ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    errors.BlobUnknown: (404, "BLOB_UNKNOWN"),
    errors.PathUnknown: (404, "UNSUPPORTED"),
    # 403, not 401: a challenge would make clients offer their users' passwords to this cache.
    errors.Denied: (403, "DENIED"),
    errors.UpstreamLimited: (429, "TOOMANYREQUESTS"),
    errors.UpstreamTimeout: (504, "UNAVAILABLE"),
    errors.UpstreamUnreachable: (502, "UNAVAILABLE"),
    errors.UpstreamInvalid: (502, "UNAVAILABLE"),
    errors.DiskFailure: (503, "UNAVAILABLE"),
}

# Basic is what every client can answer; a Bearer token is taken as well from who sends one.
_CHALLENGE: Final = 'Basic realm="Millpond", charset="UTF-8"'


def problem(error: errors.MillpondError) -> Response:
    """The response that tells a client of `error`, in the specification's form."""
    status, code = next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
    body = {"errors": [{"code": code, "message": str(error), "detail": None}]}
    response = Response(json.dumps(body), status, media_type="application/json")
    match error:
        case errors.RangeInvalid(size=size):
            response.headers["Content-Range"] = f"bytes */{size}"
        case errors.UpstreamLimited(retry_after=seconds) | errors.TooManyRequests(retry_after=seconds):
            response.headers["Retry-After"] = str(math.ceil(seconds))
        case errors.Unauthenticated():
            response.headers["WWW-Authenticate"] = _CHALLENGE
        case errors.Unsupported():
            response.headers["Allow"] = "GET, HEAD"
            response.headers["Connection"] = "close"  # a body may follow that nobody will read
    return response

"""Failures that the layers of this package tell apart, and what to say about a status that is not a success."""

from __future__ import annotations

import json
from typing import Final

from proxy.oci.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MillpondError,
    NameUnknown,
    Unknown,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.transport import Reply

# Enough for any error in OCI's form; the rest of an HTML page is not read.
MAX_ERROR_BODY: Final = 4 * 1024
MAX_MESSAGE: Final = 200
# An explanation is not worth a long wait.
MESSAGE_TIMEOUT: Final = 5.0

_UNKNOWN: Final[dict[str, type[Unknown]]] = {"manifests": ManifestUnknown, "referrers": ManifestUnknown,
                                            "blobs": BlobUnknown}  # fmt: skip


class Broken(UpstreamUnreachable):
    """A gateway's error (502, 503, 504): worth another try."""


class Internal(UpstreamUnreachable):
    """A 500: worth one more try, since some are not a coincidence."""


async def refusal(reply: Reply, endpoint: Endpoint, noun: str, path: str | None) -> MillpondError:
    """The error that stands for `reply`, which was not what was asked for. Closes the reply."""
    said = await explanation(reply)
    where = f"upstream {endpoint.name}"
    what = f"{noun} of {path}" if path else noun
    if reply.status == 404:
        kind = _UNKNOWN.get(noun, NameUnknown)
        return kind(
            f"{where} answered 404 to a request for {what}{said}; check the repository's name and the tag or digest, "
            "and whether it is private"
        )
    if reply.status in (401, 403):
        return Denied(f"{where} refused {what} ({reply.status}){said}; {credentials_hint(endpoint)}")
    if reply.status >= 500:
        return UpstreamUnreachable(f"{where}: {reply.target} answered {reply.status} to a request for {what}{said}")
    return UpstreamInvalid(f"{where}: {reply.target} answered {reply.status} to a request for {what}{said}")


def credentials_hint(endpoint: Endpoint) -> str:
    """What the operator can do about a 401 or 403."""
    if endpoint.login is not None:
        return (
            f"Millpond logs in there with AWS credentials: check upstreams.{endpoint.name}.role_arn (without it, the "
            "identity that Millpond runs with), that its policy allows ecr:BatchGetImage and "
            "ecr:GetDownloadUrlForLayer, and that the repository's own policy does too if it is another account's"
        )
    keys = endpoint.keys or f"upstreams.{endpoint.name}.username and upstreams.{endpoint.name}.password_file"
    if endpoint.has_credentials:
        return f"credentials are configured: check {keys}, and that this account may pull it"
    return f"no credentials are configured: if it is private, set {keys}"


async def explanation(reply: Reply) -> str:
    """Upstream's own words about an error, made harmless, as `: words`; empty when there are none, or when they repeat
    a secret that was sent. Closes the reply."""
    try:
        body = await reply.read(MAX_ERROR_BODY, within=MESSAGE_TIMEOUT)
        errors = json.loads(body)["errors"]
        words = [str(error.get("message") or error.get("code") or "") for error in errors[:3]]
    except (MillpondError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    finally:
        await reply.aclose()
    text = "".join(c if c.isprintable() else " " for c in "; ".join(filter(None, words)))
    return f": {text[:MAX_MESSAGE]!r}" if text and not reply.repeats_a_secret(text) else ""

"""What `millpond import` brings while the program runs. Whoever may do this decides what an image's name stands for, so
that the token or the pass is wanted even where other changes are open to all of this machine.

POST /api/v1/import/lacking   {"blobs": {digest: size}, "whole": bytes}     {"lacking": [digest, …]}; 409 where `whole`
                                                                            has no place in the cache
POST /api/v1/import/blob      ?digest= with Content-Length, the bytes       {"kept": digest}
POST /api/v1/import/manifest  ?image=, the bytes, its type as Content-Type  {"kept": digest}; a tag in `image` points
                                                                            there from then on
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.admin.answers import BadRequest, answered, body_of
from proxy.cache.intake import Intake
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure, UpstreamInvalid
from proxy.oci.manifest import MAX_MANIFEST, parse_manifest
from proxy.oci.names import Repository, parse_image

# Blobs are sent as this, which a web page may not send to another site without being asked about first.
_OCTETS: Final = "application/octet-stream"


def intake_routes(intake: Intake, locate: Callable[[str], Repository]) -> list[Route]:
    """`locate` knows what a repository's name means here."""

    async def lacking(request: Request) -> Response:
        body = await body_of(request, {"blobs", "whole"})
        blobs, whole = body.get("blobs"), body.get("whole", 0)
        if not isinstance(blobs, dict) or not all(map(_is_size, [whole, *blobs.values()])):
            raise BadRequest('"blobs" is to be an object of digests and their sizes, "whole" a number of bytes')
        found = intake.lacking({Digest.parse(text): size for text, size in blobs.items()}, whole)
        return JSONResponse({"lacking": found})

    async def blob(request: Request) -> Response:
        digest = Digest.parse(request.query_params.get("digest", ""))
        size = request.headers.get("content-length", "")
        if not size.isascii() or not size.isdecimal() or request.headers.get("content-type") != _OCTETS:
            raise BadRequest(f"this wants a body of the type {_OCTETS}, and its Content-Length")
        await intake.blob(digest, int(size), request.stream())
        return JSONResponse({"kept": digest})

    async def manifest(request: Request) -> Response:
        image = parse_image(request.query_params.get("image", ""), locate)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_MANIFEST:
                raise BadRequest(f"a manifest has no more than {MAX_MANIFEST} bytes", 413)
        try:
            parsed = parse_manifest(bytes(body), request.headers.get("content-type", ""), image.digest)
        except UpstreamInvalid:
            raise BadRequest(f"what came is no manifest, or is not {image.digest}; export it once more") from None
        await intake.manifest(image, parsed)
        return JSONResponse({"kept": parsed.digest})

    return [
        Route("/api/v1/import/lacking", answered(_proved(lacking)), methods=["POST"]),
        Route("/api/v1/import/blob", answered(_proved(blob)), methods=["POST"]),
        Route("/api/v1/import/manifest", answered(_proved(manifest)), methods=["POST"]),
    ]


def _proved(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        if not request.scope["proved"]:
            raise BadRequest(
                "an import needs the token of this server, or to be run as its user with its configuration", 401
            )
        try:
            return await handler(request)
        except DiskFailure as error:
            raise BadRequest(str(error), 409) from None
        except ClientDisconnect:
            raise BadRequest("whoever sent this has left in the middle of it") from None

    return answer


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63

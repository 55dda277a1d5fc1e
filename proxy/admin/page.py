"""The operator's page: a few files that a browser runs as they are, with nothing from elsewhere.

GET  /             the page
GET  /page/NAME    what it loads
POST /sign-in      204 when whoever asks may make changes; else the guard's answer. Changes nothing
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Names of images are strangers' words. Were one ever to become markup, it could load nothing, run nothing and send
# nothing anywhere; with trusted types a browser does not even make markup of text.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    # Asked again each time, and answered 304: a page of another version must never talk to this one's API.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    zipped: bytes
    media_type: str
    etag: str


def page_routes() -> list[Route]:
    """The routes above. The files are read now, and once."""
    assets = _assets()

    async def index(request: Request) -> Response:
        return _answer(assets[_INDEX], request)

    async def part(request: Request) -> Response:
        asset = assets.get(request.path_params["name"])
        return PlainTextResponse("there is no such file\n", 404) if asset is None else _answer(asset, request)

    async def sign_in(_: Request) -> Response:
        return Response(status_code=204)

    return [
        Route("/", index),
        Route("/page/{name}", part),
        Route("/sign-in", sign_in, methods=["POST"]),
    ]


def _assets() -> Mapping[str, _Asset]:
    found = {}
    for file in (files("proxy.admin") / "page").iterdir():
        media_type = _TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            body = file.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:32]
            found[file.name] = _Asset(body, gzip.compress(body, 9, mtime=0), media_type, digest)
    return found


def _answer(asset: _Asset, request: Request) -> Response:
    zipped = _takes_gzip(request.headers.get("accept-encoding", ""))
    # Two encodings are two bodies, and each has a tag of its own (RFC 9110, section 8.8.3.3).
    etag = f'"{asset.etag}{"-gzip" if zipped else ""}"'
    headers = {**_HEADERS, "ETag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if zipped:
        headers["Content-Encoding"] = "gzip"
    return Response(asset.zipped if zipped else asset.body, headers=headers, media_type=asset.media_type)


def _takes_gzip(accepted: str) -> bool:
    """Whether gzip stands there without a weight of nothing."""
    for each in accepted.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False

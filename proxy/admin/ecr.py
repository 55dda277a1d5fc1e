"""The operator's API of the ECR tier, as JSON. Streams are one JSON object a line, the last one a summary.

GET  /api/v1/ecr                              queue, failures with their reasons
POST /api/v1/ecr/retry   {target?, image?}    what was rejected or waits begins at once
POST /api/v1/ecr/sync    {images: [...]}      push images to all targets: a stream of progress
GET  /api/v1/ecr/verify  ?image=...&image=... compare disk, upstream and targets: a stream of rows
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from proxy.oci.errors import MillpondError

# Thousands of image names; more than that in one request is a mistake.
MAX_BODY: Final = 1024 * 1024
# Between lines of a stream, so that whoever reads it can tell a long push from a dead connection.
HEARTBEAT: Final = 5.0

Row = Mapping[str, Any]


class EcrDesk(Protocol):
    """What the operator may ask of the ECR tier. Rows and results are fit for JSON."""

    def status(self) -> Row:
        """`targets` and `jobs`, as `proxy.ecr.tier.TierStatus` has them."""

    def retry(self, target: str | None, image: str | None) -> int:
        """Begin at once what was rejected or waits; how many. MillpondError where a name means nothing here."""

    def sync(self, images: Sequence[str]) -> AsyncGenerator[Row, None]:
        """Push images to all of their targets. Rows: image, target (null: all), state (queued, pushing, done,
        rejected, waiting, failed), reason, bytes_done, bytes_total; the last row is {"summary": {done, failed}}.

        Raises:
            MillpondError: at once, where a name cannot be read. Nothing has been begun then.
        """

    def verify(self, images: Sequence[str]) -> AsyncGenerator[Row, None]:
        """Compare images (none: all that are on disk). Rows as `proxy.ecr.compare.Row.as_json`; the last row is
        {"summary": {same, differs, unverified}}. Raises as `sync`."""


class _BadRequest(MillpondError):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def ecr_routes(desk: EcrDesk | None, draining: Callable[[], bool]) -> list[Route]:
    """The routes above. Without a desk each of them says that there are no targets."""

    async def status(_: Request) -> Response:
        return JSONResponse(_open(desk).status())

    async def retry(request: Request) -> Response:
        body = await _body(request, {"target", "image"})
        target, image = (_text(body, key) for key in ("target", "image"))
        return JSONResponse({"retried": _open(desk).retry(target, image)})

    async def sync(request: Request) -> Response:
        images = (await _body(request, {"images"})).get("images")
        if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
            raise _BadRequest('"images" is to be a list of image names, one at least')
        return _stream(_open(desk).sync(images), draining)

    async def verify(request: Request) -> Response:
        return _stream(_open(desk).verify(request.query_params.getlist("image")), draining)

    return [
        Route("/api/v1/ecr", _answered(status)),
        Route("/api/v1/ecr/retry", _answered(retry), methods=["POST"]),
        Route("/api/v1/ecr/sync", _answered(sync), methods=["POST"]),
        Route("/api/v1/ecr/verify", _answered(verify)),
    ]


def _open(desk: EcrDesk | None) -> EcrDesk:
    if desk is None:
        raise _BadRequest("there are no ecr.targets in the configuration of this server", 404)
    return desk


def _answered(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        try:
            response: Response = await handler(request)
        except MillpondError as error:
            return JSONResponse({"error": str(error)}, error.status if isinstance(error, _BadRequest) else 400)
        return response

    return answer


async def _body(request: Request, known: set[str]) -> dict[str, Any]:
    # A web page that somebody has open can send a form here, but not this type: its browser would ask us first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _BadRequest("this wants a body of the type application/json", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _BadRequest(f"the body is larger than {MAX_BODY} bytes; send fewer images at a time", 413)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _BadRequest("the body is not JSON") from None
    if not isinstance(document, dict) or not set(document) <= known:
        raise _BadRequest(f"the body is to be an object with no other keys than: {', '.join(sorted(known))}")
    return document


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise _BadRequest(f'"{key}" is to be text')
    return value


def _stream(rows: AsyncGenerator[Row, None], draining: Callable[[], bool]) -> Response:
    return StreamingResponse(_lines(rows, draining), media_type="application/x-ndjson")


async def _lines(rows: AsyncGenerator[Row, None], draining: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Each row as a line, an empty line in each HEARTBEAT without one, an error as the last line. A defect breaks the
    connection off, so that nobody takes what has come for all there is."""

    async def following() -> Row | None:
        return await anext(rows, None)

    pending: asyncio.Task[Row | None] | None = None
    try:
        while not draining():
            pending = pending or asyncio.create_task(following())
            done, _ = await asyncio.wait({pending}, timeout=HEARTBEAT)
            if not done:
                yield b"\n"
                continue
            row, pending = pending.result(), None
            if row is None:
                return
            yield _line(row)
        yield _line({"error": "the server is about to end; what was begun goes on when it runs again"})
    except MillpondError as error:
        yield _line({"error": str(error)})
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        await rows.aclose()


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"

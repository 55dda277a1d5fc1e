"""What the parts of the operator's API share: JSON in, JSON or a stream of JSON lines out, errors as {"error": …}."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from proxy.oci.errors import (
    Denied,
    DiskFailure,
    MillpondError,
    NameUnknown,
    Unknown,
    UpstreamFailure,
    UpstreamInvalid,
)

# Thousands of image names; more than that in one request is a mistake.
MAX_BODY: Final = 1024 * 1024
# Between lines of a stream, so that whoever reads it can tell a long push from a dead connection.
HEARTBEAT: Final = 5.0
# Of a number in a query: a million digits are work for nothing.
MAX_DIGITS: Final = 9

# The first that fits; what is not among these is the question's fault. What cannot do its part now may do it later.
_STATUS: Final[tuple[tuple[type[MillpondError], int], ...]] = (
    (NameUnknown, 400),
    (Unknown, 404),
    (Denied, 409),
    (UpstreamFailure, 503),
    (UpstreamInvalid, 503),
    (DiskFailure, 503),
)

Row = Mapping[str, Any]


class BadRequest(MillpondError):
    """Answered with `status` and the message."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def answered(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """The handler as a route takes it: what it raises becomes an answer."""

    async def answer(request: Request) -> Response:
        try:
            response: Response = await handler(request)
        except MillpondError as error:
            return JSONResponse({"error": str(error)}, _status(error))
        return response

    return answer


async def body_of(request: Request, known: set[str]) -> dict[str, Any]:
    """The JSON object that was sent, with no other keys than those `known`. Raises BadRequest."""
    # A web page that somebody has open can send a form here, but not this type: its browser would ask us first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("this wants a body of the type application/json", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise BadRequest(f"the body is larger than {MAX_BODY} bytes; send fewer images at a time", 413)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(document, dict) or not set(document) <= known:
        raise BadRequest(f"the body is to be an object with no other keys than: {', '.join(sorted(known)) or 'none'}")
    return document


def text_in(body: Mapping[str, Any], key: str) -> str | None:
    """The text under `key`, None without it. Raises BadRequest."""
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f'"{key}" is to be text')
    return value


def number_in(request: Request, key: str, default: int) -> int:
    """The whole number under `key` of the query. Raises BadRequest."""
    text = request.query_params.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > MAX_DIGITS:
        raise BadRequest(f'"{key}" is to be a whole number, not {text[:50]!r}')
    return int(text)


def named_in(request: Request, key: str) -> str:
    """The text under `key` of the query. Raises BadRequest without one."""
    text = request.query_params.get(key)
    if not text:
        raise BadRequest(f'"{key}" is missing, as in ?{key}=docker.io/library/alpine:3.20')
    return text


def image_in(body: Mapping[str, Any]) -> str:
    """The name under `image`. Raises BadRequest without one."""
    image = text_in(body, "image")
    if not image:
        raise BadRequest('"image" is missing, as in {"image": "docker.io/library/alpine:3.20"}')
    return image


def stream(rows: AsyncGenerator[Row, None], draining: Callable[[], bool], then: str) -> Response:
    """`rows` as lines. `then` says what becomes of them when the server ends before they do."""
    return StreamingResponse(_lines(rows, draining, then), media_type="application/x-ndjson")


def _status(error: MillpondError) -> int:
    if isinstance(error, BadRequest):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 400)


async def _lines(rows: AsyncGenerator[Row, None], draining: Callable[[], bool], then: str) -> AsyncIterator[bytes]:
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
        yield _line({"error": f"the server is about to end; {then}"})
    except MillpondError as error:
        yield _line({"error": str(error)})
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        await rows.aclose()


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"

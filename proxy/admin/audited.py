"""Every change that somebody asks for on the admin port, told with how it was answered, those that are refused too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_API: Final = "/api/v1/"
# Of a body that is told: some hundred names of images. A longer one is told by its length.
MAX_TOLD: Final = 16 * 1024
# Of a path: whoever has no token may send any.
MAX_PATH: Final = 200


class Audited:
    """An ASGI application around `app`, which is the guard with all that it guards."""

    def __init__(self, app: ASGIApp, tell: Callable[[Mapping[str, object]], None]) -> None:
        """`tell` is called once for each change, when its answer has ended: client, change, asked, proved (by the token
        or the pass), status. Nothing that proves anybody is in it."""
        self._app = app
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        body, length, status = bytearray(), 0, 0

        async def read() -> Message:
            nonlocal length
            message = await receive()
            part = message.get("body", b"")
            length += len(part)
            body.extend(part[: MAX_TOLD + 1 - len(body)])
            return message

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, read, sent)
        finally:
            self._tell(
                {
                    "client": scope["client"][0] if scope.get("client") else "",
                    "change": scope["path"].removeprefix(_API)[:MAX_PATH],
                    "asked": _asked(bytes(body), length),
                    "proved": scope.get("proved", False),
                    "status": status,
                }
            )


def _asked(body: bytes, length: int) -> object:
    """The JSON that was sent, or how much it was."""
    if length <= MAX_TOLD:
        try:
            return json.loads(body or b"null")
        except (ValueError, RecursionError):
            pass
    return f"{length} bytes"

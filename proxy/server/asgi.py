"""ASGI, as much of it as the server and its apps need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

ZERO_COPY: Final = "http.response.zerocopysend"
"""The extension and its message: `count` bytes from `offset` of `file`, not copied through Python where that can be."""

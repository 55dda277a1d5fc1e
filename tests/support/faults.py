"""What a scripted upstream answers, as values, and the ways in which it can be wrong."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

BEFORE_HEADERS: Final = -1  # the key of a gate that holds back the status line


class Gate:
    """A place where an answer waits until the test opens it. `reached` tells that an answer has come this far."""

    def __init__(self) -> None:
        self._opened: Future[None] = Future()
        self.reached = threading.Event()

    def open(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    async def wait(self) -> None:
        self.reached.set()
        # Shielded, because cancelling a connection must not cancel the gate for the others.
        await asyncio.shield(asyncio.wrap_future(self._opened))


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. Header names are in lower case; several lines of one name are joined by a comma."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out. `body` is the whole content: the request's Range is applied to it when `ranged`.

    `declared` lies about the length. `cut_at` is how many bytes of this answer's body are sent before `ending`;
    the positions of `gates` count the same bytes.
    """

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    ranged: bool = True
    framing: Literal["length", "chunked", "close"] = "length"
    declared: int | None = None
    cut_at: int | None = None
    gates: Mapping[int, Gate] = field(default_factory=dict)
    ending: Literal["keep", "close", "reset"] = "keep"


Fault = Callable[[Request, Answer], Answer]


def change(**fields: Any) -> Fault:
    """The usual answer with these fields of `Answer` changed; `headers` are added to the usual ones."""

    def fault(_: Request, answer: Answer) -> Answer:
        headers = {**answer.headers, **fields.get("headers", {})}
        return replace(answer, **{**fields, "headers": headers})

    return fault


def cut(at: int, ending: Literal["close", "reset"] = "reset") -> Fault:
    """Send `at` bytes of the body, then break the connection, or end it as if all was well."""
    return change(cut_at=at, ending=ending)


def stall(at: int) -> Fault:
    """Send `at` bytes of the body, then nothing for ever."""
    return change(gates={at: Gate()})


def corrupt(at: int) -> Fault:
    """The right length, with one bit of byte `at` flipped."""

    def fault(_: Request, answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[at] ^= 1
        return replace(answer, body=bytes(body))

    return fault


def refuse(status: int, text: str = "", **headers: str) -> Fault:
    """Another status, with an error in OCI's form; `retry_after="3"` becomes Retry-After."""
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": text or f"scripted {status}"}]}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _, __: Answer(status, body, {"Content-Type": "application/json", **named}, ranged=False)


def redirect(location: str, status: int = 307) -> Fault:
    return lambda _, __: Answer(status, b"", {"Location": location}, ranged=False)


def html(text: str = "<html>captive portal</html>") -> Fault:
    """A page of somebody's gateway, with status 200."""
    return lambda _, __: Answer(200, text.encode(), {"Content-Type": "text/html"}, ranged=False)

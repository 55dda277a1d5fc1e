"""What the server says itself, in the form of the distribution spec: an app's failure, or a request that none sees."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

RETRY_AFTER: Final = 5
"""Seconds after which a client that was one too many may come again: most pulls of a storm take about as long."""


def problem(code: str, message: str) -> bytes:
    """The body of an error."""
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets no further than the connection."""

    status: int
    code: str
    message: str

    def response(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """A whole HTTP/1.1 response, the last of its connection."""
        body = problem(self.code, self.message)
        head = [STATUS_LINE[self.status]]
        for name, value in default_headers:
            head += [name, b": ", value, b"\r\n"]
        if self.status == 503:
            head.append(b"retry-after: %d\r\n" % RETRY_AFTER)
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        return b"".join(head) + body

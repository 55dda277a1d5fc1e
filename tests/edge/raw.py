"""Requests byte for byte, for what no client library would send."""

from __future__ import annotations

import hashlib
import http.client
import socket
from typing import Final

from tests.support.millpond import Millpond
from tests.support.pulls import Reply

_DEADLINE: Final = 10.0


def exchange(millpond: Millpond, request: bytes, method: str = "GET") -> Reply:
    """Send exactly these bytes, and read one response."""
    with socket.create_connection(("127.0.0.1", millpond.port), timeout=_DEADLINE) as sock:
        sock.sendall(request)
        with http.client.HTTPResponse(sock, method=method) as response:
            response.begin()
            body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, len(body), hashlib.sha256(body).hexdigest(), body)


def ask(millpond: Millpond, target: str, method: str = "GET", *lines: str) -> Reply:
    """A request for this very target, with these header lines besides Host."""
    head = [f"{method} {target} HTTP/1.1", f"Host: {millpond.host}", *lines]
    return exchange(millpond, "\r\n".join([*head, "", ""]).encode("latin-1"), method)

"""One connection to the registry port, byte for byte, and a reader of answers that forgives nothing."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# No exchange of these tests takes a second; whoever is not answered by then has been forgotten.
DEADLINE: Final = 20.0

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*\Z")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)?\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to anything but HEAD; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def talk(port: int, pieces: Sequence[bytes], answers: int = 0) -> list[Answer]:
    """Send the pieces, wait for so many answers, say that no more comes, and read what still does, to the end.

    Raises:
        AssertionError: what came back is not a sequence of HTTP responses.
        TimeoutError: nothing came back, and the connection stayed open.
    """
    got = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # whoever has heard enough may hang up
            for piece in pieces:
                sock.sendall(piece)
            while len(read(got)) < answers and (part := sock.recv(65536)):
                got += part
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                got += part
    return read(got)


def read(raw: bytes | bytearray) -> list[Answer]:
    """The answers in `raw`; one at its end that is not complete is left out."""
    found, rest = [], bytes(raw)
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        if not end:
            break
        first, *lines = head.split(b"\r\n")
        status = _STATUS.match(first)
        assert status, f"not a status line: {first!r}"
        headers: dict[str, str] = {}
        for line in lines:
            field = _FIELD.match(line)
            assert field, f"not a header: {line!r}"
            name = field[1].decode().lower()
            assert name not in headers, f"{name} is there twice"
            headers[name] = (field[2] or b"").decode()
        assert "transfer-encoding" not in headers, "every answer of this program has its length"
        assert int(status[1]) in (204, 304) or "content-length" in headers, head
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            break
        found.append(Answer(int(status[1]), headers, rest[:length]))
        rest = rest[length:]
    return found

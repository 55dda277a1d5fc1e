"""HTTP/1.1 and sockets as bytes, for the upstream that must be able to do everything wrong on purpose."""

from __future__ import annotations

import asyncio
import fcntl
import http
import re
import socket
import struct
import termios
from collections.abc import Iterator, Mapping
from typing import Final

_REQUEST_LINE: Final = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.1")
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]*)")
_STEP: Final = 256 * 1024  # bytes a write
_FLUSH_DEADLINE: Final = 5.0  # seconds to let the peer take what was sent before a reset


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """(method, target, headers) of a request without a body, up to its empty line.

    Raises:
        ValueError: it is not what RFC 9112 has, or it announces a body.
    """
    first, *lines = head.decode("ascii", "backslashreplace").removesuffix("\r\n\r\n").split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if not request:
        raise ValueError(f"not a request line: {first!r}")
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if not found:
            raise ValueError(f"not a header line: {line!r}")
        name, value = found[1].lower(), found[2].rstrip()
        if name == "host" and name in headers:
            raise ValueError(f"two Host lines in {first!r}")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "host" not in headers:
        raise ValueError(f"no Host in {first!r}")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise ValueError(f"a body in {first!r}")
    return request[1], request[2], headers


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers, exactly as given."""
    try:
        reason = http.HTTPStatus(status).phrase
    except ValueError:
        reason = "Scripted"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def slices(body: memoryview, start: int, stop: int) -> Iterator[memoryview]:
    """Bytes `start` up to and not including `stop`, in steps."""
    for position in range(start, stop, _STEP):
        yield body[position : min(position + _STEP, stop)]


def range_of(header: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of the one range that `header` asks for of `size` bytes; start >= stop when there is no such byte.

    None where the header is ignored: malformed, several ranges, or empty content.
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if not found or not size or found[1] == found[2] == "":
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size


async def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection with a reset, after the peer has what was sent: a reset drops what has not left yet."""
    sock = writer.get_extra_info("socket")
    loop = asyncio.get_running_loop()
    end = loop.time() + _FLUSH_DEADLINE
    # The kernel does not call back when a peer has acknowledged everything.
    while (writer.transport.get_write_buffer_size() or _unsent(sock)) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _unsent(sock: socket.socket) -> int:
    """Bytes that the peer has not acknowledged."""
    if sock.fileno() < 0:
        return 0
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])

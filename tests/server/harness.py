"""Small apps, a server that runs while a test looks at it, and a client that reads HTTP by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from proxy.server import Limits, Listener, Server
from proxy.server.asgi import App, Receive, Send

DEADLINE = 60.0  # seconds; no wait of a test is longer
ZERO_COPY = "http.response.zerocopysend"


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """One connection. With `receive_buffer` the kernel takes about that much for a client that does not read."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> None:
        self._port, self._tls, self._receive_buffer = port, tls, receive_buffer

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", self._port)), DEADLINE)
        except OSError:
            sock.close()
            raise
        name = "127.0.0.1" if self._tls else None
        limit = 4096 if self._receive_buffer is not None else 1 << 20
        self.reader, self.writer = await asyncio.open_connection(
            sock=sock, ssl=self._tls, server_hostname=name, limit=limit
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Close without a word; what has not been read makes it a reset."""
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, path: str = "/", method: str = "GET", headers: str = "") -> None:
        self.write(f"{method} {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode())

    async def head(self) -> Response:
        """Status and headers; the body is left to read."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE)
        first, *lines = raw.decode("latin-1").strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Response(int(first.split()[1]), headers, b"")

    async def response(self, method: str = "GET") -> Response:
        head = await self.head()
        size = 0 if method == "HEAD" else int(head.headers["content-length"])
        body = await asyncio.wait_for(self.reader.readexactly(size), DEADLINE)
        return Response(head.status, head.headers, body)

    async def get(self, path: str = "/", method: str = "GET") -> Response:
        self.ask(path, method)
        return await self.response(method)

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection, in whichever way."""
        got = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(self.reader.read(1 << 20), DEADLINE):
                got += piece
        return bytes(got)


@contextlib.asynccontextmanager
async def serving(app: App, limits: Limits | None = None, **listener: Any) -> AsyncIterator[Server]:
    """A server on a port of its own; drained when the block ends."""
    server = Server(app, Listener("127.0.0.1", 0, **listener), limits or Limits(grace=1))
    server.bind()
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        server.stop()
        await asyncio.wait_for(task, DEADLINE)


@dataclass
class FileApp:
    """Answers with ranges of one file, zero-copy. The path says which: `/`, or `/<offset>-<count>,<offset>-<count>`."""

    path: Path
    declared: int | None = None
    """Bytes to promise and to send, when not those of the range."""
    failures: list[BaseException] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        with self.path.open("rb") as file:
            try:
                await self._answer(scope["path"], file, send)
            except BaseException as error:
                self.failures.append(error)
                raise

    async def _answer(self, path: str, file: BinaryIO, send: Send) -> None:
        size = self.declared or os.fstat(file.fileno()).st_size
        ranges = [(0, size)]
        if path != "/":
            ranges = [(int(start), int(count)) for start, count in (pair.split("-") for pair in path[1:].split(","))]
        await send(start(sum(count for _, count in ranges)))
        for index, (offset, count) in enumerate(ranges):
            more = index < len(ranges) - 1
            await send({"type": ZERO_COPY, "file": file, "offset": offset, "count": count, "more_body": more})


def start(size: int, status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % size)]}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def hello(scope: Any, receive: Receive, send: Send) -> None:
    await send(start(5))
    await send(body(b"hello"))

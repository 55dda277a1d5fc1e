"""Connections that cost next to nothing: they discard in the kernel (MSG_TRUNC), so that the server is measured."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, replace
from typing import Final

from tests.support.pulls import ACCEPT

READ: Final = 4 * 1024 * 1024
"""Bytes that one recv may discard."""
TIMEOUT: Final = 120.0
"""Seconds without a byte: nginx's followers of a locked fill wait longest, for all of it."""
PIPELINED: Final = 8
"""Requests that a TLS connection sends ahead; it cannot see where an answer ends."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to GET: `http://host:port` + path; https with a context."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None = None

    def request(self, method: str = "GET") -> bytes:
        return f"{method} {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAccept: {ACCEPT}\r\n\r\n".encode()

    def at(self, path: str) -> Target:
        """Another path of the same server."""
        return replace(self, path=path)


class Client:
    """One keep-alive connection. `left` is what is missing of the answer's body."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.sock = socket.create_connection((target.host, target.port), TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = 0
        self._method = "GET"
        self._scratch = bytearray(READ)

    def ask(self, path: str = "", method: str = "GET") -> None:
        """Send a request for `path`, else for the target's."""
        self._method = method
        self.sock.sendall((self.target.at(path) if path else self.target).request(method))

    def head(self) -> None:
        """Read the answer's head (its body's first bytes stay in the kernel) and note the length."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen = self.sock.recv(16384, socket.MSG_PEEK)
            if not seen:
                raise ConnectionError("the server closed the connection before its answer")
        head = seen[: seen.index(b"\r\n\r\n") + 4]
        self.sock.recv(len(head))
        length = body_length(head)
        self.left = 0 if self._method == "HEAD" else length

    def discard(self) -> int:
        """Wait for bytes of the body and drop them; how many there were."""
        got = self.sock.recv_into(self._scratch, min(READ, self.left), socket.MSG_TRUNC)
        if not got:
            raise ConnectionError(f"the body ended {self.left} bytes too soon")
        self.left -= got
        return got


class TlsClient(Client):
    """Decrypts no more than the first answer's head: what follows is counted and dropped as it came off the wire.

    A client that decrypted would take the processor that the server needs. Records add less than 0.2 %.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        assert target.tls
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = target.tls.wrap_bio(self._received, self._to_send, server_hostname=target.host)
        self._asked = False
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        self.sock.sendall(self._to_send.read())

    def ask(self, path: str = "", method: str = "GET") -> None:
        if self._asked:
            raise ValueError(f"{PIPELINED} blobs were too few for this time: take a larger one")
        self._asked = True
        self._tls.write(self.target.request() * PIPELINED)
        self.sock.sendall(self._to_send.read())

    def head(self) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            try:
                seen += self._tls.read(16384)
            except ssl.SSLWantReadError:
                self._exchange()
        self.left = body_length(seen[: seen.index(b"\r\n\r\n") + 4]) * PIPELINED

    def _exchange(self) -> None:
        if waiting := self._to_send.read():
            self.sock.sendall(waiting)
        got = self.sock.recv(16384)
        if not got:
            raise ConnectionError("the server closed the connection before its answer")
        self._received.write(got)


def connect(target: Target) -> Client:
    return TlsClient(target) if target.tls else Client(target)


def body_length(head: bytes) -> int:
    """Content-Length of an answer; ConnectionError unless it is a 200 that has one."""
    lines = head.decode("latin-1").split("\r\n")
    if lines[0].split()[1] != "200":
        raise ConnectionError(f"the server answered {lines[0]}")
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            return int(value)
    raise ConnectionError("an answer without Content-Length")

"""The door of a server: accepts connections, and counts each from its first moment.

asyncio's own server tells nobody of a connection before its TLS handshake is done, so that any number of them could be
held open by handshakes that never end.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final

import structlog

from proxy.server.census import Census
from proxy.server.protocol import Connection

AT_ONCE: Final = 64
"""Connections accepted before others have their turn: some milliseconds of the event loop."""
PAUSE: Final = 1.0
"""Seconds without accepting when the system refuses (no descriptors, no memory): until some have closed."""
FILES_EACH: Final = 4
"""Descriptors of a connection that is being served: its socket and its file, and the pump's duplicates of both."""
FILES_ASIDE: Final = 512
"""Descriptors for everything else: connections to upstreams, what is arriving, the ledger, the admin port."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def room_for_connections() -> int:
    """How many connections this process has descriptors for; raises its own limit as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS has a ceiling below its own hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    unlimited = soft == resource.RLIM_INFINITY
    return 2**31 if unlimited else max((soft - FILES_ASIDE) // FILES_EACH, soft // 16, 1)


class Door:
    """Makes a connection of each client that `census` has room for. Open from its making until `close`."""

    def __init__(
        self,
        sock: socket.socket,
        connection: Callable[[], Connection],
        census: Census,
        *,
        tls: Callable[[], ssl.SSLContext | None],
        handshake_timeout: float | None,
    ) -> None:
        """`tls` is asked for each connection; `handshake_timeout` in seconds, where there is TLS."""
        self._sock = sock
        self._connection = connection
        self._census = census
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._loop = asyncio.get_running_loop()
        self._entering: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Accept nobody any more, and drop those whose handshake goes on."""
        self._loop.remove_reader(self._sock)
        if self._again is not None:
            self._again.cancel()
        self._sock.close()
        for task in self._entering:
            task.cancel()

    def _open(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                structlog.get_logger().error(
                    "no connection can be accepted; raise the limit of open files if this comes again",
                    why=error.strerror,
                    connections=self._census.connections,
                    again_in_seconds=PAUSE,
                )
                self._loop.remove_reader(self._sock)
                self._again = self._loop.call_later(PAUSE, self._open)
                return
            if self._census.has_no_room:
                self._census.refuse(peer[0])
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                sock.close()
                continue
            sock.setblocking(False)
            self._let_in(sock, peer[0])

    def _let_in(self, sock: socket.socket, address: str) -> None:
        connection = self._connection()
        connection.counted_as = address
        connection.surplus = self._census.arrived(address)

        def entered(task: asyncio.Task[None]) -> None:
            self._entering.discard(task)
            if connection.transport is None:  # one that was made says itself when it has closed
                self._census.left(address)
                sock.close()

        task = self._loop.create_task(self._handshake(sock, connection))
        self._entering.add(task)
        task.add_done_callback(entered)

    async def _handshake(self, sock: socket.socket, connection: Connection) -> None:
        # No TLS, another version, no certificate where one is asked for, or gone. ssl.SSLError is an OSError.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self._tls(), ssl_handshake_timeout=self._handshake_timeout
            )

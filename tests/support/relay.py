"""A TCP relay in front of an upstream: counts what passes, and can hold it to a rate or break it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

_PIPE: Final = 1 << 20  # bytes; the most that an unprivileged process may ask of a pipe
_STEP: Final = 1 << 18  # bytes between two looks at the rate: 2.6 ms at 100 MB/s
_BURST: Final = 0.01  # seconds of rate that an idle link may save up


class Rate:
    """Bytes a second that all connections share, as a link's capacity."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def spend(self, count: int) -> None:
        """Return when `count` more bytes may have passed."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - _BURST) + count * self._seconds_per_byte
            pause = self._free_at - time.monotonic()
        if pause > 0:
            time.sleep(pause)


@dataclass
class Connection:
    """Bytes that one client of the relay has sent and received so far."""

    client: socket.socket
    server: socket.socket
    up: int = 0
    down: int = 0
    closed: bool = False

    def reset(self) -> None:
        """Break both sides: the peers see a reset, not an end."""
        for side in (self.client, self.server):
            try:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class CountingRelay:
    """Listens on 127.0.0.1 and passes everything to `target_port`; bytes are moved inside the kernel."""

    def __init__(self, target_port: int, rate: Rate | None = None) -> None:
        self.target_port = target_port
        self.rate = rate
        self.connections: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    @property
    def down(self) -> int:
        """Bytes that the upstream has sent, with headers and, over TLS, its records."""
        return sum(connection.down for connection in self.connections)

    def has_sent(self, count: int) -> bool:
        """Whether the upstream has sent `count` bytes."""
        return self.down >= count

    def start(self) -> CountingRelay:
        self._acceptor.start()
        return self

    def break_connections(self) -> int:
        """Reset what is open, as a crashed load balancer does; returns how many there were."""
        broken = [connection for connection in self.connections if not connection.closed]
        for connection in broken:
            connection.reset()
        return len(broken)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(10)
        self.break_connections()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # stopped
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), timeout=10)
            except OSError:
                client.close()  # nobody listens behind: to the client this is an upstream that hangs up
                continue
            connection = Connection(client, server)
            for side in (client, server):
                side.settimeout(None)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        upward = threading.Thread(target=self._pass, args=(connection, True), daemon=True)
        upward.start()
        self._pass(connection, False)
        upward.join()
        connection.closed = True
        connection.client.close()
        connection.server.close()

    def _pass(self, connection: Connection, upward: bool) -> None:
        source, sink = connection.client, connection.server
        if not upward:
            source, sink = sink, source
        reading, writing = os.pipe()
        try:
            _widen(writing)
            while count := os.splice(source.fileno(), writing, _STEP):
                if self.rate and not upward:
                    self.rate.spend(count)
                left = count
                while left:
                    left -= os.splice(reading, sink.fileno(), left)
                if upward:
                    connection.up += count
                else:
                    connection.down += count
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            connection.reset()  # one side broke: the other one hears of it
        finally:
            os.close(reading)
            os.close(writing)


def _widen(pipe: int) -> None:
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)

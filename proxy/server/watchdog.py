"""The write deadline: a client that takes nothing for too long is let go, at no cost to those that do.

Nothing is counted while bytes flow. A few times per deadline every connection is asked how much the client has
acknowledged; a slow client has moved, one with nothing to take (its app waits for data) is in order, the rest stall.
A receiver opens its window in steps of a segment: at 1 KB/s over loopback (64 KiB segments) that is once a minute.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterable
from typing import Protocol

LOOKS = 4
"""Looks within one deadline: a stalled client goes after at most 1 + 1/LOOKS of it."""
# struct tcp_info (linux/tcp.h): 8 bytes of flags, 24 words, two pacing rates of 8 bytes, then tcpi_bytes_acked.
_BYTES_ACKED = 8 + 24 * 4 + 2 * 8
_TCP_INFO_SIZE = _BYTES_ACKED + 8
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(Protocol):
    """What the watchdog looks at."""

    transport: asyncio.Transport
    sock: socket.socket
    client: tuple[str, int] | None
    last_progress: tuple[float, int]
    """When the client last moved (loop time), and how far it was."""
    stalled: bool
    """Whether it is let go for that."""


async def watch(
    connections: Callable[[], Iterable[Connection]], timeout: float, on_stall: Callable[[Connection], None]
) -> None:
    """Runs until cancelled; resets each connection on which nothing moved for `timeout` seconds."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(timeout / LOOKS)
        now = loop.time()
        for connection in list(connections()):
            if _stalled(connection, now, timeout):
                connection.stalled = True
                on_stall(connection)
                # With RST: a stalled client would else hold what is queued in the kernel for many minutes.
                with contextlib.suppress(OSError):
                    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                connection.transport.abort()


def _stalled(connection: Connection, now: float, timeout: float) -> bool:
    try:
        # The transport's own buffer need not be asked: it fills only behind a full kernel.
        waiting = _unsent(connection.sock)
        position = _acknowledged(connection.sock)
    except (OSError, ValueError):
        return False  # closed; the transport will say so
    if position is None:
        position = waiting
    since, last = connection.last_progress
    if not waiting or position != last:
        connection.last_progress = (now, position)
        return False
    return now - since >= timeout


def _unsent(sock: socket.socket) -> int:
    """Bytes in the kernel that the client has not acknowledged (SIOCOUTQ)."""
    answer = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, answer)
    return answer[0]


def _acknowledged(sock: socket.socket) -> int | None:
    if sys.platform != "linux":
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    return None if len(info) < _TCP_INFO_SIZE else int.from_bytes(info[_BYTES_ACKED:], sys.byteorder)

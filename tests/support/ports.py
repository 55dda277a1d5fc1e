"""Ports for programs that want a number: no connection is ever given one of them, and no test elsewhere.

A port that the kernel chose for a moment may go to any outgoing connection, or to another test, before the program
listens on it, and again while the program is started anew. So these lie outside the range that the kernel chooses
from, and a process takes them in blocks that it locks against every other one on this machine.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FIRST: Final = 20_000  # below are the ports that services are known by
_LAST: Final = 65_535
_SIZE: Final = 100  # ports of a block
_KEPT: Final = 10  # blocks of a process; its oldest goes back for another, long after a test has had its ports

_CHOSEN_BY_THE_KERNEL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """Numbers that nobody else on this machine gets until `close`, or the end of this process."""

    def __init__(self) -> None:
        self._locks: deque[socket.socket] = deque()
        self._left: Iterator[int] = iter(())
        self._mutex = threading.Lock()

    def free(self) -> int:
        """A port that nobody listens on; the same one again only after `_SIZE * (_KEPT - 1)` others."""
        with self._mutex:
            while True:
                for port in self._left:
                    if _is_free(port):
                        return port
                self._left = iter(self._take())

    def close(self) -> None:
        while self._locks:
            self._locks.popleft().close()

    def _take(self) -> range:
        """The first block that nobody holds, held from now on."""
        if len(self._locks) == _KEPT:
            self._locks.popleft().close()
        for block in _blocks():
            # A name of the kernel's: it is as unique as the ports are, leaves no file, and ends with its process.
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0millpond-tests-port-{block.start}")
            except OSError:
                lock.close()
                continue
            self._locks.append(lock)
            return block
        raise RuntimeError("tests that run on this machine hold all ports; run fewer at once")


free_port: Final = Ports().free


def chosen_by_the_kernel() -> range:
    """The ports of which outgoing connections, and programs that ask for port 0, get one."""
    low, high = map(int, _CHOSEN_BY_THE_KERNEL.read_text().split())
    return range(low, high + 1)


def _blocks() -> list[range]:
    every = [range(first, first + _SIZE) for first in range(_FIRST, _LAST - _SIZE + 2, _SIZE)]
    kernel = chosen_by_the_kernel()
    apart = [block for block in every if block[-1] < kernel.start or block.start >= kernel.stop]
    return apart or every  # a kernel that chooses from all of them leaves no better ones


def _is_free(port: int) -> bool:
    """Whether a server could have this port on every address, as servers ask: past connections do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # what listens on one address only is in the way as well
        except OSError:
            return False
    return True

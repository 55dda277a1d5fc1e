"""Where log lines leave: a thread writes them in batches, so that whoever logs never waits for whoever reads."""

from __future__ import annotations

import atexit
import os
import select
import threading
from typing import Final

import structlog

# Lines are gathered for so long, unless one is urgent: one system call, and one switch of threads, for many.
_GATHER_SECONDS: Final = 0.05
# Characters that may wait for a reader that is stuck: some ten thousand lines; what comes after is counted, not kept.
_MAX_WAITING: Final = 8 << 20
# A process that ends gives a reader that is stuck so long to go on.
_LAST_WORDS_SECONDS: Final = 5.0


class Outlet:
    """A structlog logger that writes whole lines to a file descriptor, in order; at the latest when the process ends.

    Lines are dropped only when the descriptor refuses them or blocks for too long, and then it is said how many.
    """

    def __init__(self, fd: int, *, gather: float = _GATHER_SECONDS, max_waiting: int = _MAX_WAITING) -> None:
        self._fd = fd
        self._gather = gather
        self._max_waiting = max_waiting
        self._lines: list[str] = []
        self._size = 0  # of the lines, in characters
        self._dropped = 0
        self._lock = threading.Lock()  # for the three above
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def info(self, line: str) -> None:
        with self._lock:
            if self._size + len(line) > self._max_waiting:
                self._dropped += 1
            else:
                self._lines.append(line)
                self._size += len(line)
        if not self._some.is_set():
            self._some.set()

    debug = info

    def warning(self, line: str) -> None:
        self.info(line)
        self._hurry.set()

    error = critical = warning

    def close(self) -> None:
        """Write what still waits. What is logged from now on is lost."""
        self._closed = True
        self._some.set()
        self._hurry.set()
        self._thread.join(_LAST_WORDS_SECONDS)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while not self._closed:
            self._some.wait()
            self._hurry.wait(self._gather)
            self._some.clear()
            self._hurry.clear()
            self._write()
        while self._lines:
            self._write()

    def _write(self) -> None:
        with self._lock:
            lines, self._lines, self._size = self._lines, [], 0
        try:
            _write_all(self._fd, "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
        except OSError:
            with self._lock:
                self._dropped += len(lines)
            return
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            structlog.get_logger().warning("log lines were dropped", lines=dropped)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # someone who shares the terminal or pipe has made it so
            select.select((), (fd,), ())

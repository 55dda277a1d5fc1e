"""A few threads that push file ranges into sockets, with one epoll between them.

Each event is for one thread (EPOLLONESHOT): it sends what the socket takes, and arms the socket again. So a connection
is never in two threads, ready ones take turns, and a busy thread delays nobody while another is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from proxy.server.sendfile import File, ReadAhead, resident, send_piece

THREADS = min(4, os.cpu_count() or 1)
"""One moves about 4 GB/s, so four fill 100 Gbit/s; more would only fight over the interpreter lock."""
WINDOW = 4 * 1024 * 1024
"""Bytes checked, read ahead and sent at a time: about a millisecond of a thread, and large reads for the disk."""
AT_ONCE = 256 * 1024
"""Up to this size a range is tried on the event loop (some 50 µs): configurations and small layers need no thread."""

AVAILABLE = hasattr(os, "sendfile") and hasattr(select, "epoll")


@dataclass(slots=True, eq=False)
class _Job:
    """A range on its way. It owns duplicates of both descriptors, so that nobody can close them under a thread."""

    sock: socket.socket
    file_fd: int
    offset: int
    end: int
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    began_at: int = field(init=False)
    window_end: int = field(init=False)
    pages: Future[None] | None = None
    """The read-ahead of the next window; None when its pages are there."""

    def __post_init__(self) -> None:
        self.began_at = self.window_end = self.offset


class Pump:
    """Sends ranges of files; its threads start with the first range that needs them."""

    def __init__(self, disk: ReadAhead) -> None:
        self._disk = disk
        self._epoll = select.epoll()
        self._jobs: dict[int, _Job] = {}
        self._awaited: set[_Job] = set()
        self._sent = 0  # of ranges that are no longer awaited
        self._threads: list[threading.Thread] = []
        self._closing, self._bell = socket.socketpair()
        self._epoll.register(self._closing, select.EPOLLIN)

    @property
    def sent(self) -> int:
        """Bytes that sockets have taken so far, of ranges on their way too."""
        return self._sent + sum(job.offset - job.began_at for job in self._awaited)

    async def send(self, sock: socket.socket, file: File, offset: int, count: int) -> None:
        """Send `count` bytes (at least one) from `offset` of the file; nothing else may write to the socket meanwhile.

        Raises what `send_piece` does, SendfileUnsupported only while nothing has been sent. A cancelled send breaks
        the connection, for nobody could say how far it came.
        """
        fd, end = file.fileno(), offset + count
        if count <= AT_ONCE and resident(fd, offset, count):
            with contextlib.suppress(BlockingIOError):
                while offset < end:
                    taken = send_piece(sock.fileno(), fd, offset, end - offset)
                    offset += taken
                    self._sent += taken
                return
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:  # descriptors may run out at each step
            file_fd = os.dup(fd)
            undo.callback(os.close, file_fd)
            job = _Job(undo.enter_context(sock.dup()), file_fd, offset, end, loop, loop.create_future())
            job.pages = self._fetch(job)
            self._start_threads()
            self._jobs[job.sock.fileno()] = job
            self._epoll.register(job.sock, select.EPOLLOUT | select.EPOLLONESHOT)
            undo.pop_all()
        self._awaited.add(job)
        try:
            await job.done
        except asyncio.CancelledError:
            hang_up(sock)
            raise
        finally:
            self._awaited.remove(job)
            self._sent += job.offset - job.began_at

    def close(self) -> None:
        """Ends the threads. Call it when every connection has closed."""
        self._bell.close()
        for thread in self._threads:
            thread.join()
        for job in list(self._jobs.values()):
            self._finish(job, ConnectionResetError("the server has stopped"))
        self._closing.close()
        self._epoll.close()

    def _start_threads(self) -> None:
        if not self._threads:
            self._threads = [threading.Thread(target=self._run, name=f"pump-{n}", daemon=True) for n in range(THREADS)]
            for thread in self._threads:
                thread.start()

    def _run(self) -> None:
        bell = self._closing.fileno()
        while True:
            for fd, _ in self._epoll.poll(maxevents=1):
                if fd == bell:
                    return
                self._step(self._jobs[fd])

    def _step(self, job: _Job) -> None:
        try:
            if job.offset == job.window_end and not self._open_window(job):
                return
            job.offset += send_piece(job.sock.fileno(), job.file_fd, job.offset, job.window_end - job.offset)
        except BlockingIOError:
            self._arm(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting response must hear of it
            self._finish(job, error)
        else:
            if job.offset == job.end:
                self._finish(job, None)
            else:
                self._arm(job)

    def _open_window(self, job: _Job) -> bool:
        """Go on to the next window if its pages are here, else when they are; begins to read the one after."""
        if job.pages is not None and not job.pages.done():
            job.pages.add_done_callback(lambda _: self._arm(job))
            return False
        job.window_end = min(job.offset + WINDOW, job.end)
        job.pages = self._fetch(job)
        return True

    def _fetch(self, job: _Job) -> Future[None] | None:
        count = min(WINDOW, job.end - job.window_end)
        if count <= 0 or resident(job.file_fd, job.window_end, count):
            return None
        return self._disk.start(job.file_fd, job.window_end, count)

    def _arm(self, job: _Job) -> None:
        self._epoll.modify(job.sock, select.EPOLLOUT | select.EPOLLONESHOT)

    def _finish(self, job: _Job, error: Exception | None) -> None:
        self._epoll.unregister(job.sock)
        del self._jobs[job.sock.fileno()]
        job.sock.close()
        os.close(job.file_fd)
        with contextlib.suppress(RuntimeError):  # the loop has closed, so nobody waits
            job.loop.call_soon_threadsafe(_settle, job.done, error)


def hang_up(sock: socket.socket) -> None:
    """End the connection now, whoever else holds a duplicate of its socket."""
    with contextlib.suppress(OSError):  # it may have ended already
        sock.shutdown(socket.SHUT_RDWR)


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)

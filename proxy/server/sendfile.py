"""File ranges to a socket: by the kernel where it can, and never waiting for the disk or the client on the event loop.

    send_range ── small, in the page cache, and the socket has room: sendfile(2) at once
        ├──────── else Pump: sendfile(2) in a few threads that share one epoll
        └──────── TLS, or no sendfile: copy, through Python's hands
    ReadAhead: what is not in the page cache is read by other threads first

`loop.sendfile` is not used. All time goes into the system call (98 % of a core at 4 GB/s), so one loop is one core, and
with 64 clients it would be away from everything else for 60 ms a turn. It also stops reading, so that a client that
leaves goes unnoticed; and an abort in the middle leaves its descriptor in the selector, for a later connection to find.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

STRIDE = 512 * 1024
"""Between two looks at the page cache, about a microsecond each; the kernel reads and drops pages in such runs."""
READ_SIZE = 1024 * 1024
"""One read from the disk in a thread."""
COPY_SIZE = 256 * 1024
"""One write of a send that must copy: with 1 MiB, TLS is half as fast, for asyncio moves what the socket leaves."""
READ_AHEAD_THREADS = 8
"""Reads in flight on one disk: enough to keep it busy, few enough to bound the memory (READ_SIZE each)."""

_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)
_NO_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_DISK = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EBADMSG}


class File(Protocol):
    def fileno(self) -> int: ...


class Drain(Protocol):
    async def __call__(self) -> None:
        """Wait until the connection takes more; raise ConnectionResetError when the client has gone."""


class Truncated(OSError):
    """The file ends before the range does."""


class SendfileUnsupported(OSError):
    """This file system does not do sendfile(2)."""


def resident(fd: int, offset: int, count: int) -> bool:
    """Whether the range looks to be in the page cache, by samples. True where the system cannot tell (tmpfs)."""
    if _NOWAIT is None:
        return True
    probe = (bytearray(1),)
    try:
        for position in range(offset, offset + count, STRIDE):
            os.preadv(fd, probe, position, _NOWAIT)
        os.preadv(fd, probe, offset + count - 1, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # whatever is wrong with the file, the read itself will say
    return True


def send_piece(socket_fd: int, file_fd: int, offset: int, count: int) -> int:
    """Bytes that the socket took now, at least one.

    Raises BlockingIOError (no room), ConnectionResetError (the client has gone), Truncated, SendfileUnsupported, or
    the disk's OSError.
    """
    try:
        sent = os.sendfile(socket_fd, file_fd, offset, count)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _DISK:
            raise
        if error.errno in _NO_SENDFILE:
            raise SendfileUnsupported(error.errno, error.strerror) from error
        raise ConnectionResetError(error.errno, f"the client has gone: {error.strerror}") from error
    if sent == 0:
        raise Truncated(f"the file ends at byte {offset}, at least {count} bytes too soon")
    return sent


async def copy(
    file: File, offset: int, count: int, *, write: Callable[[memoryview], None], drain: Drain, disk: ReadAhead
) -> None:
    """A range through Python's hands. Memory: COPY_SIZE a client, beside the transport's buffer."""
    end = offset + count
    while offset < end:
        await drain()
        size = min(COPY_SIZE, end - offset)
        fd = file.fileno()
        if not resident(fd, offset, size):
            await asyncio.wrap_future(disk.start(fd, offset, min(READ_SIZE, end - offset)))
        data = os.pread(fd, size, offset)
        if not data:
            raise Truncated(f"the file ends at byte {offset}, {end - offset} bytes too soon")
        write(memoryview(data))  # asyncio slices what is left after each TLS record: a view is not copied
        offset += len(data)
    await drain()


class ReadAhead:
    """Brings file ranges into the page cache in threads of its own, so that whoever sends them finds them there."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READ_AHEAD_THREADS, thread_name_prefix="read-ahead")
        self._scratch = threading.local()

    def start(self, fd: int, offset: int, count: int) -> Future[None]:
        """Done when the range has been read. Never fails: the send meets the same error where it can be told."""
        # A descriptor of its own: the caller's may be closed, and its number given away, before the read begins.
        own = os.dup(fd)
        reading = self._threads.submit(self._warm, own, offset, count)
        reading.add_done_callback(lambda _: os.close(own))
        return reading

    def close(self) -> None:
        """Waits for the few reads that have begun; the others are dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _warm(self, fd: int, offset: int, count: int) -> None:
        buffer: bytearray | None = getattr(self._scratch, "buffer", None)
        if buffer is None:
            buffer = self._scratch.buffer = bytearray(READ_SIZE)
        with contextlib.suppress(OSError), memoryview(buffer) as view:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)
            while count > 0 and (got := os.preadv(fd, (view[: min(count, READ_SIZE)],), offset)):
                offset += got
                count -= got

"""What a service manager is told: that the program serves, and that it is about to end (sd_notify's protocol)."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def notify(state: str) -> None:
    """Send it to the socket that NOTIFY_SOCKET names; without that, nobody has asked.

    A manager that cannot be told is no reason not to serve: it finds out by its own time-out.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name of Linux's own, in no file system
        address = f"\0{address[1:]}"
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
    ):
        sender.sendto(state.encode(), address)

"""A response's head and the first of its body as one write."""

from __future__ import annotations

import asyncio


class JoinedWrites:
    """The transport as uvicorn's response cycle sees it; between `hold` and `release` what is written waits.

    Of what a manifest costs, sending is the most: one packet and one system call are half of two. ASGI asks for it,
    too: nothing is sent before there is a body.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None
        self.is_closing = transport.is_closing

    def hold(self) -> None:
        self._held = []

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(b"".join(held))

    def close(self) -> None:
        self.release()
        self._transport.close()

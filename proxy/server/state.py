"""What the connections of one server share."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.server import ServerState

from proxy.server.census import Census
from proxy.server.listener import Limits
from proxy.server.protocol import Connection
from proxy.server.pump import AVAILABLE, Pump
from proxy.server.sendfile import ReadAhead


class State(ServerState):
    def __init__(self, limits: Limits, census: Census) -> None:
        super().__init__()
        self.limits = limits
        self.census = census
        self.read_ahead = ReadAhead()
        self.copied = 0
        """Bytes of bodies that went through Python's hands."""
        self.pump = Pump(self.read_ahead) if AVAILABLE else None
        self.empty = asyncio.Event()
        """Set whenever the last connection has closed."""

    @property
    def sent(self) -> int:
        """Bytes of bodies, of responses in progress too; only ever grows."""
        return self.copied + (self.pump.sent if self.pump is not None else 0)

    def close(self) -> None:
        self.read_ahead.close()  # first: the pump's ranges wait for what it reads
        if self.pump is not None:
            self.pump.close()

    def open(self) -> list[Connection]:
        return [cast("Connection", connection) for connection in self.connections]

    def connection_lost(self, address: str) -> None:
        self.census.left(address)
        if not self.connections:
            self.empty.set()

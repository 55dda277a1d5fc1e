"""How many connections there are, and whether one more is welcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

POLITE: Final = 256
"""Connections beyond the limit that are read for as long as it takes to tell them so; any more are closed at once."""
LOG_SECONDS: Final = 60.0
"""Between two lines about refusals: a storm must not fill the log as well."""


class Census:
    """Counts from accept to close, TLS handshakes included. `refused` is called once for each that is turned away."""

    def __init__(
        self, max_connections: int, max_per_address: int | None, *, name: str, refused: Callable[[], None]
    ) -> None:
        self._most = max_connections
        self._most_of_one = max_per_address
        self._name = name
        self._refused = refused
        self._by_address: Counter[str] = Counter()
        self._since_line = 0
        self._next_line = 0.0
        self.connections = 0

    @property
    def has_no_room(self) -> bool:
        """Whether one more could not even be told why it is refused."""
        return self.connections >= self._most + POLITE

    def arrived(self, address: str) -> bool:
        """Count one; whether it is one too many."""
        self.connections += 1
        self._by_address[address] += 1
        return self.why_not(address) is not None

    def left(self, address: str) -> None:
        self.connections -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def why_not(self, address: str) -> str | None:
        """What to tell a connection of `address`, itself counted, while there are too many."""
        if self.connections > self._most:
            return f"this server has all the {self._most} connections that it takes; try again in a moment"
        if self._most_of_one is not None and self._by_address[address] > self._most_of_one:
            return f"this client has more than {self._most_of_one} connections; try again when one of them has closed"
        return None

    def refuse(self, address: str) -> None:
        """One was turned away: count it, and say so now and then."""
        self._refused()
        self._since_line += 1
        if time.monotonic() >= self._next_line:
            structlog.get_logger().warning(
                "connections are refused: there are too many",
                server=self._name,
                refused=self._since_line,
                client=address,
                max_connections=self._most,
                max_connections_per_address=self._most_of_one,
            )
            self._since_line = 0
            self._next_line = time.monotonic() + LOG_SECONDS

"""What is remembered of credentials, for a while and of so many: those that were right, and who was wrong how often."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from proxy.edge.addresses import Address

V = TypeVar("V")

REMEMBERED: Final = 4096  # of some 200 bytes each: more than a fleet has users, or an attacker has addresses
# Enough for somebody who mistypes. Then a guess every few seconds: too few a day to find more than a bad password.
BURST: Final = 10
REFILL: Final = 5.0  # seconds
_NETWORK_BITS: Final = 64  # of an IPv6 address: one customer has all the others


class Recent(Generic[V]):
    """A value a key, for `lifetime` seconds; the oldest goes when there are too many."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._values: OrderedDict[bytes, tuple[V, float]] = OrderedDict()

    def get(self, key: bytes) -> V | None:
        value, until = self._values.get(key, (None, 0.0))
        return value if time.monotonic() < until else None

    def put(self, key: bytes, value: V) -> None:
        self._values.pop(key, None)
        self._values[key] = (value, time.monotonic() + self._lifetime)
        if len(self._values) > REMEMBERED:
            self._values.popitem(last=False)


@dataclass(slots=True)
class Guesser:
    """One address. Its passwords are tried one after the other, under `lock`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wrong: float = 0.0  # wrong ones, forgotten at a rate of one in REFILL seconds
    since: float = field(default_factory=time.monotonic)

    def pause(self) -> float:
        """Seconds until it may guess again; 0 if it may now."""
        now = time.monotonic()
        self.wrong = max(0.0, self.wrong - (now - self.since) / REFILL)
        self.since = now
        return max(0.0, (self.wrong - BURST + 1) * REFILL)


class Guesses:
    """The addresses that have sent a password lately."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[Hashable, Guesser] = OrderedDict()

    def of(self, address: Address | None) -> Guesser:
        """An IPv6 address stands for its whole network, in which its owner may choose."""
        key = int(address) >> _NETWORK_BITS if address is not None and address.version == 6 else address
        guesser = self._guessers.setdefault(key, Guesser())
        self._guessers.move_to_end(key)
        if len(self._guessers) > REMEMBERED:
            self._guessers.popitem(last=False)
        return guesser

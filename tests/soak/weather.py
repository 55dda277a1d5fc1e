"""What goes wrong, and when: every fault is noted, so that an error that a client sees can be traced to one."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.support import wire
from tests.support.faults import Answer, Gate, Request, change, corrupt, cut, refuse

# The share of upstream's answers that fail in a storm: enough that some requests fail at each of their tries.
SHARE: Final = 0.25
# An upstream's breaker stays open so long after the last failure (proxy.upstream.breaker), and a second for its probe.
LINGERING: Final = 11.0
# Faults that are remembered: those of a minute of the worst storm, of which only the last seconds are asked about.
_REMEMBERED: Final = 10_000
_KINDS: Final = ("hang up", "reset", "close", "5xx", "429", "stall", "wrong bytes")


@dataclass
class Weather:
    """A `Fault` for all of upstream's answers that strikes while `storm` is set."""

    dice: random.Random
    storm: bool = False
    happened: Counter[str] = field(default_factory=Counter)
    _struck: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _stalled: list[Gate] = field(default_factory=list)

    def __call__(self, request: Request, answer: Answer) -> Answer:
        if not self.storm or answer.status != 200 or self.dice.random() >= SHARE:
            return answer
        kind = self.dice.choice(_KINDS)
        if request.method == "HEAD" and kind not in ("hang up", "5xx", "429"):
            kind = "5xx"
        self.happened[kind] += 1
        self._struck.append(time.monotonic())
        return self._strike(kind, request, answer)

    def struck(self, begin: float, end: float) -> bool:
        """Whether a fault of upstream may show between these times."""
        return any(begin - LINGERING <= at <= end for at in list(self._struck))

    def clear_up(self) -> None:
        self.storm = False
        for gate in self._stalled:
            gate.open()
        self._stalled.clear()

    def _strike(self, kind: str, request: Request, answer: Answer) -> Answer:
        if kind == "hang up":
            raise ConnectionResetError("the connection ends without a word")
        if kind == "5xx":
            return refuse(self.dice.choice((500, 502, 503, 504)))(request, answer)
        if kind == "429":
            return refuse(429, retry_after="1")(request, answer)
        start, stop = wire.range_of(request.headers.get("range", ""), len(answer.body)) or (0, len(answer.body))
        at = self.dice.randrange(max(1, stop - start))
        if kind == "wrong bytes":
            return corrupt(self.dice.randrange(len(answer.body)))(request, answer)
        if kind == "stall":
            gate = Gate()
            self._stalled.append(gate)
            return change(gates={at: gate})(request, answer)
        return cut(at, "reset" if kind == "reset" else "close")(request, answer)


class Outages:
    """Times in which the program was down, and blobs that were damaged on its disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down: list[list[float]] = []
        self._damaged: list[tuple[float, str]] = []
        self.happened: Counter[str] = Counter()

    @contextmanager
    def down(self, kind: str) -> Iterator[None]:
        """The program is ended and started again within this block."""
        window = [time.monotonic(), float("inf")]
        with self._lock:
            self._down.append(window)
        self.happened[kind] += 1
        yield
        window[1] = time.monotonic()

    def damaged(self, digest: str) -> None:
        """Call it before and after the bytes are altered: who reads just then may get them."""
        with self._lock:
            self._damaged.append((time.monotonic(), digest))

    def was_down(self, begin: float, end: float) -> bool:
        with self._lock:
            return any(begin <= stop and start <= end for start, stop in self._down)

    def was_damaged(self, begin: float, end: float, digest: str) -> bool:
        with self._lock:
            return any(begin <= at <= end and which == digest for at, which in self._damaged)

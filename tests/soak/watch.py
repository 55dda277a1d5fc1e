"""Samples of the running program: memory, files, tasks; and what is left when it is idle."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from typing import Final

from tests.cache.disks import bytes_on_disk
from tests.support.millpond import Millpond
from tests.support.waiting import wait_until

# Samples of a whole run: as many as a plot has columns, several times over.
_SAMPLES: Final = 600
_SHORTEST: Final = 0.1  # seconds between two
# What is idle has no flight, and connections to upstreams that are kept for a while and then closed.
_IDLE_SECONDS: Final = 60.0
_SETTLED: Final = 10  # looks in a row that show the same number, a fifth of a second apart


@dataclass(frozen=True, slots=True)
class Sample:
    """`at` is in seconds since the soak began; `life` is how often the program had been started."""

    at: float
    life: int
    rss: int
    files: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Idle:
    """The program when nobody asks for anything. `astray` is what it accounts for and the disk has not, in bytes."""

    files: int
    tasks: int
    temporaries: int
    astray: int


class Watch:
    """Samples in a thread, from `start` to `stop`."""

    def __init__(self, millpond: Millpond, seconds: float) -> None:
        self.samples: list[Sample] = []
        self.began = time.monotonic()
        self._millpond = millpond
        self._pause = max(_SHORTEST, seconds / _SAMPLES)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            life = self._millpond.starts
            try:
                tasks = int(self._millpond.metric("millpond_tasks"))
                rss, files = self._millpond.rss(), self._millpond.open_files()
            except (OSError, http.client.HTTPException, AssertionError, ValueError):
                continue  # it is down
            if life == self._millpond.starts:
                self.samples.append(Sample(time.monotonic() - self.began, life, rss, files, tasks))


def idle(millpond: Millpond) -> Idle:
    """What is left when no client asks: the least of files and tasks that they settle at.

    Raises:
        AssertionError: a flight does not end.
    """
    wait_until(lambda: not millpond.metric("millpond_flights"), "every flight has landed", _IDLE_SECONDS)
    found: list[tuple[int, int]] = []

    def settled() -> bool:
        found.append((millpond.open_files(), int(millpond.metric("millpond_tasks"))))
        time.sleep(0.2)  # a look at a number that has to stay the same takes time
        return len(found) > _SETTLED and min(found[-_SETTLED:]) >= min(found[:-_SETTLED])

    wait_until(settled, "files and tasks do not become fewer any more", _IDLE_SECONDS)
    files, tasks = (min(one[which] for one in found) for which in (0, 1))
    return Idle(files, tasks, len(millpond.incoming()), _astray(millpond))


def _astray(millpond: Millpond) -> int:
    """A, looked at twice: between two looks the scrub may have evicted something."""
    off = 0
    for _ in range(5):
        off = int(millpond.metric("millpond_cache_bytes")) - bytes_on_disk(millpond.cache)
        if not off:
            break
        time.sleep(0.2)
    return off

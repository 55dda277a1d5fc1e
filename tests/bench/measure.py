"""One number, once a round, with the processor time and the memory that it cost the server."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

GIB: Final = 2**30
MIB: Final = 2**20
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured, and `say`, which shows what is being measured."""

    rounds: int
    seconds: float
    """Of each measurement of a rate."""
    nodes: int
    storm_bytes: int
    say: Callable[[str], None]


@dataclass(slots=True)
class Measurement:
    """One number of one peer in one case, once a round. The first peer of a case is what others are compared with."""

    case: str
    peer: str
    unit: str
    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of processor time for each GiB that clients got (for each 1,000 requests where unit is requests/s)."""
    peak: list[float] = field(default_factory=list)
    """The most MiB that were resident meanwhile."""
    after: list[float] = field(default_factory=list)
    """MiB resident at its end."""
    upstream: list[float] = field(default_factory=list)
    """What the upstream sent, as a multiple of the content."""

    def cost(self, meter: Meter, units: float) -> None:
        """Note what the server used; `units` are GiB or thousands of requests."""
        if meter.pid:
            self.cpu.append(meter.cpu / units)
            self.peak.append(meter.peak / MIB)
            self.after.append(meter.after / MIB)


@dataclass(slots=True)
class Meter:
    """What the processes of one server used inside `metered`: seconds of CPU, bytes of memory, seconds by the clock."""

    pid: int
    cpu: float = 0.0
    peak: int = 0
    after: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def metered(pid: int) -> Iterator[Meter]:
    """Watch the process group `pid` during the block; 0 watches nothing."""
    meter = Meter(pid)
    processes = _group(pid) if pid else []
    for process in processes:
        with contextlib.suppress(OSError):
            (process / "clear_refs").write_text("5")  # the peak starts anew at what is resident now
    used, began = sum(map(_cpu, processes)), time.monotonic()
    yield meter
    meter.seconds = time.monotonic() - began
    meter.cpu = sum(map(_cpu, processes)) - used
    meter.peak = sum(_status(process, "VmHWM") for process in processes)
    meter.after = sum(_status(process, "VmRSS") for process in processes)


def table(case: str, unit: str, names: list[str]) -> dict[str, Measurement]:
    return {name: Measurement(case, name, unit) for name in names}


def _group(pid: int) -> list[Path]:
    return [directory for directory in Path("/proc").glob("[0-9]*") if int(_stat(directory)[2]) == pid]


def _cpu(process: Path) -> float:
    user, system = _stat(process)[11:13]
    return (int(user) + int(system)) / _TICKS


def _stat(process: Path) -> list[str]:
    """Fields from the third on: state, parent, process group, ..."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20


def _status(process: Path, key: str) -> int:
    """Bytes; 0 for a process that has ended (nginx's cache loader does, after its look at the directory)."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)

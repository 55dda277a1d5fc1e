"""The running program of the machine, on a small disk of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.cache.disks import fill
from tests.faults.machine.books import Books
from tests.faults.machine.content import BUDGET, MIB, Part
from tests.support.millpond import Millpond
from tests.support.programs import run
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
# The file system: room for the whole budget and the ledger, and not for much more.
_DISK: Final = 10 * MIB
# H: an end in order, its second of grace included, and housekeeping after a start or a flight. Moments, usually.
_ENDING: Final = 30.0
_HOUSEKEEPING: Final = 30.0

# The program is the real one; only these constants are others, so that what takes minutes elsewhere takes moments.
_HURRIED: Final = {
    "proxy.cache.calls._PAUSE_SECONDS": 0.3,
    "proxy.cache.journal._RETRY_SECONDS": 0.1,
    "proxy.cache.ledger._LOCK_SECONDS": 0.5,
    "proxy.pull.download._FIRST_DELAY": 0.01,
    "proxy.pull.download._TRIES": 3,
    "proxy.pull.fetch._PARALLEL_FROM": 2 * MIB,
    "proxy.pull.fetch._WATCH_SECONDS": 0.02,
    "proxy.pull.flight._HELD_BACK": MIB // 4,
    "proxy.pull.freshness.PATIENCE": 3.0,
    "proxy.pull.lanes._WARY_SECONDS": 0.5,
    "proxy.pull.plan._SMALLEST": MIB // 2,
    "proxy.upstream.breaker.FIRST_OPENING": 0.05,
    "proxy.upstream.breaker.LONGEST_OPENING": 0.4,
    "proxy.upstream.retry.FIRST_WAIT": 0.02,
}


class Pond:
    """A Millpond with a small cache, on a file system in memory if this is root, else on whatever there is.

    `plant` are further statements that the interpreter runs at the program's start: a defect, to see it found.
    """

    def __init__(self, upstream: ScriptedUpstream, plant: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="millpond-machine-"))
        self.disk = self.directory / "disk"
        self.disk.mkdir()
        self.mounted = os.geteuid() == 0
        if self.mounted:
            run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "small-disk", str(self.disk)])
        site = self.directory / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_statements(plant))
        config: dict[str, Any] = {
            "upstreams": {UPSTREAM: upstream.upstream(read_timeout="2s", connect_timeout="2s", tag_ttl=0)},
            "cache": {"directory": str(self.disk / "cache"), "max_size": BUDGET, "min_free": 0},
            "registry": {"grace_period": "1s"},
        }
        env = {"PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[3]}"}
        self.millpond = Millpond(config, self.directory / "millpond", env)
        self.millpond.cache = self.disk / "cache"
        self.books = Books(self.millpond)
        self._hog: Path | None = None
        self._swept, self._sweeps_before = False, 0
        self.millpond.start()
        assert "sitecustomize" not in self.millpond.log_text(), self.millpond.log_text()

    @property
    def port(self) -> int:
        return self.millpond.port

    # What happens to it

    def end(self, *, killed: bool, meanwhile: Callable[[], object] = lambda: None) -> set[str]:
        """End the program at once, or in order; the digests of the files that are whole then. `meanwhile` is called
        when the end has begun."""
        if killed:
            self.millpond.kill()
            meanwhile()
        else:
            self.millpond.process.send(signal.SIGTERM)
            meanwhile()
            code = self.millpond.process.wait(_ENDING)
            assert code == 0, f"H: an end in order with exit code {code}\n{self.millpond.process.log_tail()}"
        return self.books.check_files()

    def start(self, whole: set[str]) -> None:
        """Start it on what is there: nothing temporary remains, and none of the files that are `whole` is lost."""
        # A sweep that an end has cut off has said nothing.
        self._swept, self._sweeps_before = False, len(self._sweeps)
        self.books.started()
        self.millpond.start()
        assert not self.millpond.incoming(), f"A: after a start there is still {self.millpond.incoming()}"
        self._assert_kept(whole)

    def await_sweep(self, whole: set[str]) -> None:
        """K: what was verified before the start is known after its sweep."""
        self._wait(lambda: self.swept, "A: the sweep has not ended")
        self._assert_kept(whole)
        self.check()
        known, files = self.millpond.metric("millpond_cache_blobs"), len(self.books.on_disk())
        assert known == files, f"K: {known:.0f} of {files} files are known"

    def fill_disk(self) -> None:
        """Somebody else takes every byte that is left, where that does no harm to anybody."""
        if self.mounted and self._hog is None:
            self._hog = fill(self.disk)

    def free_disk(self) -> None:
        if self._hog is not None:
            self._hog.unlink()
            self._hog = None

    def lose_ledger(self) -> None:
        """While nothing runs."""
        shutil.rmtree(self.millpond.cache / "ledger", ignore_errors=True)

    def spoil_ledger(self) -> None:
        """While nothing runs: it is no database any more."""
        database = self.millpond.cache / "ledger" / "cache.db"
        if database.exists():
            with database.open("r+b") as file:
                file.write(b"not a database" * 100)

    def litter(self, part: Part) -> None:
        """While nothing runs: something half done, and a file that is not what its name says."""
        (self.millpond.cache / "incoming" / "left-over.part").write_bytes(b"")
        self.books.forge(part)

    def close(self) -> None:
        self.millpond.stop()
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)
        shutil.rmtree(self.directory)

    # What has to hold

    @property
    def swept(self) -> bool:
        """Whether the last start is over: all that was there has been looked at."""
        if not self._swept and len(self._sweeps) > self._sweeps_before:
            self._swept = True
            self.books.noticed()
        return self._swept

    @property
    def _sweeps(self) -> list[dict[str, Any]]:
        return self.millpond.log_lines(event="cache swept")

    @property
    def idle(self) -> bool:
        return self.millpond.metric("millpond_flights") == 0

    def check(self) -> None:
        """P, and A where nothing is arriving; and that the program says nothing that only a defect says."""
        assert self.millpond.process.running, f"B: it has ended by itself\n{self.millpond.process.log_tail()}"
        complaints = self.millpond.complaints()
        assert not complaints, "\n".join(complaints)
        self.books.check_files()
        alarms = self.millpond.metric("millpond_verification_failures_total", where="disk")
        assert alarms <= self.books.damages, f"P: {alarms:.0f} files called damaged where {self.books.damages} were"
        if self.swept:
            self._wait(lambda: not self.idle or self._accounted, "A: what is accounted for is not what is on the disk")
            if self.idle:
                size = sum(self.books.on_disk())
                assert size <= BUDGET, f"A: {size} bytes on the disk are more than cache.max_size"

    def await_idle(self) -> None:
        self._wait(lambda: self.idle, "H: a flight has not ended")

    @property
    def _accounted(self) -> bool:
        return self.millpond.metric("millpond_cache_bytes") in self.books.possible() and not self.millpond.incoming()

    def _assert_kept(self, whole: set[str]) -> None:
        lost = whole - self.books.check_files()
        assert not lost, f"K: verified and lost in a restart: {lost}"

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_until(condition, what, _HOUSEKEEPING)
        except AssertionError:
            said = self.millpond.metric("millpond_cache_bytes")
            raise AssertionError(
                f"{what}: {said:.0f} bytes accounted for, {sum(self.books.on_disk())} on the disk, of the sums "
                f"{sorted(self.books.possible())}; arriving: {[file.name for file in self.millpond.incoming()]}"
            ) from None


def _statements(plant: str) -> str:
    """The module that the interpreter runs at its start. A constant that is not there any more is an error."""
    lines = ["import importlib", f"for name, value in {dict(_HURRIED)!r}.items():"]
    lines += ["    module, _, constant = name.rpartition('.')", "    module = importlib.import_module(module)"]
    lines += ["    getattr(module, constant)", "    setattr(module, constant, value)", plant, ""]
    return "\n".join(lines)

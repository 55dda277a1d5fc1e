"""Defects that are put into the program when it starts, and the steps that bring each of them to light.

They show that each of the machine's checks can fail. The changes of the source are in the table of mutations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.faults.machine.machine import PondMachine

Steps = Callable[[PondMachine], None]


def _wrong_bytes(machine: PondMachine) -> None:
    machine.trouble(trouble="wrong byte", where="/blobs/", share=0.5, times=0)
    machine.pull(name="large", wanted=None)


def _wrong_bytes_for_nobody(machine: PondMachine) -> None:
    machine.trouble(trouble="wrong byte", where="/blobs/", share=0.9, times=0)
    machine.leave(name="large", wanted=None, share=0.0)
    machine.pond.await_idle()


def _damaged_file(machine: PondMachine) -> None:
    machine.pull(name="medium", wanted=None)
    machine.pond.await_idle()
    machine.damage(which=0, how="flip", share=0.5, again=True)


def _cold_pull(machine: PondMachine) -> None:
    machine.pull(name="shared", wanted=None)
    machine.pond.await_idle()


def _stranger(machine: PondMachine) -> None:
    machine.pull(name="tiny", wanted=None)
    machine.pond.await_idle()
    machine.ask_elsewhere(name="tiny")


def _restart(machine: PondMachine) -> None:
    machine.pull(name="medium", wanted=None)
    machine.pond.await_idle()
    machine.restart(killed=True, meanwhile="litter", name="large", swept=True)


def _vast_pull(machine: PondMachine) -> None:
    machine.pull_manifest(name="third")
    machine.pull(name="vast", wanted=None)


_ANY_HASH: Final = "import proxy.oci.digest as d; d.Digest.matches = lambda *_: True"
_EMPTIED: Final = """
import proxy.cache.files as f, shutil
prepare = f.Files.prepare
f.Files.prepare = lambda self: (shutil.rmtree(self._blobs, ignore_errors=True), prepare(self))
"""

DEFECTS: Final[dict[str, tuple[str, Steps]]] = {
    "W: wrong bytes of large": (_ANY_HASH, _wrong_bytes),
    "W: wrong bytes of medium": (_ANY_HASH, _damaged_file),
    "P: the file of large": (_ANY_HASH, _wrong_bytes_for_nobody),
    "A: what is accounted for": (
        "import proxy.cache.room as r; r.Room.release = lambda self, incoming: None",
        _cold_pull,
    ),
    "A: after a start": ("import pathlib; pathlib.Path.unlink = lambda *_, **__: None", _restart),
    "K: verified and lost": (_EMPTIED, _restart),
    "S: given out": ("import proxy.cache.catalog as c; c.Catalog.blob_size = lambda *_: 1000", _stranger),
    "H: nothing came": ("import proxy.pull.flight as f; f.Flight._wake = lambda self: None", _cold_pull),
    "B: neither the content": ("import proxy.pull.relay as r; r.Relay.read = lambda *_: 1 / 0", _vast_pull),
}
"""The beginning of what the machine says -> (statements, steps)."""

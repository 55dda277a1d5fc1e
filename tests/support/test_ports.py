"""A port that a test was given is its own: over workers, over runs, and over a program's restart."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.support.ports import Ports, chosen_by_the_kernel

ROOT: Final = Path(__file__).parents[2]
PROCESSES: Final = 6
EACH: Final = 150  # more than one block

# It keeps its ports, as a worker does, until it is told to end.
ASK: Final = f"""
from tests.support.ports import free_port
print(*(free_port() for _ in range({EACH})), flush=True)
input()
"""


def test_processes_that_ask_at_once_get_ports_that_nobody_else_gets() -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ASK], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(PROCESSES)
    ]
    answers = [worker.stdout.readline() if worker.stdout else "" for worker in workers]
    for worker in workers:
        worker.communicate("\n")
    ports = [int(port) for answer in answers for port in answer.split()]
    assert len(ports) == len(set(ports)) == PROCESSES * EACH
    assert not set(ports) & set(chosen_by_the_kernel())


@pytest.fixture
def ports() -> Iterator[Ports]:
    with closing(Ports()) as made:
        yield made


def test_a_port_that_somebody_listens_on_is_not_handed_out(ports: Ports) -> None:
    before = ports.free()
    with socket.create_server(("127.0.0.2", before + 1)):
        assert ports.free() > before + 1


def test_a_port_comes_again_only_after_many_others_and_the_process_holds_ever_the_same_number(
    ports: Ports,
) -> None:
    given = [ports.free() for _ in range(3000)]
    for start in range(0, len(given), 700):
        part = given[start : start + 700]
        assert len(part) == len(set(part))
    assert len(set(given)) < 1500


def test_where_the_kernel_chooses_from_all_ports_there_are_some_all_the_same(
    ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = tmp_path / "ip_local_port_range"
    setting.write_text("1024\t65535\n")
    monkeypatch.setattr("tests.support.ports._CHOSEN_BY_THE_KERNEL", setting)
    assert ports.free() in range(20_000, 65_536)

"""Log lines leave in order, in batches, and without holding up whoever writes them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

from proxy.observe.outlet import Outlet
from tests.support.programs import environment
from tests.support.waiting import wait_until

_PIPE = 65_536  # bytes that a pipe holds, on Linux

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Where to read, and where to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError"])
def test_no_line_is_lost_when_the_process_ends(end: str) -> None:
    program = (
        "import sys, structlog\n"
        "from proxy.observe import logs\n"
        "logs.configure('json', 'info')\n"
        "for number in range(5000): structlog.get_logger().info('line', number=number)\n"
    )
    command = [sys.executable, "-c", program + end]
    env = environment({"PYTHONPATH": str(Path(__file__).parents[2])})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line.partition(",")[0] for line in lines] == [f'{{"number": {number}' for number in range(5000)]


def test_a_warning_leaves_at_once_and_takes_along_what_came_before(pipe: Pipe) -> None:
    outlet = Outlet(pipe[1], gather=3600)
    outlet.info("calm")
    outlet.warning("alarm")
    assert os.read(pipe[0], 100) == b"calm\nalarm\n"
    outlet.close()


def test_a_reader_that_is_stuck_holds_nobody_up_and_what_is_dropped_is_counted(pipe: Pipe) -> None:
    reader, writer = pipe
    outlet = Outlet(writer, gather=0, max_waiting=2 * _PIPE)
    line = "x" * 1023
    arrived = bytearray()

    def read_until_told() -> bool:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(reader, _PIPE):
                arrived.extend(part)
        return bool(logs)

    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            outlet.info(line)  # returns, though the pipe is full after 64
        os.set_blocking(reader, False)
        wait_until(read_until_told, "it is said that lines were dropped")
        outlet.close()
    read_until_told()
    [said] = logs
    assert said["log_level"] == "warning"
    assert set(bytes(arrived).splitlines()) == {line.encode()}
    assert arrived.count(b"\n") + said["lines"] == 1000


def test_lines_that_the_file_refuses_are_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outlet = Outlet(writer)
    outlet.warning("nobody listens")
    outlet.close()
    os.close(writer)


def test_a_pipe_that_does_not_block_gets_every_line(pipe: Pipe) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    outlet = Outlet(writer, gather=0)
    for number in range(100):
        outlet.info(f"{number:04}" + "x" * 4091)
    arrived = b""
    while arrived.count(b"\n") < 100:
        arrived += os.read(reader, _PIPE)
    outlet.close()
    assert [int(line[:4]) for line in arrived.splitlines()] == list(range(100))

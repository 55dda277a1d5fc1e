"""Real programs: where they are, how they are started, and that they have ended when a test is over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import DEADLINE, wait_until

# The distribution's own programs come first: another client named docker may be ahead of it on PATH.
_PATH: Final = os.pathsep.join(["/usr/sbin", "/usr/bin", "/sbin", "/bin"])

_STOP_GRACE: Final = 15.0  # seconds from SIGTERM to SIGKILL; dockerd takes a few to end its own containerd
_LOG_TAIL: Final = 4000  # characters of a log that a failure shows

# Every program that a test starts carries this in its environment, and so do its descendants.
_MARK: Final = "TEST_SESSION_OF_MILLPOND"
SESSION: Final = uuid.uuid4().hex


def find(name: str) -> Path | None:
    """The program called `name`, or None when it is not installed."""
    found = shutil.which(name, path=_PATH) or shutil.which(name)
    return Path(found) if found else None


def require(*names: str) -> None:
    """Skip the test when one of these programs is not installed; fail it under continuous integration."""
    missing = [name for name in names if find(name) is None]
    if missing:
        miss(f"not installed: {', '.join(missing)}")


def require_root() -> None:
    """Skip the test without root, which daemons that mount file systems need."""
    if os.geteuid() != 0:
        miss("this needs root, to mount file systems")


def miss(reason: str) -> None:
    """Say that this machine cannot run the test: a skip here, a failure where CI=true promises everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true, yet {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """The path of a program that is installed.

    Raises:
        FileNotFoundError: it is not; `require` is what tells a test that.
    """
    found = find(name)
    if found is None:
        raise FileNotFoundError(name)
    return str(found)


def accepts(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs get: ours, without the settings of a Millpond or a proxy that this shell may have, marked."""
    hidden = ("MILLPOND_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(hidden)}
    return {**kept, _MARK: SESSION, **(extra or {})}


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, deadline: float = 120.0) -> str:
    """Run a client to its end and return its standard output.

    Raises:
        AssertionError: it failed; the message has both of its outputs.
    """
    done = subprocess.run(
        command,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def succeeds(command: Sequence[str]) -> bool:
    """Whether a short command ends well: how a daemon's own client tells that it is ready."""
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


class Process:
    """A program that runs until it is stopped, in a process group of its own, with its output in `log`."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def wait_ready(self, ready: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Wait until `ready()`; stop the program and raise AssertionError with its log's tail if it never is."""
        try:
            wait_until(lambda: not self.running or ready(), f"{self.command[0]} is ready", deadline)
            assert self.running, f"{self.command[0]} ended at once with {self.exit_code}"
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{' '.join(self.command)}\n{self.log_tail()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self._popen.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """The exit code, negative for a signal; AssertionError with the log's tail if it has not ended in time."""
        try:
            return self._popen.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} still runs after {deadline:g} s\n{self.log_tail()}") from None

    def kill(self) -> None:
        """End the whole group as a crash would, and wait until the program has gone."""
        self._signal_group(signal.SIGKILL)
        self._popen.wait()

    def stop(self) -> int:
        """End the whole group politely, else by force. Returns the program's exit code."""
        if self.running:
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_STOP_GRACE)
        self.kill()
        return self._popen.returncode

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL:]

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def leaked() -> list[tuple[int, str]]:
    """(process id, command line) of each program that this session started, directly or not, and that still runs."""
    found = []
    mark = f"{_MARK}={SESSION}".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(directory.name), command.strip()))
        except OSError:
            continue
    return [entry for entry in found if entry[0] != os.getpid()]

"""The unit: what systemd thinks of it, what Millpond tells systemd, and that Millpond runs in its sandbox."""

from __future__ import annotations

import ctypes.util
import os
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from proxy.settings import Settings
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.millpond import Millpond
from tests.support.programs import Process, miss, program, require, run
from tests.support.pulls import pull
from tests.support.registry import Registry
from tests.support.waiting import DEADLINE, wait_until

ROOT: Final = Path(__file__).parents[2]
UNIT: Final = ROOT / "deploy/systemd/millpond.service"
# systemd's measure, 0 (best) to 10, times ten. What remains is that it serves a network and is told so by a socket.
_EXPOSURE: Final = 12


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    require("systemd-analyze")
    here = Path(sysconfig.get_path("scripts"), "millpond")
    assert here.exists(), "Millpond is installed"
    text = UNIT.read_text()
    assert "ExecStart=/opt/millpond/bin/millpond serve\n" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/millpond/bin/millpond", str(here)))
    run([program("systemd-analyze"), "verify", "--man=no", str(copy)])
    copy.write_text(copy.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    with pytest.raises(AssertionError, match="KilMode"):  # so that the line above can fail
        assert not _errors(["verify", "--man=no", str(copy)])


def test_systemd_finds_it_little_exposed() -> None:
    require("systemd-analyze")
    command = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", str(UNIT)]
    run([*command, f"--threshold={_EXPOSURE}"])


def test_a_stop_gives_running_pulls_all_of_their_grace() -> None:
    values = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    assert values["Type"] == "notify"
    assert values["KillSignal"] == "SIGTERM"
    grace = Settings(None, {}).registry.grace_period
    assert int(values["TimeoutStopSec"]) >= grace + 15, "and the time to end connections and write things down"
    assert values["StateDirectory"] == "millpond"


class Manager:
    """The end of NOTIFY_SOCKET at which systemd listens."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(DEADLINE)

    def told(self) -> str:
        """The next message."""
        return self._socket.recv(1024).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    """A manager, and NOTIFY_SOCKET for whom it manages."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@millpond-{os.getpid()}"
    made = Manager(name.replace("@", "\0"))
    yield made, name
    made.close()


def test_the_manager_is_told_once_both_ports_answer_and_again_at_the_drain(
    manager: tuple[Manager, str], start_millpond: StartMillpond
) -> None:
    listening, address = manager
    millpond = start_millpond({}, env={"NOTIFY_SOCKET": address}, wait=False)
    assert listening.told() == "READY=1"
    for port in (millpond.port, millpond.admin_port):  # at once: no waiting for it
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()
    wait_until(millpond.ready, "Millpond is ready")  # its signals are looked after
    assert millpond.terminate() == 0
    assert listening.told() == "STOPPING=1"


@pytest.mark.parametrize("address", ["/nowhere/notify", "vsock:2:1", ""])
def test_it_serves_where_nobody_can_be_told(address: str, start_millpond: StartMillpond) -> None:
    millpond = start_millpond({}, env={"NOTIFY_SOCKET": address})
    assert millpond.ready()
    assert millpond.terminate() == 0


def test_it_serves_with_the_system_calls_and_the_memory_that_the_unit_leaves_it(
    tmp_path: Path, plain_registry: Registry, images_directory: Path
) -> None:
    require("systemd-analyze")
    if not ctypes.util.find_library("seccomp"):
        miss("not installed: libseccomp")
    image = images.simple_image(images_directory, seed=52, layers=3, size=2_000_000)
    plain_registry.push(image, "library/confined", "1")
    allowed = tmp_path / "allowed"
    # SQLite gives its journals the database's owner, but only as root, which the service is not.
    allowed.write_text("\n".join(_allowed() | ({"fchown"} if os.geteuid() == 0 else set())))
    millpond = Millpond({"upstreams": {"docker.io": plain_registry.upstream()}}, tmp_path / "millpond")
    confined = [sys.executable, str(Path(__file__).with_name("confined.py")), str(allowed)]
    serve = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(millpond.config_file)]
    millpond._process = Process([*confined, *serve], millpond._log, millpond._env)  # its own start would be unconfined
    try:
        millpond.process.wait_ready(millpond.ready)
        pull(f"{millpond.url}/v2/library/confined", image, "1")
        millpond.metrics()
        assert millpond.terminate() == 0
        assert not millpond.complaints()
    finally:
        millpond.stop()


def _allowed() -> set[str]:
    """The names of the system calls that the unit's filters leave."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.MULTILINE):
        names = {call for group in line.lstrip("~").split() for call in _group(group)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    # systemd allows these whatever a filter says.
    return allowed | set(_group("@default"))


def _group(name: str) -> set[str]:
    shown = run([program("systemd-analyze"), "syscall-filter", name]).splitlines()
    words = {line.split("#")[0].strip() for line in shown if line.startswith("    ")} - {""}
    inner = {call for word in words if word.startswith("@") for call in _group(word)}
    return {word for word in words if not word.startswith("@")} | inner


def _errors(arguments: list[str]) -> str:
    done = subprocess.run([program("systemd-analyze"), *arguments], capture_output=True, text=True, check=False)
    return done.stderr

"""The node mirror: the command as the DaemonSet runs it, on a directory that stands for a node's."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mirror.test_config_path import STANDARD, V2
from tests.mirror.trees import MILLPOND, Tree, tree, write
from tests.support.command import millpond
from tests.support.programs import Process
from tests.support.waiting import wait_until

THEIRS = '[host."https://old.test"]\n'


class Node:
    """A node's /etc/containerd below `root`, and the pod's program."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.certs = root / "etc/containerd/certs.d"
        self.config = write(root / "etc/containerd/config.toml", V2.format(STANDARD))
        self.hosts = write(self.certs / "docker.io/hosts.toml", THEIRS, 0o600)
        write(self.certs / "docker.io/ca.crt", "foreign")
        self.before: Tree = tree(root)
        self._log = root.parent / "log"
        self._process: Process | None = None

    def start(self, *options: str) -> Process:
        arguments = ["mirror-config", "containerd", MILLPOND, "--install", "--directory", str(self.certs), "--watch"]
        self._process = Process([sys.executable, "-m", "proxy.cli", *arguments, *options], self._log)
        return self._process

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def check(self) -> int:
        return millpond("mirror-config", "containerd", MILLPOND, "--check", "--directory", str(self.certs)).returncode

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def has_said(self, state: str, text: str) -> Callable[[], bool]:
        return lambda: any(line["state"] == state and text in line["detail"] + line["subject"] for line in self.said())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "host")
    yield made
    made.stop()


def test_a_node_gets_its_mirrors_keeps_them_and_is_as_it_was_afterwards(node: Node) -> None:
    assert node.check() == 1
    process = node.start("--remove-on-exit")
    wait_until(node.has_said("ok", "sets config_path"), "it has looked once")
    assert node.check() == 0
    assert node.hosts.read_text().index(MILLPOND) < node.hosts.read_text().index("old.test")

    # Something else on the node: one file rewritten, one deleted.
    node.hosts.write_text(THEIRS)
    (node.certs / "quay.io/hosts.toml").unlink()
    wait_until(lambda: MILLPOND in node.hosts.read_text(), "the file is installed again")
    wait_until((node.certs / "quay.io/hosts.toml").exists, "the deleted one as well")

    # containerd's configuration changes under it, and is repaired.
    node.config.write_text("version = 2\n")
    wait_until(node.has_said("FAILED", "does not set config_path"), "it says what to do")
    assert node.check() == 1
    node.config.write_text(V2.format(STANDARD))

    process.send(signal.SIGTERM)
    assert process.wait() == 0
    assert tree(node.root) == node.before
    assert {line["level"] for line in node.said()} == {"info", "warning"}


def test_without_remove_on_exit_a_restart_of_the_pod_changes_nothing(node: Node) -> None:
    process = node.start()
    wait_until(node.has_said("ok", "sets config_path"), "it has looked once")
    installed = tree(node.root)
    process.send(signal.SIGTERM)
    assert process.wait() == 0
    assert tree(node.root) == installed
    done = millpond("mirror-config", "containerd", "--remove", "--directory", str(node.certs))
    assert done.returncode == 0
    assert tree(node.root) == node.before


def test_a_file_that_cannot_be_is_said_once_and_installed_when_it_can_be(node: Node) -> None:
    node.hosts.write_text("[")
    process = node.start("--registry", "docker.io", "--remove-on-exit")
    wait_until(node.has_said("refused", "is no TOML"), "it says so")
    node.hosts.write_text(THEIRS)
    wait_until(lambda: MILLPOND in node.hosts.read_text(), "it is installed")
    process.send(signal.SIGTERM)
    assert process.wait() == 0
    assert len([line for line in node.said() if line["state"] == "refused"]) == 1
    assert node.hosts.read_text() == THEIRS


def test_two_node_mirrors_do_not_take_the_files_from_each_other(node: Node) -> None:
    other = "http://10.100.0.50:5000"
    first = node.start("--registry", "docker.io", "--remove-on-exit")
    wait_until(node.has_said("ok", "sets config_path"), "it has looked once")
    command = ["mirror-config", "containerd", other, "--install", "--directory", str(node.certs), "--watch"]
    log = node.root.parent / "other"
    second = Process([sys.executable, "-m", "proxy.cli", *command, "--remove-on-exit"], log)
    try:
        wait_until(lambda: other in node.hosts.read_text(), "the second has installed")
        wait_until(node.has_said("refused", "another node mirror has installed 10.100.0.50:5000"), "the first says so")
        assert other in node.hosts.read_text()
        second.send(signal.SIGTERM)
        assert second.wait() == 0
    finally:
        second.stop()
    wait_until(lambda: MILLPOND in node.hosts.read_text(), "the first installs again")
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert tree(node.root) == node.before


def test_the_readme_of_the_node_mirror_has_the_command_that_is_tested() -> None:
    text = (Path(__file__).parents[2] / "deploy/node-mirror/README.md").read_text()
    assert (
        "mirror-config containerd http://127.0.0.1:5000 --install \\\n"
        "    --directory /host/etc/containerd/certs.d --watch --remove-on-exit\n"
    ) in text

"""A dockerd of its own, without networks or containers: it pulls and unpacks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.programs import Process, program, run, succeeds

# dockerd falls back to the real Docker Hub when a mirror fails: here that must lead to a closed port.
_NO_WAY_OUT: Final = {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}


class Dockerd:
    """One daemon, its data and everything else below `directory`; `mirrors` are URLs for Docker Hub's names."""

    def __init__(self, directory: Path, mirrors: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # dockerd and its containerd listen below it, and the path of a socket is 107 bytes at most.
        self._short = tempfile.TemporaryDirectory(prefix="dockerd-")
        self._socket = Path(self._short.name) / "docker.sock"
        config = directory / "daemon.json"
        config.write_text(json.dumps({"registry-mirrors": list(mirrors)}))
        command = [
            program("dockerd"),
            f"--config-file={config}",
            f"--data-root={directory / 'data'}",
            f"--exec-root={self._short.name}/exec",
            f"--pidfile={directory / 'pid'}",
            f"--host=unix://{self._socket}",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
        ]
        self._process = Process(command, directory / "dockerd.log", _NO_WAY_OUT)
        self._process.wait_ready(self._answers, 60)

    def stop(self) -> None:
        self._process.stop()
        self._short.cleanup()

    def pull(self, reference: str) -> str:
        """Pull, and return the digest that docker remembers for it."""
        self.docker("pull", reference)
        digests = json.loads(self.docker("image", "inspect", "--format", "{{json .RepoDigests}}", reference))
        return str(digests[0]).partition("@")[2]

    def config_digest(self, reference: str) -> str:
        """Docker's image ID: the digest of the config, which names every unpacked layer."""
        return self.docker("image", "inspect", "--format", "{{.Id}}", reference).strip()

    def remove(self, reference: str) -> None:
        self.docker("image", "rm", "--force", reference)

    def docker(self, *arguments: str) -> str:
        return run([program("docker"), "--host", f"unix://{self._socket}", *arguments])

    def _answers(self) -> bool:
        return succeeds([program("docker"), "--host", f"unix://{self._socket}", "version"])

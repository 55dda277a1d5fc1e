"""The real program, in a process of its own, driven as its users do: a file, two ports and signals."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import ssl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.ports import free_port
from tests.support.programs import Process
from tests.support.pulls import get
from tests.support.waiting import DEADLINE, wait_until

_ROOT: Final = Path(__file__).parents[2]
_DEFECTS: Final = ("Traceback (most recent", "never retrieved", "was never awaited", "ResourceWarning")


class Millpond:
    """`millpond serve` on free ports of 127.0.0.1, its cache and configuration below `directory`.

    `config` is the configuration file's content; sections that it does not name are filled for a test: JSON logs, a
    cache directory, listening addresses. `env` are further environment variables.
    """

    def __init__(self, config: Mapping[str, Any], directory: Path, env: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cache = directory / "cache"
        self.config_file = directory / "millpond.yaml"
        self.port, self.admin_port = free_port(), free_port()
        self._log = directory / "millpond.log"
        self._env = {"PYTHONPATH": str(_ROOT), **(env or {})}
        self._process: Process | None = None
        self.starts = 0
        self.configure(config)

    @property
    def host(self) -> str:
        """host:port, as an image name has it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        secured = "tls" in self.config["registry"]
        return f"{'https' if secured else 'http'}://{self.host}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration file at one stroke; a running program reads it at its next start or reload."""
        defaults: dict[str, dict[str, Any]] = {
            "registry": {"listen": self.host},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "cache": {"directory": str(self.cache), "max_size": "20GiB", "min_free": "64MiB"},
            "log": {"format": "json"},
        }
        filled = {name: {**section, **config.get(name, {})} for name, section in defaults.items()}
        self.config: dict[str, Any] = {**config, **filled}
        written = self.config_file.with_suffix(".new")
        written.write_text(yaml.safe_dump(self.config))
        written.replace(self.config_file)  # a reload that is under way never sees half of it

    def start(self, *, wait: bool = True) -> Millpond:
        """Run it, and return when it is ready, or at once without `wait`."""
        assert self._process is None or not self._process.running
        command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(self.config_file)]
        self._process = Process(command, self._log, self._env)
        self.starts += 1
        if wait:
            self._process.wait_ready(self.ready)
        return self

    def ready(self) -> bool:
        try:
            return get(f"{self.admin_url}/readyz", timeout=2).status == 200
        except OSError:
            return False

    @property
    def process(self) -> Process:
        assert self._process, "not started"
        return self._process

    def terminate(self, deadline: float = DEADLINE) -> int:
        """SIGTERM, as a service manager sends it; returns the exit code when it has drained."""
        self.process.send(signal.SIGTERM)
        return self.process.wait(deadline)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        self.process.kill()

    def restart(self) -> Millpond:
        """End it in order if it runs, and start it on the same ports and directory."""
        if self.process.running:
            self.terminate()
        return self.start()

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def metrics(self) -> dict[str, float]:
        """Every sample, keyed as the exposition format writes it: `name{label="value"}`, labels in order of name."""
        reply = get(f"{self.admin_url}/metrics")
        assert reply.status == 200, reply.text
        return {
            sample.name + _labels(sample.labels): sample.value
            for family in text_string_to_metric_families(reply.text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels; 0 without any."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for key, value in self.metrics().items()
            if key.partition("{")[0] == name and all(label in key for label in wanted)
        )

    def settle_log(self, headers: Mapping[str, str] | None = None, ca: ssl.SSLContext | None = None) -> None:
        """Return when everything that has been said so far stands in the log: lines are written a moment later.

        `headers` and `ca` are what it takes to be let in.
        """
        name = secrets.token_hex(8)
        assert get(f"{self.url}/v2/", {**(headers or {}), "X-Request-Id": name}, ca=ca).status == 200
        wait_until(lambda: self.log_lines(id=name), "the log has been written")

    def log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_lines(self, **fields: Any) -> list[dict[str, Any]]:
        """The log's JSON lines, of all starts, that have these fields; lines that are no JSON are left out."""
        found = []
        for line in self.log_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and all(entry.get(name) == value for name, value in fields.items()):
                found.append(entry)
        return found

    def complaints(self) -> list[str]:
        """What only a defect writes, all of it: a fault of the outside world has a message, not a traceback."""
        lines = self.log_text().splitlines()
        defects = {line for line in lines if any(sign in line for sign in _DEFECTS)}
        return [line for line in lines if line in defects or not line.startswith("{")] if defects else []

    def rss(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS")

    def peak_rss(self) -> int:
        """The most bytes that have been resident since the program started."""
        return self._status("VmHWM")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def blob_file(self, digest: str) -> Path:
        """Where the cache keeps this digest once it is verified."""
        algorithm, _, encoded = digest.partition(":")
        return self.cache / "blobs" / algorithm / encoded[:2] / encoded

    def incoming(self) -> list[Path]:
        """What is on its way in: partial files."""
        return sorted((self.cache / "incoming").glob("*"))

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
        raise AssertionError(f"{self.process.command} is not running")


@contextlib.contextmanager
def running(config: Mapping[str, Any], directory: Path) -> Iterator[Millpond]:
    """One for the tests of a whole module. It fails the last of them when it has said what only a defect says."""
    millpond = Millpond(config, directory)
    try:
        yield millpond.start()
    finally:
        millpond.stop()
    assert not millpond.complaints(), "\n".join(millpond.complaints())


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{labels[name]}"' for name in sorted(labels)) + "}" if labels else ""

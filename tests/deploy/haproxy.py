"""Real HAProxy with the configuration that we ship: only its ports, its socket and its servers are the test's."""

from __future__ import annotations

import csv
import http.client
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.ports import free_port
from tests.support.programs import Process, accepts, program, run

SHIPPED: Final = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
_SERVER: Final = re.compile(r"^    server millpond-\d+ .*\n", re.MULTILINE)
_UNPRIVILEGED: Final = re.compile(r"^    (user|group) haproxy\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Server:
    """One instance behind HAProxy: its registry port and the one that is checked, on 127.0.0.1."""

    port: int
    check: int


class HAProxy:
    """HAProxy over `servers`, millpond-0 and so on with ids from 1. `change` alters the text at last."""

    def __init__(
        self, servers: Sequence[Server], directory: Path, change: Callable[[str], str] = lambda text: text
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.operator_port = free_port(), free_port()
        self._socket = Path(f"/tmp/millpond-haproxy-{self.port}.sock")  # a socket's path has 108 characters at most
        self._directory = directory
        self._change = change
        self._config = directory / "haproxy.cfg"
        self._process: Process | None = None
        self.servers = list(servers)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def start(self) -> HAProxy:
        """Run it, and return when it takes connections and has checked every server once."""
        self._config.write_text(self._change(self._text()))
        run([program("haproxy"), "-c", "-q", "-f", str(self._config)])
        self._process = Process([program("haproxy"), "-db", "-f", str(self._config)], self._directory / "haproxy.log")
        self._process.wait_ready(lambda: accepts(self.port) and all("*" not in s for s in self.states().values()))
        return self

    def stop(self) -> None:
        if self._process:
            self._process.stop()
        self._socket.unlink(missing_ok=True)

    def log(self) -> str:
        return (self._directory / "haproxy.log").read_text(errors="replace")

    def states(self) -> dict[str, str]:
        """UP or DOWN by server; a star behind a check that has not ended yet."""
        return {
            row["svname"]: row["status"] + row["check_status"][:1].replace("I", "*").replace("L", "")
            for row in self._statistics()
        }

    def up(self, server: str) -> bool:
        return self.states()[server].startswith("UP")

    def streams(self, server: str) -> int:
        """Requests that this server is answering now."""
        return next(int(row["scur"]) for row in self._statistics() if row["svname"] == server)

    def homes(self, paths: Iterable[str], method: str = "HEAD") -> list[str]:
        """Which server answers each of these paths."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        found = []
        try:
            for path in paths:
                connection.request(method, path)
                answer = connection.getresponse()
                answer.read()
                found.append(answer.headers["X-Millpond-Instance"])
        finally:
            connection.close()
        return found

    def _statistics(self) -> list[dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            try:
                control.connect(str(self._socket))
            except OSError:
                return [{"svname": "HAProxy itself", "status": "", "check_status": "INI", "scur": "0"}]
            control.sendall(b"show stat instances 4 -1\n")  # 4: the servers
            with control.makefile() as answer:
                rows = list(csv.DictReader(answer.read().removeprefix("# ").splitlines()))
        return [row for row in rows if row["svname"]]

    def _text(self) -> str:
        text = SHIPPED.read_text()
        servers = "".join(
            f"    server millpond-{number} 127.0.0.1:{server.port} port {server.check} id {number + 1}\n"
            for number, server in enumerate(self.servers)
        )
        first = _SERVER.search(text)
        assert first, "the file has no servers"
        text = _SERVER.sub("", text[: first.start()] + "SERVERS\n" + text[first.start() :])
        for old, new in (
            ("SERVERS\n", servers),
            ("bind :5000", f"bind 127.0.0.1:{self.port}"),
            ("bind :8404", f"bind 127.0.0.1:{self.operator_port}"),
            ("/run/haproxy/admin.sock", str(self._socket)),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return _UNPRIVILEGED.sub("", text)


def echo(ports: Sequence[int], directory: Path) -> Process:
    """Servers that answer every request, and every check, with 200 and the X-Forwarded-For that they saw: for what is
    about HAProxy alone."""
    config = directory / "echo.cfg"
    directory.mkdir(parents=True, exist_ok=True)
    binds = "".join(f"    bind 127.0.0.1:{port}\n" for port in ports)
    config.write_text(
        "global\n    fd-hard-limit 5000\n"
        "defaults\n    mode http\n    timeout client 60s\n    timeout http-keep-alive 60s\n"
        f"frontend echo\n{binds}    http-request return status 200 hdr X-Seen %[req.fhdr(x-forwarded-for,1)]\n"
    )
    process = Process([program("haproxy"), "-db", "-f", str(config)], directory / "echo.log")
    process.wait_ready(lambda: all(accepts(port) for port in ports))
    return process

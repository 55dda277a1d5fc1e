"""Real upstreams: distribution's `docker-registry`, plain, behind TLS and tokens, or behind passwords."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import secrets
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from tests.support.certificates import Authority
from tests.support.images import Manifest
from tests.support.ports import free_port
from tests.support.programs import Process, accepts, program
from tests.support.relay import CountingRelay, Rate
from tests.support.tokens import ISSUER, SERVICE, TokenServer
from tests.support.waiting import wait_until

# What a registry with passwords knows. The hash is fixed, because no library of ours writes bcrypt.
USER: Final = "robot"
PASSWORD: Final = "correct horse"
_HASH: Final = "$2y$05$millpondharnesstests..4doo5rF4Ohj9e8Dx8eEoj1GBt29UsWq"

_BLOCK: Final = 1 << 20
_TIMEOUT: Final = 120.0


@dataclass(frozen=True, slots=True)
class Served:
    """One request that the registry has answered, from its own log. `sent` is bytes of body."""

    method: str
    path: str
    status: int
    sent: int
    user_agent: str


@dataclass
class Registry:
    """One registry program with its own storage.

    `authority` turns TLS on, `tokens` the bearer flow, `passwords` basic authentication as `user` with PASSWORD.
    """

    directory: Path
    authority: Authority | None = None
    tokens: TokenServer | None = None
    passwords: bool = False
    user: str = USER

    def __post_init__(self) -> None:
        self.relay: CountingRelay | None = None
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._log = self.directory / "registry.log"
        self._config = self.directory / "config.yml"
        self._config.write_text(yaml.safe_dump(self._settings()))
        self._process: Process | None = None
        self._pushed: set[tuple[str, str]] = set()

    @property
    def host(self) -> str:
        """host:port, as an image name has it."""
        return f"127.0.0.1:{self.relay.port if self.relay else self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.authority else 'http'}://{self.host}"

    def upstream(self, **settings: Any) -> dict[str, Any]:
        """This registry as an entry below `upstreams` in Millpond's configuration."""
        entry: dict[str, Any] = {"url": self.url}
        if self.authority:
            entry["ca_file"] = str(self.authority.ca_file)
        return {**entry, **settings}

    def start(self) -> Registry:
        assert self._process is None or not self._process.running
        self._process = Process([program("docker-registry"), "serve", str(self._config)], self._log)
        self._process.wait_ready(lambda: accepts(self.port))
        return self

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def kill(self) -> None:
        """End it as a crash would: connections break, then nobody listens."""
        if self._process:
            self._process.kill()

    def clear(self) -> None:
        """Delete all content; only while it is stopped."""
        shutil.rmtree(self.directory / "data", ignore_errors=True)
        self._pushed.clear()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Killed inside the block; back on the same port, with the same content, after it."""
        self.kill()
        assert not accepts(self.port)
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def relayed(self, rate: Rate | None = None) -> Iterator[CountingRelay]:
        """Inside the block, `url` and `host` lead through a relay that counts bytes, and keeps to `rate`."""
        self.relay = CountingRelay(self.port, rate).start()
        try:
            yield self.relay
        finally:
            self.relay.stop()
            self.relay = None

    def push(self, manifest: Manifest, repository: str, *tags: str) -> str:
        """Push the whole tree and return its digest; blobs that went there before are not sent again."""
        with contextlib.closing(self._connect()) as connection:
            headers = self._authorization(repository)
            for digest, part in manifest.all_blobs().items():
                if (repository, digest) in self._pushed:
                    continue
                upload = _send(connection, ("POST", f"/v2/{repository}/blobs/uploads/"), headers, 202)
                target = urlsplit(upload["location"])
                with part.open() as body:
                    _send(
                        connection,
                        ("PUT", f"{target.path}?{target.query}&digest={digest}"),
                        {**headers, "Content-Length": str(part.size), "Content-Type": "application/octet-stream"},
                        201,
                        body,
                    )
                self._pushed.add((repository, digest))
            for node in manifest.walk():
                names = [node.digest, *(tags if node is manifest else ())]
                for name in names:
                    path = f"/v2/{repository}/manifests/{name}"
                    _send(connection, ("PUT", path), {**headers, "Content-Type": node.media_type}, 201, node.body)
        return manifest.digest

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest, with every tag that names it."""
        with contextlib.closing(self._connect()) as connection:
            path = f"/v2/{repository}/manifests/{digest}"
            _send(connection, ("DELETE", path), self._authorization(repository), 202)

    def served(self, part: str = "", method: str = "") -> list[Served]:
        """The requests answered so far whose path contains `part`; Millpond's and clients', and the harness's own.

        The registry logs a request when its answer is complete, so the last one may be a moment late.
        """
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            if '"msg":"response completed' not in line:
                continue
            entry = json.loads(line)
            served = Served(
                entry["http.request.method"],
                entry["http.request.uri"],
                int(entry["http.response.status"]),
                int(entry.get("http.response.written", 0)),
                entry.get("http.request.useragent", ""),
            )
            if part in served.path and method in ("", served.method):
                found.append(served)
        return found

    def forget(self) -> None:
        """Start `served` afresh; only while it runs. What was asked for before this is not served after it."""
        last = f"/v2/?{secrets.token_hex(8)}"
        with contextlib.closing(self._connect()) as connection:
            _send(connection, ("GET", last), self._authorization("nothing"), 200)
        wait_until(lambda: self.served(last), "the log has been written")
        with self._log.open("r+") as log:
            log.truncate(0)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}", "relativeurls": True, "secret": "kept"},
            "validation": {"manifests": {"urls": {"allow": [".*"]}}},
        }
        if self.authority:
            certificate = self.authority.issue()
            settings["http"]["tls"] = {
                "certificate": str(certificate.chain_file),
                "key": str(certificate.key_file),
            }
        if self.tokens:
            settings["auth"] = {
                "token": {
                    "realm": self.tokens.url,
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(self.tokens.root_bundle),
                }
            }
        elif self.passwords:
            passwords = self.directory / "htpasswd"
            passwords.write_text(f"{self.user}:{_HASH}\n")
            settings["auth"] = {"htpasswd": {"realm": "passwords", "path": str(passwords)}}
        return settings

    def _connect(self) -> http.client.HTTPConnection:
        if not self.authority:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT, blocksize=_BLOCK)
        context: ssl.SSLContext = self.authority.client_context()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=_TIMEOUT, blocksize=_BLOCK, context=context)

    def _authorization(self, repository: str) -> dict[str, str]:
        if self.tokens:
            return {"Authorization": f"Bearer {self.tokens.mint([(repository, ('pull', 'push', 'delete'))])}"}
        if self.passwords:
            return {"Authorization": f"Basic {base64.b64encode(f'{self.user}:{PASSWORD}'.encode()).decode()}"}
        return {}


def _send(
    connection: http.client.HTTPConnection,
    request: tuple[str, str],
    headers: dict[str, str],
    expected: int,
    body: Any = None,
) -> dict[str, str]:
    connection.request(*request, body, headers)
    response = connection.getresponse()
    answer = response.read()
    assert response.status == expected, f"{' '.join(request)}: {response.status} {answer[:500]!r}"
    return {name.lower(): value for name, value in response.getheaders()}

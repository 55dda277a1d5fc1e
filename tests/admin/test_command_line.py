"""`millpond ecr …` shows the token of its configuration, to its own server only."""

from __future__ import annotations

import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from proxy.cli.admin_api import AdminApi, ApiError
from proxy.settings import Listen
from tests.admin.conftest import TOKEN, Port
from tests.support.command import millpond

ALLOWED = "there are no ecr.targets in the configuration of this server"


def retry(config: Path, **env: str) -> str:
    """What `millpond ecr retry` ends with: the server's words, since it has no targets."""
    done = millpond("ecr", "retry", of=config, env=env)
    assert done.returncode == 2, done.stdout
    assert TOKEN not in done.stdout + done.stderr
    return done.stderr


def test_the_token_of_the_configuration_is_shown(wide_with_token: Port) -> None:
    assert ALLOWED in retry(wide_with_token.millpond.config_file)


def test_the_token_of_the_environment_is_shown(wide_with_token: Port, tmp_path: Path) -> None:
    config = tmp_path / "client.yaml"
    listen = f"127.0.0.1:{wide_with_token.millpond.admin_port}"
    config.write_text(f"admin: {{listen: '{listen}'}}\ncache: {{directory: {tmp_path}}}")
    assert ALLOWED in retry(config, MILLPOND_ADMIN__TOKEN=TOKEN)
    assert "changes need the token of this server" in retry(config)
    assert "this is not the token of this server" in retry(config, MILLPOND_ADMIN__TOKEN=TOKEN + "x")


def test_beside_a_server_without_a_token_its_pass_in_the_cache_directory_will_do(wide: Port) -> None:
    """As in a pod, whose admin port is open to probes."""
    assert ALLOWED in retry(wide.millpond.config_file)
    kept = wide.millpond.cache / "admin-token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    before = kept.read_text()
    wide.millpond.restart()
    assert kept.read_text() != before
    assert wide.error({"Authorization": f"Bearer {before}"}), "that of an earlier run is worth nothing"


def test_a_server_without_a_token_says_to_others_how_to_give_it_one(wide: Port, tmp_path: Path) -> None:
    config = tmp_path / "client.yaml"
    listen = f"127.0.0.1:{wide.millpond.admin_port}"
    config.write_text(f"admin: {{listen: '{listen}'}}\ncache: {{directory: {tmp_path}}}")
    assert "changes are off: admin.listen (0.0.0.0) is open to other machines" in retry(config)


class Elsewhere(BaseHTTPRequestHandler):
    """Sends every POST on to a GET of `/there`, and keeps what comes."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        self._keep()
        self.send_response(302)
        self.send_header("Location", "/there")
        self.end_headers()

    def do_GET(self) -> None:
        self._keep()
        self.send_error(404)

    def log_message(self, *_: object) -> None: ...

    def _keep(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))


def test_the_token_does_not_follow_a_redirect(tmp_path: Path, token_file: Path) -> None:
    """S: a server that took the place of ours cannot have the token sent on."""
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        config = tmp_path / "client.yaml"
        config.write_text(f"admin: {{listen: '127.0.0.1:{other.server_port}', token_file: '{token_file}'}}")
        assert "is no Millpond of this version (HTTP 404)" in retry(config)
        other.shutdown()
    assert Elsewhere.seen == [("/api/v1/ecr/retry", f"Bearer {TOKEN}"), ("/there", None)]


def test_a_server_that_takes_long_is_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cli.admin_api.READ_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = AdminApi(Listen("127.0.0.1", silent.getsockname()[1]), None)
        with pytest.raises(ApiError, match="has not answered within"):
            api.get("/api/v1/status")

"""Real clients with what `millpond mirror-config` installs: through Millpond, around it when it is gone, and back."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.clients.containerd import Containerd
from tests.clients.dockerd import Dockerd
from tests.clients.podman import Podman
from tests.conftest import StartMillpond
from tests.mirror.trees import command, tree, write
from tests.support import images
from tests.support.certificates import Authority
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.ports import free_port
from tests.support.programs import program, require, require_root
from tests.support.programs import run as run_program
from tests.support.registry import Registry
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

DOCKER_HUB: Final = "CONNECT registry-1.docker.io:443 HTTP/1.1"


@pytest.fixture(scope="module")
def image(plain_registry: Registry, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=71, layers=2)
    plain_registry.push(made, "library/mirrored", "1")
    return made


@pytest.fixture
def millpond(start_millpond: StartMillpond, plain_registry: Registry) -> Millpond:
    """Under its own name, which is where a client goes around Millpond, and as docker.io."""
    return start_millpond({name: plain_registry.upstream() for name in ("docker.io", plain_registry.host)})


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    require_root()
    require("containerd", "ctr")
    directory = tmp_path_factory.mktemp("containerd")
    daemon = Containerd(directory)
    yield daemon
    daemon.stop()
    shutil.rmtree(directory / "root", ignore_errors=True)


def run(*arguments: str) -> None:
    done = command(*arguments)
    assert done.exit_code == 0, done.output


def pulls(millpond: Millpond) -> int:
    """How many manifests Millpond was asked for."""
    millpond.settle_log()
    return len([line for line in millpond.log_lines() if "/manifests/" in str(line.get("path", ""))])


@pytest.mark.parametrize("there", ["nothing", "a dead mirror"])
def test_containerd_pulls_through_millpond_around_it_and_as_before(
    there: str, *, containerd: Containerd, millpond: Millpond, plain_registry: Registry, image: Manifest, tmp_path: Path
) -> None:
    directory = tmp_path / "certs.d"
    directory.mkdir()
    name = plain_registry.host.replace(":", "_") + "_"
    if there == "a dead mirror":
        text = f'server = "{plain_registry.url}"\n[host."http://127.0.0.1:{free_port()}"]\n  capabilities = ["pull"]\n'
        write(directory / name / "hosts.toml", text, 0o600)
    before = tree(directory)
    reference = f"{plain_registry.host}/library/mirrored:1"
    run("containerd", millpond.url, "--install", "--directory", str(directory), "--registry", plain_registry.host)

    with containerd.pull(reference, directory) as pulled:
        pulled.check(image)
    through = pulls(millpond)
    assert through > 0
    with plain_registry.down(), containerd.pull(reference, directory) as pulled:
        pulled.check(image)  # so it is Millpond that has answered

    millpond.terminate()
    with containerd.pull(reference, directory) as pulled:
        pulled.check(image)

    run("containerd", "--remove", "--directory", str(directory))
    assert tree(directory) == before
    with containerd.pull(reference, directory) as pulled:
        pulled.check(image)


def test_containerd_trusts_the_authority_that_is_installed_with_it(
    *,
    containerd: Containerd,
    start_millpond: StartMillpond,
    plain_registry: Registry,
    authority: Authority,
    image: Manifest,
    tmp_path: Path,
) -> None:
    certificate = authority.issue()
    tls = {"cert_file": str(certificate.chain_file), "key_file": str(certificate.key_file)}
    secured = start_millpond({plain_registry.host: plain_registry.upstream()}, registry={"tls": tls})
    ca = write(tmp_path / "ca.pem", authority.ca_file.read_bytes())
    directory = tmp_path / "certs.d"
    arguments = ["--directory", str(directory), "--registry", plain_registry.host, "--ca-file", str(ca)]
    run("containerd", secured.url, "--install", *arguments)
    ca.unlink()  # as on a node, that has the copy only
    reference = f"{plain_registry.host}/library/mirrored:1"
    with containerd.pull(reference, directory):
        pass
    with plain_registry.down(), containerd.pull(reference, directory) as pulled:
        pulled.check(image)
    run("containerd", "--remove", "--directory", str(directory))
    assert not directory.exists()


@pytest.mark.parametrize("kind", ["empty", "key"])
def test_what_is_no_authority_is_refused_before_it_breaks_the_way_around_millpond(
    kind: str,
    *,
    containerd: Containerd,
    plain_registry: Registry,
    authority: Authority,
    image: Manifest,
    tmp_path: Path,
) -> None:
    ca = write(tmp_path / "ca.pem", "" if kind == "empty" else authority.issue().key_file.read_text())
    directory = tmp_path / "certs.d"
    arguments = ["--directory", str(directory), "--registry", plain_registry.host, "--ca-file", str(ca)]
    done = command("containerd", "https://127.0.0.1:1", "--install", *arguments)
    directory.mkdir(exist_ok=True)
    with containerd.pull(f"{plain_registry.host}/library/mirrored:1", directory) as pulled:
        pulled.check(image)
    assert done.exit_code == 2
    assert "PRIVATE KEY" not in str(tree(directory))


class _Podman(Podman):
    """With `directory` for its /etc/containers, which a mount shows to it alone."""

    def __init__(self, own: Path, directory: Path, internet: _Internet) -> None:
        super().__init__(own, "unused")
        self._etc = directory
        self._internet = internet

    def podman(self, *arguments: str) -> str:
        mounted = f'mount --bind "{self._etc}" /etc/containers && exec "$@"'
        podman = [program("podman"), "--events-backend=none", *arguments]
        return run_program([program("unshare"), "--mount", "sh", "-c", mounted, "sh", *podman], env=self._environment())

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in super()._environment().items() if key != "CONTAINERS_REGISTRIES_CONF"}
        return {**kept, "HTTPS_PROXY": self._internet.url, "NO_PROXY": "127.0.0.1"}


class _Internet:
    """Stands for the way to Docker Hub: a proxy that notes where clients want to go, and lets nobody through."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self.asked.append(connection.recv(4096).decode(errors="replace").partition("\r\n")[0])
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture
def internet() -> Iterator[_Internet]:
    made = _Internet()
    yield made
    made.close()


def test_podman_pulls_through_millpond_around_it_and_as_before(
    millpond: Millpond, plain_registry: Registry, image: Manifest, internet: _Internet, tmp_path: Path
) -> None:
    require_root()
    require("podman", "unshare")
    directory = tmp_path / "containers"
    write(directory / "registries.conf", 'short-name-mode = "disabled"\n')
    before = tree(directory)
    podman = _Podman(tmp_path / "podman", directory, internet)
    reference = "docker.io/library/mirrored:1"
    run("podman", millpond.url, "--install", "--directory", str(directory))

    assert podman.pull(reference)["Digest"] == image.digest
    assert pulls(millpond) > 0
    podman.remove_all()
    with plain_registry.down():
        assert podman.pull(reference)["Digest"] == image.digest
    podman.remove_all()
    assert not internet.asked

    millpond.terminate()
    with pytest.raises(AssertionError):
        podman.pull(reference)
    assert DOCKER_HUB in internet.asked

    millpond.start()
    run("podman", "--remove", "--directory", str(directory))
    assert tree(directory) == before
    internet.asked.clear()
    with pytest.raises(AssertionError):
        podman.pull(reference)
    assert DOCKER_HUB in internet.asked


def test_dockerd_pulls_through_millpond_around_it_and_as_before(
    *,
    millpond: Millpond,
    plain_registry: Registry,
    image: Manifest,
    tmp_path: Path,
    internet: _Internet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_root()
    require("dockerd", "docker")
    monkeypatch.setattr("tests.clients.dockerd._NO_WAY_OUT", {"HTTPS_PROXY": internet.url, "NO_PROXY": "127.0.0.1"})
    daemon = Dockerd(tmp_path / "docker")
    file = tmp_path / "docker" / "daemon.json"
    try:
        write(file, '{"debug":false,  "registry-mirrors":[]}', 0o600)
        run("docker", millpond.url, "--install", "--directory", str(file.parent))
        _reload(daemon, mirrors=[f"{millpond.url}/"])
        assert daemon.pull("mirrored:1") == image.digest
        assert pulls(millpond) > 0
        daemon.remove("mirrored:1")
        with plain_registry.down():
            assert daemon.pull("mirrored:1") == image.digest
        daemon.remove("mirrored:1")
        assert not internet.asked

        millpond.terminate()
        with pytest.raises(AssertionError):
            daemon.pull("mirrored:1")
        assert DOCKER_HUB in internet.asked

        run("docker", "--remove", "--directory", str(file.parent))
        assert file.read_text() == '{"debug":false,  "registry-mirrors":[]}'
        _reload(daemon, mirrors=[])
    finally:
        daemon.stop()


def _reload(daemon: Dockerd, mirrors: list[str]) -> None:
    """As `systemctl reload docker` does, and wait until it is so."""
    daemon._process.send(signal.SIGHUP)

    def reloaded() -> bool:
        found = json.loads(daemon.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}"))
        return (found or []) == mirrors

    wait_until(reloaded, f"dockerd has {mirrors}")

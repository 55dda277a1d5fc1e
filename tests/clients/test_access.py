"""Real clients log in, each in its own way, and see why they may not pull."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Shelf
from tests.clients.containerd import Containerd
from tests.clients.dockerd import Dockerd
from tests.clients.podman import Podman, check_directory
from tests.conftest import StartMillpond
from tests.edge.access import TOKEN, basic, htpasswd
from tests.support.millpond import Millpond
from tests.support.programs import require, require_root
from tests.support.registry import Registry

pytestmark = pytest.mark.clients

PASSWORD = "planted-password-of-alice"
REASON = "use an image of the platform team"


@pytest.fixture
def guarded(
    start_millpond: StartMillpond, plain_registry: Registry, shelf: Shelf, tmp_path: Path
) -> Iterator[Millpond]:
    """Only alice, with a password, and node, with a token, may pull; and nobody `forty`."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"node:{TOKEN}\n")
    made = start_millpond(
        {"docker.io": plain_registry.upstream()},
        access={
            "htpasswd_file": htpasswd(tmp_path / "htpasswd", {"alice": PASSWORD}),
            "tokens_file": str(tokens),
            "rules": [
                {"action": "deny", "repositories": ["docker.io/library/forty"], "reason": REASON},
                {"action": "allow", "users": ["alice", "node"]},
            ],
            "max_pulls": 2,
        },
    )
    yield made
    made.settle_log(basic("alice", PASSWORD))
    for secret in (PASSWORD, TOKEN, basic("alice", PASSWORD)["Authorization"]):
        assert secret not in made.log_text()


def _users(millpond: Millpond) -> set[str]:
    """Who has been served blobs."""
    millpond.settle_log(basic("alice", PASSWORD))
    return {line.get("user", "") for line in millpond.log_lines(kind="blobs", status=200)}


def test_docker_logs_in_and_pulls(guarded: Millpond, shelf: Shelf, tmp_path: Path) -> None:
    require_root()
    require("dockerd", "docker")
    own = ("--config", str(tmp_path / "docker-config"))
    name = f"{guarded.host}/docker.io/library"
    daemon = Dockerd(tmp_path / "docker")
    try:
        with pytest.raises(AssertionError, match="no basic auth credentials"):
            daemon.docker(*own, "pull", f"{name}/several:1")
        with pytest.raises(AssertionError, match="401 Unauthorized"):
            daemon.docker(*own, "login", "-u", "alice", "-p", "wrong", guarded.host)
        assert "Login Succeeded" in daemon.docker(*own, "login", "-u", "alice", "-p", PASSWORD, guarded.host)
        daemon.docker(*own, "pull", f"{name}/several:1")
        assert daemon.config_digest(f"{name}/several:1") == shelf.amd64.blobs[0].digest
        with pytest.raises(AssertionError, match=REASON):
            daemon.docker(*own, "pull", f"{name}/forty:1")
    finally:
        daemon.stop()
    assert _users(guarded) == {"alice"}


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", basic("node", TOKEN)["Authorization"]])
def test_containerd_pulls_with_a_header_in_its_hosts_file(
    guarded: Millpond, containerd: Containerd, shelf: Shelf, value: str
) -> None:
    hosts = containerd.hosts(guarded.url)
    with pytest.raises(AssertionError, match="images pull"):
        containerd.pull("docker.io/library/several:1", hosts).__enter__()
    guarded.settle_log(basic("alice", PASSWORD))
    assert guarded.log_lines(event="served", status=401)
    with (hosts / "docker.io" / "hosts.toml").open("a") as file:
        file.write(f'[host."{guarded.url}".header]\n  Authorization = "{value}"\n')
    with containerd.pull("docker.io/library/several:1", hosts) as pulled:
        pulled.check(shelf.several, shelf.amd64)
    assert _users(guarded) == {"node"}


def test_containerd_goes_on_to_its_next_host_when_it_is_denied(
    guarded: Millpond, containerd: Containerd, plain_registry: Registry, shelf: Shelf
) -> None:
    hosts = containerd.hosts(guarded.url)
    file = hosts / "docker.io" / "hosts.toml"
    lines = file.read_text().splitlines()
    lines[0] = f'server = "{plain_registry.url}"'
    file.write_text("\n".join(lines) + f'\n[host."{guarded.url}".header]\n  Authorization = "Bearer {TOKEN}"\n')
    with containerd.pull("docker.io/library/forty:1", hosts) as pulled:
        pulled.check(shelf.forty)
    guarded.settle_log(basic("alice", PASSWORD))
    assert REASON in guarded.log_lines(event="served", status=403, user="node")[0]["why"]


@pytest.fixture
def podman(tmp_path: Path, guarded: Millpond) -> Podman:
    require_root()
    require("podman", "skopeo")
    return Podman(tmp_path / "podman", f"{guarded.host}/docker.io")


def test_podman_pulls_with_creds_and_by_its_file_of_logins(guarded: Millpond, podman: Podman, shelf: Shelf) -> None:
    name = f"{guarded.host}/docker.io/library"
    policy = ("--signature-policy", str(podman._policy))
    pull = ("pull", "--quiet", "--tls-verify=false", *policy)
    with pytest.raises(AssertionError, match=r"authentication required|unauthorized"):
        podman.podman(*pull, f"{name}/several:1")
    podman.podman(*pull, "--creds", f"alice:{PASSWORD}", f"{name}/several:1")
    podman.remove_all()
    with pytest.raises(AssertionError, match=REASON):
        podman.podman(*pull, "--creds", f"alice:{PASSWORD}", f"{name}/forty:1")
    # As a mirror: what CRI-O and podman find in auth.json for the mirror's address.
    login = base64.b64encode(f"node:{TOKEN}".encode()).decode()
    podman._credentials.write_text(json.dumps({"auths": {guarded.host: {"auth": login}}}))
    assert podman.pull("docker.io/library/several:1")["Digest"] == shelf.several.digest
    assert _users(guarded) == {"alice", "node"}


def test_skopeo_copies_and_lists_with_credentials(
    guarded: Millpond, podman: Podman, shelf: Shelf, tmp_path: Path
) -> None:
    source = f"docker://{guarded.host}/docker.io/library/several:1"
    copy = ("copy", "--all", "--preserve-digests", "--src-tls-verify=false")
    with pytest.raises(AssertionError, match=r"authentication required|unauthorized"):
        podman.skopeo(*copy, source, f"dir:{tmp_path / 'none'}")
    podman.skopeo(*copy, "--src-creds", f"alice:{PASSWORD}", source, f"dir:{tmp_path / 'by-password'}")
    podman.skopeo(*copy, "--src-creds", f"node:{TOKEN}", source, f"dir:{tmp_path / 'by-token'}")
    for target in ("by-password", "by-token"):
        check_directory(tmp_path / target, shelf.several)
    listed = podman.skopeo("list-tags", "--tls-verify=false", "--creds", f"node:{TOKEN}", source.rpartition(":")[0])
    assert "1" in json.loads(listed)["Tags"]
    assert _users(guarded) == {"alice", "node"}

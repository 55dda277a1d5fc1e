"""What is printed: the files of config/clients, for any address, registry and authority."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.mirror import Address, Registry
from tests.mirror.trees import BUILT_IN, MILLPOND, command, made
from tests.support.certificates import Authority

FILES: Final = Path(__file__).parents[2] / "config" / "clients"
TLS: Final = "https://mirror.example.com"


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["docker"], "docker/daemon.json"),
        (["podman"], "podman/registries.conf"),
        (["k3s"], "k3s/registries.yaml"),
        (["buildkit"], "buildkit/buildkitd.toml"),
        *((["containerd", "--registry", name], f"containerd/{name}/hosts.toml") for name in (*BUILT_IN, "_default")),
    ],
)
def test_what_is_printed_is_the_file_in_config_clients(arguments: list[str], file: str) -> None:
    client, *options = arguments
    done = command(client, MILLPOND, *options)
    assert (done.exit_code, done.stdout) == (0, (FILES / file).read_text())


def test_every_file_in_config_clients_is_printed_by_the_command() -> None:
    assert sorted(str(file.relative_to(FILES)) for file in FILES.rglob("*") if file.is_file()) == sorted(
        [
            "docker/daemon.json",
            "podman/registries.conf",
            "k3s/registries.yaml",
            "buildkit/buildkitd.toml",
            *(f"containerd/{name}/hosts.toml" for name in (*BUILT_IN, "_default")),
        ]
    )


def test_all_hosts_files_are_printed_one_after_the_other() -> None:
    done = command("containerd", MILLPOND)
    assert done.stdout == "\n".join((FILES / "containerd" / name / "hosts.toml").read_text() for name in BUILT_IN)


def test_the_registries_are_those_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "millpond.yaml"
    file.write_text(
        yaml.safe_dump(
            {"upstreams": {"quay.io": None, "docker.io": {"url": "https://hub.example.com"}, "own.test": {}}}
        )
    )
    done = command("containerd", MILLPOND, "--config", str(file))
    servers = [line for line in done.stdout.splitlines() if line.startswith("server")]
    # Not hub.example.com, which is how Millpond gets there: without Millpond a node goes to the registry itself.
    assert servers == [
        'server = "https://registry-1.docker.io"',
        'server = "https://ghcr.io"',
        'server = "https://registry.k8s.io"',
        'server = "https://own.test"',
    ]


def test_a_registry_may_be_named_with_its_url_where_the_configuration_is_not_at_hand() -> None:
    done = command("containerd", MILLPOND, "--registry", "reg.corp:5000=http://reg.corp:5000")
    assert 'server = "http://reg.corp:5000"' in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "url", "server"),
    [
        ("docker.io", None, "https://registry-1.docker.io"),
        ("own.test:5000", None, "https://own.test:5000"),
        ("own.test:5000", "http://own.test:5000", "http://own.test:5000"),
        ("own.test", "https://own.test/path", "https://own.test"),
        ("localhost:5000", None, "http://localhost:5000"),
        ("127.0.0.1:5000", None, "http://127.0.0.1:5000"),
        ("_default", None, None),
    ],
)
def test_the_way_around_millpond_is_where_the_client_went_before(
    name: str, url: str | None, server: str | None
) -> None:
    assert Registry.parse(name, url).server == server


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:5000",
        "ftp://127.0.0.1",
        "http://",
        "http://me:secret@host",
        "http://host/path",
        "http://host?x=1",
        "http://host:0",
        "http://host:65536",
        "http://[::x]:5000",
        'http://host"]\nserver = "http://evil',
        "http://host name",
    ],
)
def test_an_address_that_could_break_out_of_a_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address; write http:// or https://"):
        Address.parse(text)


@pytest.mark.parametrize("name", ["../etc", "a/b", "", ".", 'x"]', "a\nb", "docker.io:99999", "_other", "Docker.io"])
def test_a_registry_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a registry"):
        Registry.parse(name)


def test_addresses_are_taken_with_ports_and_as_numbers() -> None:
    assert Address.parse("HTTP://Mirror.Example.com:80/").url == "http://mirror.example.com:80"
    assert Address.parse("https://[fd00::1]:5000").host == "[fd00::1]:5000"


def test_a_port_is_written_as_containerd_looks_for_it_unless_the_other_way_is_there(tmp_path: Path) -> None:
    (plain,) = made("containerd", tmp_path, "own.test:5000").pieces
    assert plain.path == "own.test_5000_/hosts.toml"
    (tmp_path / "own.test:5000").mkdir()
    (plain,) = made("containerd", tmp_path, "own.test:5000").pieces
    assert plain.path == "own.test:5000/hosts.toml"


def _texts(client: str, authority: Authority, directory: Path) -> dict[str, Any]:
    """The content of each file by its path, for TLS with an authority; parsed where it is text."""
    found: dict[str, Any] = {}
    for piece in made(client, directory, "docker.io", address=TLS, ca=authority.ca_file).pieces:
        data = piece.into(None).data
        if piece.printed is None:
            found[piece.path] = data
        elif piece.path.endswith((".toml", ".conf")):
            found[piece.path] = tomllib.loads(data.decode())
        else:
            found[piece.path] = json.loads(data) if piece.path.endswith(".json") else yaml.safe_load(data)
    return found


def test_with_tls_nothing_is_insecure_and_the_authority_is_where_the_client_looks(
    authority: Authority, tmp_path: Path
) -> None:
    ca = authority.ca_file.read_bytes()
    assert _texts("containerd", authority, tmp_path) == {
        "docker.io/millpond-ca.pem": ca,
        "docker.io/hosts.toml": {
            "server": "https://registry-1.docker.io",
            "host": {TLS: {"capabilities": ["pull", "resolve"], "ca": "millpond-ca.pem", "dial_timeout": "3s"}},
        },
    }
    assert _texts("docker", authority, tmp_path) == {
        "certs.d/mirror.example.com/ca.crt": ca,
        "daemon.json": {"registry-mirrors": [TLS]},
    }
    assert _texts("podman", authority, tmp_path) == {
        "certs.d/mirror.example.com/ca.crt": ca,
        "registries.conf.d/millpond.conf": {
            "registry": [
                {
                    "prefix": "docker.io",
                    "location": "docker.io",
                    "mirror": [{"location": "mirror.example.com/docker.io"}],
                }
            ]
        },
    }
    assert _texts("k3s", authority, tmp_path) == {
        "registries.yaml": {
            "mirrors": {"docker.io": {"endpoint": [TLS]}},
            "configs": {"mirror.example.com": {"tls": {"ca_file": str(authority.ca_file)}}},
        }
    }
    assert _texts("buildkit", authority, tmp_path) == {
        "buildkitd.toml": {
            "registry": {
                "docker.io": {"mirrors": ["mirror.example.com"]},
                "mirror.example.com": {"ca": [str(authority.ca_file)]},
            }
        }
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["docker", MILLPOND, "--registry", "ghcr.io"], "Docker uses a mirror for docker.io only"),
        (["podman", MILLPOND, "--registry", "_default"], "podman has none"),
        (["podman", MILLPOND, "--registry", "own.test:5000"], "where no port can stand: own.test:5000"),
        (["containerd", MILLPOND, "--ca-file", "/dev/null"], "with https:// only"),
        (["containerd", "5000"], "'5000' is not an address"),
        (["containerd"], "name the ADDRESS of Millpond"),
        (["containerd", MILLPOND, "--install", "--remove"], "exclude each other"),
        (["containerd", MILLPOND, "--watch"], "--watch goes with --install"),
        (["containerd", MILLPOND, "--install", "--remove-on-exit"], "--remove-on-exit goes with --watch"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.split())


def test_podman_gets_the_others_where_one_registry_has_a_port(tmp_path: Path) -> None:
    planned = made("podman", tmp_path, "docker.io", "own.test:5000")
    assert planned.remarks() == [
        "own.test:5000: left out, since podman puts the name into a path, where no port can stand"
    ]
    assert "own.test" not in str(planned.pieces[0].printed)


def test_docker_is_refused_where_a_name_without_a_registry_is_not_docker_hub(tmp_path: Path) -> None:
    file = tmp_path / "millpond.yaml"
    file.write_text("default_upstream: quay.io")
    done = command("docker", MILLPOND, "--config", str(file))
    assert done.exit_code == 2
    assert "default_upstream is quay.io" in done.stderr

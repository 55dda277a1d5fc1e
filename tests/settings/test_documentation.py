"""What is written down is what the program does: millpond.yaml, the clients' files, README, CONTRIBUTING, the locks."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy.settings import Settings, load
from proxy.settings.base import Section
from proxy.settings.defaults import BUILT_IN

ROOT: Final = Path(__file__).parents[2]
CLIENTS: Final = ROOT / "config" / "clients"
ADDRESS: Final = "127.0.0.1:5000"
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _keys(section: type[Section], above: str = "") -> Iterator[str]:
    """Every key of the settings, with the names of upstreams and the indices of lists left out."""
    for name, field in section.model_fields.items():
        inner = next(_sections(field.annotation), None)
        yield f"{above}{name}"
        if inner:
            yield from _keys(inner, f"{above}{name}.")


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _written_keys(tree: Any, above: str = "") -> Iterator[str]:
    """The same of a document; the names of upstreams are not keys."""
    if above == "upstreams.":
        tree = list(tree.values())
    for item in tree if isinstance(tree, list) else [tree]:
        for key, value in item.items() if isinstance(item, dict) else ():
            yield f"{above}{key}"
            yield from _written_keys(value, f"{above}{key}.")


def _with_optional_keys() -> dict[str, Any]:
    """millpond.yaml with the keys that are off by default turned on."""
    text = (ROOT / "config" / "millpond.yaml").read_text()
    text = text.replace("  targets: []\n", "")
    document = yaml.safe_load(re.sub(r"^#(?!#)", "", text, flags=re.MULTILINE))
    assert isinstance(document, dict)
    return document


def test_millpond_yaml_holds_exactly_the_defaults() -> None:
    assert load(ROOT / "config" / "millpond.yaml", {}) == load(None, {})


def test_millpond_yaml_has_every_key_and_no_other() -> None:
    documented = set(_written_keys(_with_optional_keys()))
    assert documented == set(_keys(Settings)) - {
        "upstreams.password",
        "admin.token",
        "ecr.balancer_password",
    }  # which a file may not hold


def test_the_optional_keys_of_millpond_yaml_are_the_defaults_too(tmp_path: Path) -> None:
    document = _with_optional_keys()
    (target,) = document["ecr"]["targets"]
    minimal = {key: target[key] for key in ("name", "account", "region")}
    full, short = tmp_path / "full.yaml", tmp_path / "short.yaml"
    full.write_text(yaml.safe_dump({"ecr": {"targets": [target]}}))
    short.write_text(yaml.safe_dump({"ecr": {"targets": [minimal]}}))
    assert load(full, {}) == load(short, {})
    assert document["registry"]["tls"]["client_ca_file"] is None


def test_the_configurations_in_the_readme_are_accepted(tmp_path: Path) -> None:
    texts = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "docker-hub").write_text("x")
    (tmp_path / "millpond").mkdir()
    (tmp_path / "millpond" / "tokens").write_text("ci:0123456789abcdef\n")
    file = tmp_path / "millpond.yaml"
    file.write_text("".join(texts).replace("/run/secrets", str(tmp_path)))
    settings = load(file, {})
    assert "quay.io" not in settings.upstreams
    assert [target.name for target in settings.ecr.targets] == ["dev", "prod"]


def test_the_readme_says_only_two_commands_to_run_and_to_test() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"make (\w+)", text)) == {"serve", "test"}


@pytest.mark.parametrize("upstream", [*BUILT_IN, "_default"])
def test_containerd_has_a_hosts_file_that_keeps_the_upstream(upstream: str) -> None:
    hosts = tomllib.loads((CLIENTS / "containerd" / upstream / "hosts.toml").read_text())
    assert hosts.get("server") == (None if upstream == "_default" else BUILT_IN[upstream]["url"])
    assert list(hosts["host"]) == [f"http://{ADDRESS}"]
    assert hosts["host"][f"http://{ADDRESS}"]["capabilities"] == ["pull", "resolve"]


def test_docker_has_a_mirror() -> None:
    daemon = json.loads((CLIENTS / "docker" / "daemon.json").read_text())
    assert daemon == {"registry-mirrors": [f"http://{ADDRESS}"], "insecure-registries": [ADDRESS]}


def test_podman_names_the_upstream_in_the_path() -> None:
    registries = tomllib.loads((CLIENTS / "podman" / "registries.conf").read_text())["registry"]
    assert [registry["prefix"] for registry in registries] == list(BUILT_IN)
    for registry in registries:
        assert registry["location"] == registry["prefix"]
        assert registry["mirror"] == [{"location": f"{ADDRESS}/{registry['prefix']}", "insecure": True}]


def test_k3s_has_an_endpoint_for_each_upstream() -> None:
    mirrors = yaml.safe_load((CLIENTS / "k3s" / "registries.yaml").read_text())["mirrors"]
    assert mirrors == {upstream: {"endpoint": [f"http://{ADDRESS}"]} for upstream in BUILT_IN}


def test_buildkit_has_a_mirror_for_each_upstream() -> None:
    registries = tomllib.loads((CLIENTS / "buildkit" / "buildkitd.toml").read_text())["registry"]
    assert registries.pop(ADDRESS) == {"http": True}
    assert registries == {upstream: {"mirrors": [ADDRESS]} for upstream in BUILT_IN}


def test_every_file_for_clients_is_explained() -> None:
    text = (ROOT / "config" / "README.md").read_text()
    files = [file for file in CLIENTS.rglob("*") if file.is_file()]
    assert len(files) == 9
    for file in files:
        name = "clients/containerd/*" if file.name == "hosts.toml" else str(file.relative_to(ROOT / "config"))
        assert f"`{name}`" in text


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
def test_every_dependency_has_its_reason_in_contributing(requirement: str) -> None:
    assert f"`{Requirement(requirement).name}`" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("file", "requirements"),
    [
        ("requirements.lock", PROJECT["dependencies"]),
        ("requirements-dev.lock", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]),
    ],
)
def test_a_lock_file_satisfies_the_project_by_hash_and_names_no_index(file: str, requirements: list[str]) -> None:
    text = (ROOT / file).read_text()
    assert "://" not in text
    assert "--index" not in text
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;]+)[^\n]*\\\n((?: +--hash=sha256:[0-9a-f]{64}[ \\]*\n)+)", text, re.MULTILINE
    )
    locked = {canonicalize_name(name): version for name, version, _ in pins}
    assert len(locked) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), "a package has no hash"
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_both_lock_files_agree() -> None:
    pins = [
        dict(re.findall(r"^(\S+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    ]
    assert pins[0].items() <= pins[1].items()

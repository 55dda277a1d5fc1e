"""What containerd's own configuration must say, in each form that it has."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from proxy.mirror import ConfigPath, config_path, default_config, default_root
from tests.mirror.trees import write
from tests.support.programs import program, require, run

V2: Final = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{}"\n'
V3: Final = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{}'\n"
STANDARD: Final = "/etc/containerd/certs.d"
LIST: Final = f"{STANDARD}:/etc/docker/certs.d"


def look(root: Path) -> ConfigPath:
    """As the node mirror looks, with the node's / at `root`."""
    directory = root / "etc/containerd/certs.d"
    return config_path(default_config(directory), directory, default_root(directory))


def test_the_nodes_root_is_found_by_the_standard_folder() -> None:
    assert default_root(Path("/host/etc/containerd/certs.d")) == Path("/host")
    assert default_root(Path("/etc/containerd/certs.d")) == Path("/")
    assert default_root(Path("/host/var/lib/rancher/k3s/agent/etc/certs.d")) == Path("/")


@pytest.mark.parametrize(
    "text",
    [
        V2.format(STANDARD),
        V2.format(f"{STANDARD}/"),
        V2.format(LIST),
        V3.format(STANDARD),
        V3.format(STANDARD).replace("version = 3", "version = 4"),
        V3.format(LIST) + "[plugins.'io.containerd.cri.v1.images']\ndiscard_unpacked_layers = true\n",
        f'[plugins.cri.registry]\nconfig_path = "{STANDARD}"\n',
    ],
)
def test_each_form_that_names_the_folder_is_well(text: str, tmp_path: Path) -> None:
    write(tmp_path / "etc/containerd/config.toml", text)
    assert look(tmp_path).ok, look(tmp_path).detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not set config_path; write"),
        ("version = 2\n", "does not set config_path; write"),
        (V2.format(""), "does not set config_path; write"),
        (V2.format("/etc/docker/certs.d"), "sets config_path to /etc/docker/certs.d; install there, with --directory"),
        (V2.format(STANDARD).replace("= 2", "= 3"), 'where version 3 has it, only for "io.containerd.grpc.v1.cri"'),
        (V3.format(STANDARD).replace("= 3", "= 2"), 'where version 2 has it, only for "io.containerd.cri.v1.images"'),
        (V3.format(LIST), "takes for the name of one folder (containerd issue 12415)"),
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["x"]\n',
            "has registry.mirrors, which containerd does not take together with config_path",
        ),
        ("[", "cannot be read"),
        ('version = 2\nimports = ["/etc/containerd/gone.toml"]\n', "gone.toml is not there"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(text: str, says: str, tmp_path: Path) -> None:
    write(tmp_path / "etc/containerd/config.toml", text)
    found = look(tmp_path)
    assert not found.ok
    assert says in found.detail


def test_a_configuration_that_is_not_there_is_said(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert not found.ok
    assert "config.toml is not there; write it with" in found.detail


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_it_says_to_write_is_what_it_wants(version: int, tmp_path: Path) -> None:
    file = write(tmp_path / "etc/containerd/config.toml", f"version = {version}\n")
    lines = re.search(r"write into it\n(.*)\nand restart", look(tmp_path).detail, re.DOTALL)
    assert lines
    file.write_text(f"version = {version}\n{lines[1]}\n")
    assert look(tmp_path).ok


@pytest.mark.parametrize("pattern", ["/etc/containerd/conf.d/*.toml", "conf.d/*.toml", "conf.d/one.toml"])
def test_imports_are_followed_below_the_nodes_root(pattern: str, tmp_path: Path) -> None:
    write(tmp_path / "etc/containerd/config.toml", f'version = 2\nimports = ["{pattern}"]\n')
    write(tmp_path / "etc/containerd/conf.d/one.toml", V2.format(STANDARD))
    assert look(tmp_path).ok


def test_an_import_that_replaces_the_section_is_said(tmp_path: Path) -> None:
    write(tmp_path / "etc/containerd/config.toml", f'imports = ["more.toml"]\n{V2.format(STANDARD)}')
    write(tmp_path / "etc/containerd/more.toml", 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nx = 1\n')
    assert "because an imported file replaces the section" in look(tmp_path).detail


CONFIGURATIONS: Final = {
    "set": (V2.format(STANDARD), ""),
    "unset": ("version = 2\n", ""),
    "imported": ("version = 2\n", V2.format(STANDARD)),
    "overruled": (V2.format(STANDARD), V2.format("/elsewhere")),
    "corrected": (V2.format("/elsewhere"), V2.format(STANDARD)),
    "replaced": (V2.format(STANDARD), 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nenable_selinux = true\n'),
    "another plugin": (V2.format(STANDARD), 'version = 2\n[plugins."io.containerd.gc.v1.scheduler"]\nx = 1\n'),
}


@pytest.mark.clients
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_containerd_itself_says_the_same_of_its_configuration(name: str, tmp_path: Path) -> None:
    require("containerd")
    main, imported = CONFIGURATIONS[name]
    directory = tmp_path / "certs.d"
    file = write(
        tmp_path / "config.toml",
        f"imports = [{json.dumps(str(tmp_path / 'more.toml'))}]\n{main}".replace(STANDARD, str(directory)),
    )
    write(tmp_path / "more.toml", (imported or "version = 2\n").replace(STANDARD, str(directory)))
    dump = tomllib.loads(run([program("containerd"), "--config", str(file), "config", "dump"]))
    effective = dump["plugins"]["io.containerd.grpc.v1.cri"]["registry"]["config_path"]
    assert config_path(file, directory, Path("/")).ok == (effective == str(directory))

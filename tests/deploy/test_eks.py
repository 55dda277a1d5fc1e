"""The page for AWS: what it tells a new user to write and to run is there, and does what it says."""

from __future__ import annotations

import email
import json
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml

from proxy.cli import main
from tests.deploy import helm
from tests.deploy.generate import CHART
from tests.support.programs import require, run

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "deploy/eks.md"
TEXT: Final = PAGE.read_text()
BLOCKS: Final = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
ADDRESS: Final = "http://10.100.0.50:5000"
IMAGE: Final = "nginx:1.27"


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def objects() -> list[dict[str, Any]]:
    return [document for text in blocks("yaml") for document in yaml.safe_load_all(text)]


def values() -> list[dict[str, Any]]:
    """What is no Kubernetes object is for the chart."""
    return [document for document in objects() if "kind" not in document]


def first_values() -> dict[str, Any]:
    """values.yaml of the page's first section."""
    (text,) = [text for text in blocks("yaml") if text.startswith("# values.yaml")]
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def hosts_files(text: str) -> dict[str, dict[str, Any]]:
    """Each file that `mirror-config containerd` prints, by its registry."""
    parts = re.split(r"^# /etc/containerd/certs\.d/(\S+)/hosts\.toml$", text, flags=re.MULTILINE)[1:]
    return {name: tomllib.loads(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def wanted() -> dict[str, dict[str, Any]]:
    return hosts_files(run([sys.executable, "-m", "proxy.cli", "mirror-config", "containerd", ADDRESS]))


def mime(kind: str) -> str:
    (text,) = blocks("mime")
    (part,) = [part for part in email.message_from_string(text).walk() if part.get_content_type() == kind]
    payload = part.get_payload()
    assert isinstance(payload, str)
    return payload


def commands() -> list[list[str]]:
    """Every command of the page: of its console blocks, and those of `millpond` in its sentences."""
    shown = [line[2:] for text in blocks("console") for line in text.splitlines() if line.startswith("$ ")]
    said = re.findall(r"`((?:millpond|kubectl|helm) [^`]+)`", TEXT)
    return [part for line in shown + said for part in _pipeline(shlex.split(line, comments=True))]


def _pipeline(words: list[str]) -> list[list[str]]:
    for index, word in enumerate(words):
        if word in {"|", ">"}:
            return [words[:index], *(_pipeline(words[index + 1 :]) if word == "|" else [])]
    return [words]


def millpond_commands() -> list[list[str]]:
    ours = [words[words.index("--") + 1 :] for words in commands() if "--" in words]
    return [words for words in [*ours, *commands()] if words and words[0] == "millpond"]


def test_every_block_is_what_it_says_it_is() -> None:
    assert {kind for kind, _ in BLOCKS} == {"console", "hcl", "json", "mime", "toml", "yaml"}
    for text in blocks("toml"):
        tomllib.loads(text)
    for text in blocks("json"):
        json.loads(text)
    assert len(objects()) == len(blocks("yaml")), "one document a block"


@pytest.mark.parametrize("chosen", values(), ids="-".join)
def test_the_chart_takes_all_values(chosen: dict[str, Any]) -> None:
    require("helm")
    assert helm.render(chosen)


def test_the_first_values_give_nodes_the_file_that_the_page_shows(tmp_path: Path) -> None:
    require("helm")
    rendered = helm.render(first_values())
    arguments = helm.container(helm.one(rendered, "DaemonSet", "-node-mirror"))["args"]
    assert arguments[:3] == ["mirror-config", "containerd", ADDRESS]
    (claim,) = helm.one(rendered, "StatefulSet")["spec"]["volumeClaimTemplates"]
    (storage,) = [item for item in objects() if item.get("kind") == "StorageClass"]
    assert claim["spec"]["storageClassName"] == storage["metadata"]["name"]
    run([sys.executable, "-m", "proxy.cli", *arguments[:3], "--install", "--directory", str(tmp_path)])
    shown = next(text for text in blocks("toml") if text.startswith("# /etc/containerd"))
    assert hosts_files(shown)["docker.io"] == tomllib.loads((tmp_path / "docker.io/hosts.toml").read_text())


def test_the_user_data_of_al2023_writes_what_millpond_would(tmp_path: Path) -> None:
    script = mime("text/x-shellscript").replace("/etc/containerd/certs.d", str(tmp_path))
    subprocess.run(["/bin/bash", "-c", script], check=True, timeout=20)
    written = {file.parent.name: tomllib.loads(file.read_text()) for file in tmp_path.glob("*/hosts.toml")}
    assert written == wanted()


def test_its_node_config_names_containerds_folder() -> None:
    config = yaml.safe_load(mime("application/node.eks.aws"))
    assert (config["apiVersion"], config["kind"]) == ("node.eks.aws/v1alpha1", "NodeConfig")
    table = tomllib.loads(config["spec"]["containerd"]["config"])
    registry = table["plugins"]["io.containerd.cri.v1.images"]["registry"]
    assert registry == {"config_path": "/etc/containerd/certs.d"}


def test_bottlerockets_settings_name_the_same_registries() -> None:
    settings = [tomllib.loads(text) for text in blocks("toml") if "settings.container-registry" in text]
    (node_class,) = [item for item in objects() if item.get("kind") == "EC2NodeClass"]
    (whole,) = settings
    mirrors = whole["settings"]["container-registry"]["mirrors"]
    assert {mirror["registry"] for mirror in mirrors} == set(wanted())
    short = tomllib.loads(node_class["spec"]["userData"])["settings"]["container-registry"]["mirrors"]
    assert [mirror for mirror in mirrors if mirror in short] == short
    assert {tuple(mirror["endpoint"]) for mirror in mirrors} == {(ADDRESS,)}


def test_dockers_keys_are_what_millpond_prints() -> None:
    (shown,) = blocks("json")
    address = json.loads(shown)["registry-mirrors"][0]
    printed = run([sys.executable, "-m", "proxy.cli", "mirror-config", "docker", address])
    assert json.loads(shown) == json.loads(printed)


def test_fargate_pulls_under_the_name_that_the_plan_prints(tmp_path: Path) -> None:
    config = tmp_path / "millpond.yaml"
    config.write_text(yaml.safe_dump(first_values()["config"]))
    plan = run([sys.executable, "-m", "proxy.cli", "ecr", "plan", "--json", "--config", str(config), IMAGE])
    (target,) = json.loads(plan)["targets"]
    name = f"{target['registry']}/{target['repositories'][0]['name']}:{IMAGE.partition(':')[2]}"
    (pod,) = [item for item in objects() if item.get("kind") == "Pod"]
    assert pod["spec"]["containers"][0]["image"] == name


def test_every_command_of_millpond_is_one_with_these_options() -> None:
    found = millpond_commands()
    assert {" ".join(words[1:3]) for words in found} >= {"ecr plan", "ecr sync", "ecr status", "ecr verify", "check"}
    for words in found:
        _parse(main, [word.replace("millpond.yaml", "/dev/null") for word in words[1:]])


def _parse(command: click.Command, arguments: list[str]) -> None:
    """Read the arguments as the program does, and run nothing."""
    context = command.make_context(command.name or "millpond", list(arguments))
    if isinstance(command, click.Group):
        name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None, name
        _parse(inner, rest)


def test_commands_for_the_cluster_name_what_the_chart_makes() -> None:
    require("helm")
    rendered = helm.render(first_values())
    pods = [item["spec"]["template"] for item in rendered if "template" in item.get("spec", {})]
    labels = {pair for pod in pods for pair in pod["metadata"]["labels"].items()}
    stateful = helm.one(rendered, "StatefulSet")
    container = helm.container(stateful)["name"]
    for words in commands():
        options = dict(pairwise(words))
        if words[0] == "kubectl" and "--selector" in words:
            key, _, value = options["--selector"].partition("=")
            assert (key, value) in labels
        if "--container" in words:
            assert options["--container"] == container
        if words[0] == "kubectl" and "exec" in words:
            assert options["exec"] == f"{stateful['metadata']['name']}-0"
        if words[:2] == ["helm", "install"]:
            assert words[2:4] == ["millpond", str(CHART.relative_to(ROOT))]


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for page in (PAGE, ROOT / "deploy/terraform/README.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            assert (page.parent / path).exists(), link
            assert not anchor or anchor in headings, link

"""The real helm on the chart that we ship."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from tests.deploy.generate import CHART
from tests.support.programs import environment, program

# A helm that `go install` has built takes a very old Kubernetes for granted; this is the newest that has schemas.
NEWEST: Final = "1.37"
RELEASE: Final = "millpond"
NAMESPACE: Final = "caches"

Values = Mapping[str, Any]
Object = dict[str, Any]


def render(values: Values, *, kubernetes: str = NEWEST, release: str = RELEASE) -> list[Object]:
    """Every object of the chart, as `helm template` writes them; AssertionError with its message if it refuses."""
    text = _rendered(json.dumps(values), kubernetes, release)
    return [document for document in yaml.load_all(text, Loader=_Strict) if document]


@cache  # several tests look at what the same values render, each from another side
def _rendered(values: str, kubernetes: str, release: str) -> str:
    command = ("template", release, str(CHART), "--namespace", NAMESPACE, f"--kube-version={kubernetes}.0")
    done = _helm(json.loads(values), *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(values: Values) -> str:
    """What `helm template` says when it refuses these values; AssertionError if it takes them."""
    done = _helm(values, "template", RELEASE, str(CHART), f"--kube-version={NEWEST}.0")
    assert done.returncode != 0, "helm takes these values"
    return done.stderr


def notes(values: Values) -> str:
    """What `helm install` tells whoever has installed it. That asks a cluster, so the text is rendered as a file."""
    with TemporaryDirectory() as directory:
        chart = Path(directory) / "millpond"
        shutil.copytree(CHART, chart)
        text = (chart / "templates" / "NOTES.txt").read_text()
        (chart / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{text}{{{{ end }}}}')
        (chart / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | toJson }}')
        options = ("--namespace", NAMESPACE, f"--kube-version={NEWEST}.0", "--show-only=templates/notes.yaml")
        done = _helm(values, "template", RELEASE, str(chart), *options)
    assert done.returncode == 0, done.stderr
    return str(yaml.safe_load(done.stdout)["notes"])


def lint(values: Values) -> str:
    """The output of `helm lint --strict`; AssertionError if it finds fault."""
    done = _helm(values, "lint", str(CHART), "--strict", f"--kube-version={NEWEST}.0")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def one(objects: list[Object], kind: str, suffix: str = "") -> Object:
    """The one object of this kind whose name is the release's with `suffix`."""
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, RELEASE + suffix)]
    return found


def names(objects: list[Object], kind: str) -> list[str]:
    """The names of all objects of this kind."""
    return [item["metadata"]["name"] for item in objects if item["kind"] == kind]


def container(workload: Object) -> Object:
    """The one container of a workload's pod."""
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def _helm(values: Values, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("helm"), *command, "--values", "-"],
        # Away from the user's own helm: its repositories and plugins are not of the test.
        env=environment(dict.fromkeys(("HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"), "/nonexistent")),
        input=yaml.safe_dump(dict(values)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path("/"),
    )


class _Strict(yaml.SafeLoader):
    """A SafeLoader that refuses a key that comes twice, which the API server would take the last of."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{sorted(twice)} come twice, line {node.start_mark.line}"
        return super().construct_mapping(node, deep)

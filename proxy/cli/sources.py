"""Where the names of images come from: arguments, files, a cluster, a Helm chart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from proxy.oci.errors import MillpondError
from proxy.settings import yaml_documents

# A cluster of thousands of pods needs some seconds to tell of them.
_DEADLINE: Final = 120.0
_KINDS: Final = ("initContainers", "containers", "ephemeralContainers")


class NoAnswer(MillpondError):
    """Another program could not tell; the message has its reason."""


def listed(file: TextIO | None) -> list[str]:
    """The lines of `file`; what begins with # is a remark."""
    lines = (line.strip() for line in file or ())
    return [line for line in lines if line and not line.startswith("#")]


def of_cluster() -> list[str]:
    """The images of all pods of the cluster that kubectl talks to, each once. Raises NoAnswer."""
    text = _said(["kubectl", "get", "pods", "--all-namespaces", "--output=json"])
    try:
        pods = json.loads(text)["items"]
        found = [each["image"] for pod in pods for kind in _KINDS for each in pod["spec"].get(kind) or ()]
    except (ValueError, KeyError, TypeError):
        raise NoAnswer("kubectl did not answer with a list of pods") from None
    return list(dict.fromkeys(found))


def of_chart(directory: Path, values: Sequence[Path]) -> list[str]:
    """The images of a Helm chart as it is rendered with these files of values, each once. Raises NoAnswer."""
    options = [f"--values={file}" for file in values]
    try:
        documents = yaml_documents(_said(["helm", "template", "warm", str(directory), *options]))
    except ValueError as error:
        raise NoAnswer(f"helm did not render YAML: {error}") from None
    return list(dict.fromkeys(image for document in documents for image in _images(document)))


def _images(node: Any) -> Iterator[str]:
    """What stands under `image` anywhere: pods are nested in many kinds of objects, also in those nobody knows here."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "image" and isinstance(value, str):
                yield value
            else:
                yield from _images(value)
    elif isinstance(node, list):
        for value in node:
            yield from _images(value)


def _said(command: Sequence[str]) -> str:
    """What another program prints. Raises NoAnswer."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE, check=False
        )
    except FileNotFoundError:
        raise NoAnswer(f"there is no program {command[0]}; install it, or name the images with -f FILE") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} has not answered within {_DEADLINE:.0f} s; try it by itself") from None
    if done.returncode:
        raise NoAnswer(f"{command[0]} says: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout

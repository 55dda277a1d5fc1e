"""The real Terraform on the modules that we ship, as far as it goes without a network, and what python-hcl2 reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import hcl2

from tests.support.programs import environment, program

TERRAFORM: Final = Path(__file__).parents[2] / "deploy/terraform"
OF_THE_PARSER: Final = {"__is_block__", "__comments__", "__inline_comments__"}

Variables = Mapping[str, Any]


def terraform(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Away from the user's own configuration, and without a call home.
    settings = {"TF_CLI_CONFIG_FILE": "/dev/null", "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(
        [program("terraform"), f"-chdir={directory}", *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def evaluated(module: str, variables: Variables, directory: Path, show: tuple[str, ...] = ()) -> dict[str, Any]:
    """The outputs of `plan`, or `show` out of another module's `locals.tf`; AssertionError if Terraform refuses."""
    shutil.copytree(TERRAFORM / "plan", directory / "plan", dirs_exist_ok=True)
    here = directory / module
    if module != "plan":
        here.mkdir(exist_ok=True)
        for name in ("variables.tf", "locals.tf"):
            shutil.copy(TERRAFORM / module / name, here)
        lists = "".join(f"  {name} = var.{name}\n" for name in ("targets", "ecr_upstreams", "upstreams"))
        outputs = "".join(f'output "{name}" {{ value = local.{name} }}\n' for name in show)
        (here / "test.tf").write_text(f'module "plan" {{\n  source = "../plan"\n{lists}}}\n{outputs}')
    (here / "terraform.tfvars.json").write_text(json.dumps(dict(variables)))
    for command in (("init", "-input=false"), ("apply", "-auto-approve", "-input=false")):
        done = terraform(here, *command, "-no-color")
        assert done.returncode == 0, " ".join((done.stdout + done.stderr).replace("│", " ").split())
    return {name: output["value"] for name, output in json.loads(terraform(here, "output", "-json").stdout).items()}


def parsed(module: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(kind, name, body) of every block; the name of a resource has its type before it."""
    for file in sorted((TERRAFORM / module).glob("*.tf")):
        for kind, blocks in hcl2.loads(file.read_text()).items():
            for block in blocks if isinstance(blocks, list) else []:
                for first, inner in block.items():
                    label = first.strip('"')
                    if kind in {"resource", "data"}:
                        for second, body in inner.items():
                            resource = second.strip('"')
                            yield kind, f"{label}.{resource}", body
                    elif kind in {"variable", "output", "module", "locals"} and label not in OF_THE_PARSER:
                        yield kind, label, inner


def named(module: str, kind: str) -> dict[str, dict[str, Any]]:
    return {name: body for found, name, body in parsed(module) if found == kind}


def code(module: str) -> str:
    text = "\n".join(file.read_text() for file in sorted((TERRAFORM / module).glob("*.tf")))
    return re.sub(r"^\s*(#|description\s*=).*$", "", text, flags=re.MULTILINE)

#!/usr/bin/env python3
"""sbom.py IMAGE: the bill of materials of what assemble.py has put into the directory IMAGE.

CycloneDX 1.5 as JSON, on standard output: the locked Python packages as their own metadata describes them, Python, and
the Debian packages whose files are there. Needs no network.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

PYTHON: Final = platform.python_version()


def main() -> None:
    image = Path(sys.argv[1])
    found = [*distributions(path=[str(path) for path in image.glob("*/lib/python3*/site-packages")])]
    packages = {name_of(package): package for package in found}
    program = packages.pop("millpond")
    components = [
        *(python_package(packages[name]) for name in sorted(packages)),
        component("application", "python", PYTHON, f"pkg:generic/python@{PYTHON}"),
        *(debian_package(entry.read_text()) for entry in sorted(image.glob("system/var/lib/dpkg/status.d/*"))),
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": python_package(program) | {"type": "application"}},
        "components": components,
    }
    json.dump(document, sys.stdout, indent=1)


def component(kind: str, name: str, version: str, url: str) -> dict[str, Any]:
    return {"type": kind, "bom-ref": url, "name": name, "version": version, "purl": url}


def name_of(package: Distribution) -> str:
    """As package indexes write it."""
    return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()


def python_package(package: Distribution) -> dict[str, Any]:
    name = name_of(package)
    described = component("library", name, package.version, f"pkg:pypi/{name}@{package.version}")
    fields = package.metadata.json
    if expression := fields.get("license_expression"):
        described["licenses"] = [{"expression": expression}]
    elif text := fields.get("license"):  # some have the whole licence there
        described["licenses"] = [{"license": {"name": str(text).splitlines()[0]}}]
    return described


def debian_package(entry: str) -> dict[str, Any]:
    fields = dict(re.findall(r"^(Package|Version|Architecture): (.+)$", entry, re.MULTILINE))
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    url = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe=':~')}?arch={architecture}"
    return component("library", name, version, url)


main()

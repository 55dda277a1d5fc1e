"""The dependency audit: what is locked, against the published advisories. `python -m tests.audit [--required]`

pip-audit asks the service (osv.dev) about every package of the lock file. Where that cannot be reached, it is said so,
and what needs no network is checked: that each package is pinned with hashes, and that what is installed here, and
tested, is what is locked. A list of bad versions of our own would be out of date on the day after it was written.

Exit 1: an advisory, or a lock file that does not hold; with `--required` (for a release) also no service.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

LOCK: Final = Path(__file__).parents[1] / "requirements-dev.lock"  # everything of requirements.lock is in it
DEADLINE: Final = 300.0  # seconds for some hundred questions
# As the last line of a traceback of pip-audit names what the network did.
UNREACHABLE: Final = re.compile(r"^[\w.]*(ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError)\b")
PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")


class NoService(Exception):
    """The advisories cannot be asked for; the message says why."""


class Unusable(Exception):
    """pip-audit did not do its work; the message is its own."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """One that holds for a locked version."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        remedy = f"fixed in {', '.join(self.fixed_in)}: make lock ARGS=--upgrade" if self.fixed_in else "no fix yet"
        return f"{self.package} {self.version}: {', '.join(self.names)}; {remedy}"


def advisories(lock: Path, *options: str) -> list[Advisory]:
    """What is published about the packages of a lock file. `options` go to pip-audit.

    Raises:
        NoService: it cannot be reached, or has never heard of some package, and so proves nothing.
        Unusable: pip-audit failed in another way.
    """
    command = (sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip", "--require-hashes")
    how = ("--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off", "--timeout", "10")
    done = subprocess.run(  # its exit code is 1 for an advisory as for an accident
        [*command, *how, *options], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and said nothing"])[-1]
        raise (NoService if UNREACHABLE.match(last) else Unusable)(last[:300]) from None
    if skipped := [package["name"] for package in packages if "skip_reason" in package]:
        raise NoService(f"it does not know {', '.join(skipped)}")
    return list(_found(packages))


def _found(packages: Sequence[Mapping[str, Any]]) -> Iterator[Advisory]:
    for package in packages:
        for told in package["vulns"]:
            names = (told["id"], *told.get("aliases", ()))
            yield Advisory(package["name"], package["version"], names, tuple(told.get("fix_versions", ())))


def problems(lock: Path, installed: Mapping[str, str]) -> list[str]:
    """What is wrong with a lock file, as far as it can be seen here. `installed`: versions by canonical name."""
    found = []
    pins: dict[str, str] = {}
    for entry in re.split(r"\n(?=[^\s#])", f"\n{lock.read_text()}")[1:]:
        pin = PIN.match(entry)
        if pin is None:
            found.append(f"{entry.splitlines()[0]!r} is not pinned to one version")
            continue
        pins[canonicalize_name(pin[1])] = pin[2]
        if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry):
            found.append(f"{pin[1]} has no hash")
    for name, version in installed.items():
        if name in pins and pins[name] != version:
            found.append(f"{name} is {version} here and {pins[name]} in the lock file; make install")
    if not pins:
        found.append("nothing is locked")
    return found


def here() -> dict[str, str]:
    """What is installed for this Python."""
    return {canonicalize_name(found.metadata["Name"]): found.version for found in distributions()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description="Audit the locked dependencies.")
    parser.add_argument("--required", action="store_true", help="fail where the advisories cannot be asked for")
    parser.add_argument("--lock", type=Path, default=LOCK, help="the lock file")
    parser.add_argument("--osv-url", help="another service that speaks OSV's protocol")
    options = parser.parse_args(arguments)
    lines = problems(options.lock, here())
    try:
        told = advisories(options.lock, *(("--osv-url", options.osv_url) if options.osv_url else ()))
    except NoService as error:
        print(f"audit: not compared with advisories, whose service cannot be used here: {error}", file=sys.stderr)
        if options.required:
            lines.append("the advisories are required, and could not be asked for")
    except Unusable as error:
        lines.append(f"pip-audit failed: {error}")
    else:
        lines += map(str, told)
    for line in lines:
        print(f"audit: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the suite in its read-only mode, and reads the report that it prints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conformance.shelf import Shelf
from tests.support.programs import environment, program

PROGRAM: Final = "oci-conformance"

_DEADLINE: Final = 60.0  # seconds; it takes less than one
_VERDICT: Final = re.compile(r"^OCI Conformance Result: (\w+)$", re.MULTILINE)
_COUNT: Final = re.compile(r"^  (Disabled|Skip|Pass|FAIL|Error|Total)\.+: +(\d+)$", re.MULTILINE)
_STATUS: Final = re.compile(r"^  ([A-Z][\w +]+?)\.+: +(\w+)$", re.MULTILINE)
_FAILED: Final = re.compile(r"^ *OCI Conformance Test/(\S.*): (?:FAIL|Error)\n +- ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Report:
    """`counts` are tests by outcome, `apis` the outcome of each API, `failed` the tests that have an error to show."""

    text: str
    verdict: str
    counts: dict[str, int]
    apis: dict[str, str]
    failed: frozenset[str]


def run(host: str, repository: str, shelf: Shelf, directory: Path) -> Report:
    """The suite against `repository` at `host`, which holds what is on the shelf.

    Raises:
        AssertionError: the suite did not come to a result.
    """
    settings = {
        "OCI_REGISTRY": host,
        "OCI_TLS": "disabled",
        "OCI_REPO1": repository,
        "OCI_VERSION": "1.1",
        "OCI_API_PUSH": "false",
        "OCI_API_BLOBS_DELETE": "false",
        "OCI_API_MANIFESTS_DELETE": "false",
        "OCI_API_TAGS_DELETE": "false",
        # Of manifests it is not asked for: in this mode the suite does not look at their headers, and misses it always.
        "OCI_API_BLOBS_DIGEST_HEADER": "true",
        "OCI_API_REFERRER": "true" if shelf.subjects else "false",
        "OCI_RO_DATA_TAGS": _joined(shelf.tags),
        "OCI_RO_DATA_MANIFESTS": _joined(shelf.manifests),
        "OCI_RO_DATA_BLOBS": _joined(shelf.blobs),
        "OCI_RO_DATA_REFERRERS": _joined(shelf.subjects),
        "OCI_RESULTS_DIR": str(directory),
    }
    # Its exit code says nothing: without pushes this version ends with a panic when it writes its second report, and
    # where it cannot even begin it ends with 0. So the first report, on standard output, is what counts.
    done = subprocess.run(
        [program(PROGRAM)],
        cwd=directory,
        env=environment({key: value for key, value in settings.items() if value}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
    )
    verdict = _VERDICT.search(done.stdout)
    assert verdict, f"{PROGRAM} came to no result:\n{done.stdout}\n{done.stderr}"
    _, apis, _ = re.split(r"^(?:API|Data) conformance:\n", done.stdout, flags=re.MULTILINE)
    return Report(
        text=done.stdout,
        verdict=verdict[1],
        counts={name: int(count) for name, count in _COUNT.findall(done.stdout)},
        apis=dict(_STATUS.findall(apis)),
        failed=frozenset(_FAILED.findall(done.stdout)),
    )


def _joined(names: Iterable[str]) -> str:
    return " ".join(names)

"""The dependency audit finds what it is for, and says when it could not look."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.audit import LOCK, here, problems
from tests.support.ports import free_port
from tests.support.programs import environment

HASH = "--hash=sha256:" + "a" * 64
GOOD = f"packaging=={version('packaging')} \\\n    {HASH}\n    # via something\n"
BAD = f"leaky==1.0 \\\n    {HASH}\n"


class Advisories(BaseHTTPRequestHandler):
    """OSV's protocol, and one advisory: for leaky 1.0."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {}
        if (asked["package"]["name"], asked["version"]) == ("leaky", "1.0"):
            package = {"name": "leaky", "ecosystem": "PyPI"}
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}]
            affected = [{"package": package, "ranges": ranges}]
            answer = {"vulns": [{"id": "PYSEC-0000-1", "aliases": ["CVE-0000-1"], "affected": affected}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(tmp_path: Path, lock: str, service: str, *options: str) -> tuple[int, str]:
    """The exit code and what was said."""
    file = tmp_path / "some.lock"
    file.write_text(lock)
    done = subprocess.run(
        [sys.executable, "-m", "tests.audit", "--lock", str(file), "--osv-url", service, *options],
        cwd=Path(__file__).parents[1],
        env=environment({"XDG_CACHE_HOME": str(tmp_path)}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stderr


def test_an_advisory_fails_the_audit_and_is_named_with_its_remedy(tmp_path: Path, service: str) -> None:
    code, said = audit(tmp_path, GOOD + BAD, service)
    assert code == 1
    assert said == "audit: leaky 1.0: PYSEC-0000-1, CVE-0000-1; fixed in 1.1: make lock ARGS=--upgrade\n"


def test_without_an_advisory_it_is_silent(tmp_path: Path, service: str) -> None:
    assert audit(tmp_path, GOOD, service, "--required") == (0, "")


def test_without_the_service_it_says_so_and_fails_only_where_it_is_required(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1/query"
    code, said = audit(tmp_path, GOOD + BAD, nobody)
    assert code == 0
    assert said.startswith("audit: not compared with advisories, whose service cannot be used here: ")
    code, said = audit(tmp_path, GOOD, nobody, "--required")
    assert code == 1
    assert said.endswith("audit: the advisories are required, and could not be asked for\n")


@pytest.mark.parametrize(
    ("lock", "problem"),
    [
        ("", "nothing is locked"),
        (f"{GOOD}loose>=1.0 \\\n    {HASH}\n", "'loose>=1.0 \\\\' is not pinned to one version"),
        (f"{GOOD}elsewhere @ https://example.test/x.whl\n", "is not pinned to one version"),
        (f"{GOOD}bare==1.0\n    # via something\n", "bare has no hash"),
        (f"packaging==0.1 \\\n    {HASH}\n", "here and 0.1 in the lock file; make install"),
    ],
)
def test_a_lock_file_that_does_not_hold_is_a_problem_with_or_without_a_service(
    tmp_path: Path, lock: str, problem: str
) -> None:
    file = tmp_path / "some.lock"
    file.write_text(lock)
    (found, *_) = problems(file, here())
    assert problem in found


def test_the_lock_file_of_this_project_holds() -> None:
    assert not problems(LOCK, {})

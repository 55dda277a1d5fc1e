"""The log: what a person needs of a defect, and nothing that is secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.observe.events import Served, log_served

_PROGRAM = """
import sys
import structlog
from proxy.observe import logs

def sign(url):
    password = "hunter2"
    raise KeyError("no such key")

logs.configure(sys.argv[1], "info")
try:
    sign("https://storage.example.com/layer?X-Amz-Signature=secret")
except KeyError:
    structlog.get_logger().exception("a defect")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_says_where_and_never_the_values_of_variables(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, form],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "a defect" in done.stderr
    assert "no such key" in done.stderr
    assert "sign" in done.stderr
    assert "X-Amz-Signature" not in done.stderr
    assert "hunter2" not in done.stderr
    if form == "json":
        frames = json.loads(done.stderr)["exception"][0]["frames"]
        assert [frame["name"] for frame in frames] == ["<module>", "sign"]


def test_a_tag_that_upstream_has_not_confirmed_is_said_and_nothing_of_the_others() -> None:
    with capture_logs() as lines:
        log_served(Served("a", "client", "GET", "/v2/app/manifests/1"))
        log_served(Served("b", "client", "GET", "/v2/app/manifests/1", confirmed=False))
    assert [line.get("confirmed") for line in lines] == [None, False]

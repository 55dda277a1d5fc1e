"""What the program says of requests, whoever reads it or does not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.millpond import Millpond
from tests.support.programs import environment
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_REQUESTS = 600  # each is a line of some 200 bytes: together more than a pipe holds


def test_requests_are_answered_while_nobody_reads_the_log_and_each_has_its_line_in_the_end(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        millpond = Millpond({"upstreams": {"docker.io": upstream.upstream()}}, tmp_path)
        command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(millpond.config_file)]
        program = subprocess.Popen(command, env=environment({"PYTHONPATH": str(_ROOT)}), stderr=subprocess.PIPE)
        try:
            wait_until(millpond.ready, "Millpond is ready")
            for number in range(_REQUESTS):
                assert get(f"{millpond.url}/v2/", {"X-Request-Id": f"r{number}"}, timeout=10).status == 200
            program.send_signal(signal.SIGTERM)
            _, log = program.communicate(timeout=30)
        finally:
            program.kill()
            program.wait()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["id"] for line in lines if line["event"] == "served"] == [f"r{n}" for n in range(_REQUESTS)]
    assert len(log) > 65_536
    assert lines[-1]["event"] == "stopped"
    assert program.returncode == 0

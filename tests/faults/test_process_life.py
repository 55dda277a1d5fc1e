"""One process a directory, an orderly end, and a start that does nothing before it is asked to."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import bytes_on_disk, landed
from tests.conftest import StartMillpond
from tests.faults.conftest import await_gate
from tests.support import images
from tests.support.faults import Gate, change
from tests.support.millpond import Millpond
from tests.support.programs import environment
from tests.support.pulls import Reply, get, opened
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

MIB: Final = 1 << 20
REPOSITORY: Final = "library/x"
BODY: Final = b"".join(images.noise(4 * MIB, 31))


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made


def url(millpond: Millpond, digest: str) -> str:
    return f"{millpond.url}/v2/docker.io/{REPOSITORY}/blobs/{digest}"


def readiness(millpond: Millpond) -> tuple[int, bool]:
    """(status, draining) as the admin port says."""
    reply = get(f"{millpond.admin_url}/readyz", timeout=5)
    return reply.status, reply.json()["draining"]


def refused(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_a_second_process_on_the_same_directory_is_refused_with_a_plain_message(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Row 30; A: the first one notices nothing, and after a kill the directory is free at once."""
    digest = upstream.add_blob(REPOSITORY, BODY)
    first = start_millpond({"docker.io": upstream.upstream()})
    assert get(url(first, digest)).digest == digest
    landed(first)
    second = start_millpond({"docker.io": upstream.upstream()}, cache={"directory": str(first.cache)}, wait=False)
    assert second.process.wait() == 1
    [said] = second.log_text().strip().splitlines()
    assert said == (
        f"millpond: cache.directory: {first.cache} is in use by another millpond process; "
        "stop that one, or give each its own directory"
    )
    assert get(url(first, digest)).headers["x-millpond"] == "hit"
    assert bytes_on_disk(first.cache) == len(BODY)
    first.kill()
    second.start()
    assert get(url(second, digest)).headers["x-millpond"] == "hit"


def test_a_drain_lets_running_responses_end_and_takes_nothing_new(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Row 32; K H."""
    digest, gate = upstream.add_blob(REPOSITORY, BODY), Gate()
    upstream.script(digest, change(gates={2 * MIB: gate}))
    millpond = start_millpond({"docker.io": upstream.upstream()})
    idle = http.client.HTTPConnection("127.0.0.1", millpond.port, timeout=10)
    idle.request("GET", "/v2/")
    idle.getresponse().read()
    with ThreadPoolExecutor() as pool, opened(url(millpond, digest)) as download:
        await_gate(gate)
        assert download.read(1000) == BODY[:1000]
        assert readiness(millpond) == (200, False)
        millpond.process.send(signal.SIGTERM)
        wait_until(lambda: readiness(millpond) == (503, True), "it says that it is not ready")
        wait_until(lambda: refused(millpond.port), "new connections are refused")
        assert idle.sock.recv(1) == b""  # an idle connection is closed
        assert get(f"{millpond.admin_url}/healthz").status == 200
        ended = pool.submit(millpond.process.wait)
        assert millpond.process.running
        gate.open()
        assert download.drain()
        assert download.digest == digest
        assert ended.result() == 0
    idle.close()
    assert refused(millpond.admin_port)
    assert millpond.log_lines(event="stopped")


def test_what_a_drain_waited_for_is_written_down(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    """Row 32; K: known as soon as the next start answers, before any sweep."""
    digest, gate = upstream.add_blob(REPOSITORY, BODY), Gate()
    upstream.script(digest, change(gates={2 * MIB: gate}))
    millpond = start_millpond({"docker.io": upstream.upstream()})
    with opened(url(millpond, digest)) as download:
        await_gate(gate)
        millpond.process.send(signal.SIGTERM)
        wait_until(lambda: readiness(millpond)[0] == 503, "it drains")
        gate.open()
        assert download.drain()
    assert millpond.process.wait() == 0
    assert millpond.blob_file(digest).read_bytes() == BODY
    assert millpond.incoming() == []
    upstream.stop()
    millpond.start()
    reply = get(url(millpond, digest))
    assert (reply.digest, reply.headers.get("x-millpond")) == (digest, "hit")
    assert millpond.metric("millpond_cache_bytes") == bytes_on_disk(millpond.cache) == len(BODY)


@pytest.mark.parametrize("again", [True, False])
def test_a_drain_has_an_end_though_upstream_sends_nothing_more(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, again: bool
) -> None:
    """Row 32; H A W: after the grace period, or at once for whoever asks twice."""
    digest, gate = upstream.add_blob(REPOSITORY, BODY), Gate()
    upstream.script(digest, change(gates={2 * MIB: gate}))
    config: dict[str, Any] = {} if again else {"registry": {"grace_period": "500ms"}}
    millpond = start_millpond({"docker.io": upstream.upstream()})
    if not again:
        millpond.terminate()
        millpond.configure({"upstreams": {"docker.io": upstream.upstream()}, **config})
        millpond.config["registry"]["listen"] = millpond.host
        millpond.start()
    with opened(url(millpond, digest)) as download:
        await_gate(gate)
        assert download.read(1000) == BODY[:1000]
        millpond.process.send(signal.SIGTERM)
        if again:
            wait_until(lambda: readiness(millpond)[0] == 503, "it drains")
            millpond.process.send(signal.SIGINT)
        assert not download.drain()
        assert millpond.process.wait() == 0
    gate.open()
    assert millpond.incoming() == []


def test_what_was_pulled_just_before_the_end_is_written_down(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Row 32; K: the ledger is written behind the requests, and a last time at the end."""
    image = images.artifact(images.EMPTY_CONFIG, [images.blob(b"layer")])
    upstream.add(image, REPOSITORY, "1")
    millpond = start_millpond({"docker.io": upstream.upstream()})
    manifest = f"{millpond.url}/v2/docker.io/{REPOSITORY}/manifests/1"
    assert get(manifest).body == image.body
    assert millpond.terminate() == 0
    upstream.stop()
    millpond.start()
    reply: Reply = get(manifest)
    assert (reply.body, reply.headers["x-millpond"]) == (image.body, "hit")


_WATCH: Final = """
import json, sys, threading
seen = []
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "os.remove", "shutil.", "sqlite3.connect")):
        seen.append(event)
    elif event == "open" and isinstance(args[0], str):
        path, mode, flags = args
        if flags & 0o1103 or not path.startswith(ALLOWED):
            seen.append(f"{event} {path}")
ALLOWED = tuple(json.loads(sys.argv[1]))
sys.addaudithook(watch)
import proxy.app, proxy.cli
print(json.dumps([seen, threading.active_count()]))
"""


def test_importing_the_program_opens_nothing_and_starts_nothing(tmp_path: Path) -> None:
    """No I/O, configuration or global client at import time; only modules are read, and what libraries come with."""
    root = Path(__file__).parents[2]
    allowed = sorted({sys.prefix, sys.base_prefix, str(root / "proxy"), "/etc/", "/usr/", "/proc/", "/sys/", "/dev/"})
    done = subprocess.run(
        [sys.executable, "-B", "-c", _WATCH, json.dumps(allowed)],
        env=environment({"PYTHONPATH": str(root)}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], 1]
    assert list(tmp_path.iterdir()) == []

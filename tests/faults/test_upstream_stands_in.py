"""Upstream stands in where the disk, or another upstream, does not give a blob out."""

from __future__ import annotations

import http.client
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from tests.conftest import StartMillpond
from tests.faults.conftest import UPSTREAM, await_gate, cold_blob, result
from tests.support.faults import BEFORE_HEADERS, Answer, Gate, Request, refuse
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import DEADLINE, wait_until


def test_a_kept_blob_that_cannot_be_opened_for_want_of_files_is_passed_through(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Row 25, W B H: the process has run out of files; the blob is not at fault, and is a hit again afterwards."""
    cold = cold_blob(upstream, start_millpond({UPSTREAM: upstream.upstream()}))
    cold.assert_whole(cold.get())
    cold.assert_kept()
    pid = cold.millpond.process.pid
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    path = cold.url.removeprefix(cold.millpond.url)
    with closing(http.client.HTTPConnection("127.0.0.1", cold.millpond.port, timeout=DEADLINE)) as connection:
        connection.request("GET", "/v2/")
        connection.getresponse().read()
        # What is open stays open: this connection, and the one to upstream.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.headers["X-Millpond"]) == (200, "upstream")
            assert response.read() == cold.content
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    assert cold.get().headers["x-millpond"] == "hit"


def test_an_outage_of_one_upstream_is_not_passed_on_to_clients_of_another(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, clients: ThreadPoolExecutor
) -> None:
    """Rows 10 and 17, B: both have the same blob, and the flight that was joined was the other one's."""
    other, gate = "registry.example.com", Gate()

    def limited(request: Request, answer: Answer) -> Answer:
        return replace(refuse(429, retry_after="30")(request, answer), gates={BEFORE_HEADERS: gate})

    with ScriptedUpstream() as healthy:
        millpond = start_millpond({UPSTREAM: upstream.upstream(), other: healthy.upstream()})
        cold = cold_blob(upstream, millpond)
        healthy.add_blob(cold.repository, cold.content)
        cold.script(limited)
        first = clients.submit(cold.get)
        await_gate(gate)
        url = f"{millpond.url}/v2/{other}/{cold.repository}/blobs/{cold.digest}"
        second = clients.submit(get, url)
        wait_until(lambda: millpond.metric("millpond_flight_joins_total") == 1, "the second client has joined")
        gate.open()
        assert result(first).status == 429
        cold.assert_whole(result(second))

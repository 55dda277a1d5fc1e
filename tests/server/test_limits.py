"""Connections have a limit: one too many is told to come again, and costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from proxy.server import Limits, Listener, Server, census
from tests.conftest import StartMillpond
from tests.server.harness import DEADLINE, Client, FileApp, hello, serving
from tests.support.certificates import Authority
from tests.support.pulls import get
from tests.support.waiting import wait_until, wait_until_async

anyio = pytest.mark.anyio

TWO = Limits(max_connections=2, header_timeout=5, grace=1)


async def knock(port: int, source: str = "127.0.0.1") -> tuple[int, str]:
    """Status and body of a request on a connection of its own, from an address of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), DEADLINE)).decode().partition("\r\n\r\n")
        return int(head.split()[1]), body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@anyio
async def test_one_connection_too_many_is_told_to_come_again_and_the_others_go_on() -> None:
    """H, B: a 503 with its time, in the form that clients of a registry read."""
    async with serving(hello, TWO) as server, Client(server.port) as one, Client(server.port) as two:
        assert (await one.get()).body == (await two.get()).body == b"hello"
        async with Client(server.port) as third:
            response = await third.get()
            assert response.status == 503
            assert response.headers["retry-after"] == "5"
            assert response.headers["connection"] == "close"
            (error,) = json.loads(response.body)["errors"]
            assert error["code"] == "UNAVAILABLE"
            assert error["message"] == "this server has all the 2 connections that it takes; try again in a moment"
            assert await third.rest() == b""
        assert (await one.get()).body == (await two.get()).body == b"hello"


@anyio
async def test_a_place_that_has_become_free_is_given_away() -> None:
    async with serving(hello, TWO) as server, Client(server.port) as one:
        for _ in range(5):
            async with Client(server.port) as other:
                assert (await other.get()).status == 200
            await wait_until_async(lambda: server.connections == 1, "its place is free")
        assert (await one.get()).status == 200


@anyio
async def test_a_connection_that_came_too_early_is_served_when_there_is_room_by_then() -> None:
    async with serving(hello, TWO) as server, Client(server.port), Client(server.port) as third:
        async with Client(server.port):
            await wait_until_async(lambda: server.connections == 3, "all three are counted")
        await wait_until_async(lambda: server.connections == 2, "one has left")
        assert [(await third.get()).status for _ in range(3)] == [200] * 3


@anyio
async def test_beyond_what_can_be_told_connections_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "POLITE", 1)
    async with serving(hello, TWO) as server, Client(server.port) as one, Client(server.port), Client(server.port):
        await wait_until_async(lambda: server.connections == 3, "all three are counted")
        for _ in range(20):
            with contextlib.suppress(ConnectionError):  # it may be over before this client has looked
                async with Client(server.port) as further:
                    assert await further.rest() == b""
        assert server.connections == 3
        assert (await one.get()).status == 200


@anyio
async def test_refusals_are_counted_each_and_logged_now_and_then() -> None:
    refused: list[None] = []
    server = Server(hello, Listener("127.0.0.1", 0), TWO, refused=lambda: refused.append(None))
    server.bind()
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(server.serve())
        async with Client(server.port) as one, Client(server.port) as two:
            assert (await one.get()).status == (await two.get()).status == 200
            assert [await knock(server.port) for _ in range(10)] == [(503, too_many(2))] * 10
        server.stop()
        await asyncio.wait_for(task, DEADLINE)
    assert len(refused) == 10
    (line,) = [entry for entry in logs if entry["event"] == "connections are refused: there are too many"]
    assert (line["max_connections"], line["client"]) == (2, "127.0.0.1")


def too_many(most: int) -> str:
    message = f"this server has all the {most} connections that it takes; try again in a moment"
    return json.dumps({"errors": [{"code": "UNAVAILABLE", "message": message}]})


@anyio
async def test_one_address_can_be_kept_from_taking_all() -> None:
    limits = Limits(max_connections_per_address=1, grace=1)
    async with serving(hello, limits) as server, Client(server.port) as one:
        assert (await one.get()).status == 200
        status, body = await knock(server.port)
        assert status == 503
        assert "this client has more than 1 connections" in body
        assert (await knock(server.port, "127.0.0.2"))[0] == 200
        assert (await one.get()).status == 200
    await wait_until_async(lambda: server.connections == 0, "nobody is counted any more")


@anyio
async def test_handshakes_that_never_end_are_counted_and_end_with_their_deadline(authority: Authority) -> None:
    """H: connections that never speak TLS cannot hold a port beyond its limit, nor for longer than the deadline."""
    certificate = authority.issue()
    limits = Limits(max_connections=2, header_timeout=1, grace=1)
    files: dict[str, Any] = {"cert_file": certificate.chain_file, "key_file": certificate.key_file}
    async with serving(hello, limits, **files) as server:
        with socket.create_connection(("127.0.0.1", server.port)), socket.create_connection(("127.0.0.1", server.port)):
            await wait_until_async(lambda: server.connections == 2, "both are counted before their handshakes")
            async with Client(server.port, tls=authority.client_context()) as third:
                assert (await third.get()).status == 503
            await wait_until_async(lambda: server.connections == 0, "the deadline has ended both")
        async with Client(server.port, tls=authority.client_context()) as later:
            assert (await later.get()).status == 200
        await wait_until_async(lambda: server.connections == 0, "nobody is counted any more")


@anyio
async def test_what_is_no_tls_is_counted_out_again(authority: Authority) -> None:
    certificate = authority.issue()
    files: dict[str, Any] = {"cert_file": certificate.chain_file, "key_file": certificate.key_file}
    async with serving(hello, Limits(grace=1), **files) as server:
        for _ in range(10):
            async with Client(server.port) as plain:
                plain.ask()
                await plain.rest()
        await wait_until_async(lambda: server.connections == 0, "nobody is counted any more")


@anyio
async def test_a_flood_does_not_break_into_a_response(blob: Path, content: bytes) -> None:
    limits = Limits(max_connections=1, grace=1)
    async with serving(FileApp(blob), limits) as server, Client(server.port, receive_buffer=32768) as client:
        client.ask()
        await client.head()
        assert {(await knock(server.port))[0] for _ in range(50)} == {503}
        assert await asyncio.wait_for(client.reader.readexactly(len(content)), DEADLINE) == content


@anyio
@pytest.mark.parametrize(
    "head",
    [b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\n\r\n", b"GET /?" + b"x" * 70_000, b"GET /?a=" + b"%41" * 3000],
    ids=["the path", "a query that never ends", "escapes"],
)
async def test_an_address_beyond_the_limit_is_answered_with_414(head: bytes) -> None:
    async with serving(hello) as server, Client(server.port) as client:
        client.write(head)
        response = await client.response()
        assert response.status == 414
        (error,) = json.loads(response.body)["errors"]
        assert error["message"] == "the request's path and query are longer than 8192 bytes"


@anyio
async def test_an_address_within_the_limit_is_served() -> None:
    async with serving(hello) as server, Client(server.port) as client:
        assert (await client.get("/" + "x" * 8191)).status == 200


@anyio
async def test_a_server_stops_while_a_handshake_goes_on(authority: Authority) -> None:
    certificate = authority.issue()
    loop = asyncio.get_running_loop()
    async with serving(hello, Limits(grace=1), cert_file=certificate.chain_file, key_file=certificate.key_file) as one:
        with socket.create_connection(("127.0.0.1", one.port)):
            await wait_until_async(lambda: one.connections == 1, "it is counted")
            one.stop()
            began = loop.time()
    assert loop.time() - began < DEADLINE


def test_the_number_of_connections_fits_the_open_files_and_these_are_raised_as_far_as_allowed() -> None:
    program = (
        "import resource, sys\n"
        "from proxy.server.door import room_for_connections\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))\n"
        "print(room_for_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )

    def at(hard: int) -> str:
        return subprocess.check_output([sys.executable, "-c", program, str(hard)], text=True, timeout=60).strip()

    assert at(4512) == "1000 4512"
    assert at(512) == "32 512"


@pytest.fixture
def few_files(start_millpond: StartMillpond) -> Iterator[Any]:
    running = start_millpond({})
    limits = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    yield running, limits
    if running.process.running:
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, limits)


def test_a_process_that_runs_out_of_files_serves_again_when_some_are_free(few_files: Any) -> None:
    """B: it says so, and waits; it neither ends nor spins."""
    running, limits = few_files
    assert get(f"{running.url}/v2/").status == 200
    few = running.open_files() + 3
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (few, limits[1]))
    with contextlib.ExitStack() as held:
        for _ in range(10):
            held.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30))
        event = "no connection can be accepted; raise the limit of open files if this comes again"
        wait_until(lambda: running.log_lines(event=event), "it has said so")
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, limits)
    assert get(f"{running.url}/v2/").status == 200


def test_the_limit_of_the_configuration_holds_and_is_in_the_metrics(start_millpond: StartMillpond) -> None:
    running = start_millpond({}, registry={"max_connections": 3})
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30))
        wait_until(lambda: running.metric("millpond_connections") == 3, "all three are counted")
        reply = get(f"{running.url}/v2/")
        assert (reply.status, reply.headers["retry-after"], reply.error_code) == (503, "5", "UNAVAILABLE")
        assert running.metric("millpond_connections_refused_total") == 1
        assert running.ready(), "the operator's port has places of its own"
    wait_until(lambda: get(f"{running.url}/v2/").status == 200, "there is room again")


def test_the_address_limit_of_the_configuration_holds(start_millpond: StartMillpond) -> None:
    running = start_millpond({}, registry={"max_connections_per_address": 1})
    with socket.create_connection(("127.0.0.1", running.port), timeout=30):
        wait_until(lambda: running.metric("millpond_connections") == 1, "it is counted")
        assert get(f"{running.url}/v2/").status == 503

"""How responses and servers end: failures, stalled clients, and the drain."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from proxy.oci.errors import UpstreamUnreachable
from proxy.server import Limits, pump
from proxy.server.asgi import Receive, Send
from proxy.server.pump import AT_ONCE
from proxy.server.sendfile import send_piece
from tests.server.harness import DEADLINE, Client, FileApp, body, hello, serving, start
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio


class Gate:
    """Sends half of its body, waits to be let on (and fails, if told so), then sends the rest."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.error = error
        self.cancelled = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(10))
        await send(body(b"first", more=True))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        await send(body(b"other"))


@pytest.mark.parametrize(
    ("error", "logged"),
    [(UpstreamUnreachable("the upstream has gone"), 0), (ConnectionResetError(), 0), (ValueError("a mistake"), 1)],
)
async def test_an_error_after_the_start_breaks_the_response(
    error: Exception, logged: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    app = Gate(error)
    app.go.set()
    with structlog.testing.capture_logs() as logs:
        async with serving(app) as server, Client(server.port) as client:
            client.ask("/v2/a%20b")
            assert (await client.head()).headers["content-length"] == "10"
            assert await client.rest() == b"first"
    assert [entry["path"] for entry in logs] == ["/v2/a%20b"] * logged
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def test_nothing_is_sent_before_there_is_a_body() -> None:
    async def app(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        raise UpstreamUnreachable("the upstream has gone")

    async with serving(app) as server, Client(server.port) as client:
        client.ask()
        assert await client.rest() == b""


async def test_an_unexpected_error_before_the_start_is_a_500_in_the_form_of_oci() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/broken":
            raise ValueError("a mistake")
        await hello(scope, receive, send)

    with structlog.testing.capture_logs() as logs:
        async with serving(app) as server, Client(server.port) as client:
            response = await client.get("/broken")
            assert (await client.get()).body == b"hello", "the connection stays"
    assert response.status == 500
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body)["errors"][0]["code"] == "UNKNOWN"
    assert "a mistake" not in response.body.decode()
    assert [entry["path"] for entry in logs] == ["/broken"]


async def test_an_app_that_forgets_to_answer_is_a_500() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        return

    with structlog.testing.capture_logs() as logs:
        async with serving(app) as server, Client(server.port) as client:
            assert (await client.get()).status == 500
    assert len(logs) == 1


async def test_a_client_that_leaves_makes_send_raise_for_streamed_bodies_too() -> None:
    failures: list[BaseException] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(1 << 40))
        try:
            while True:
                await send(body(bytes(65536), more=True))
        except BaseException as error:
            failures.append(error)
            raise

    async with serving(app) as server:
        async with Client(server.port) as client:
            client.ask()
            await client.head()
        await wait_until_async(lambda: failures, "send has raised")
    assert isinstance(failures[0], ConnectionResetError)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_stalled_client_is_let_go_and_a_slow_one_is_not(blob: Path, content: bytes, streamed: bool) -> None:
    files = FileApp(blob)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if not streamed:
            await files(scope, receive, send)
            return
        await send(start(len(content)))
        for offset in range(0, len(content), 1 << 16):
            await send(body(content[offset : offset + (1 << 16)], more=True))
        await send(body(b""))

    limits = Limits(write_timeout=1, grace=1)
    async with (
        serving(app, limits) as server,
        Client(server.port, receive_buffer=32768) as slow,
    ):
        slow.ask()
        await slow.head()
        got = bytearray()
        for _ in range(2):  # the slow one outlives two stalled ones, one after the other
            async with Client(server.port, receive_buffer=32768) as stalled:
                stalled.ask()
                await wait_until_async(lambda: server.active == 2, "both are being answered")
                while server.active == 2:
                    got += await asyncio.wait_for(slow.reader.read(4096), DEADLINE)
                    await asyncio.sleep(0.01)
        assert len(got) < len(content)
        got += await asyncio.wait_for(slow.reader.readexactly(len(content) - len(got)), DEADLINE)
        assert bytes(got) == content


async def test_a_response_that_waits_for_its_data_is_not_stalled() -> None:
    app = Gate()
    async with serving(app, Limits(write_timeout=0.2, grace=1)) as server, Client(server.port) as client:
        client.ask()
        await client.head()
        asyncio.get_running_loop().call_later(0.8, app.go.set)
        assert await asyncio.wait_for(client.reader.readexactly(10), DEADLINE) == b"firstother"


async def test_the_drain_lets_a_running_response_finish_and_refuses_new_connections() -> None:
    app = Gate()
    async with serving(app, Limits(grace=20)) as server, Client(server.port) as client, Client(server.port) as idle:
        client.ask()
        await client.head()
        assert server.active == 1
        port = server.port
        server.stop()
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            async with Client(port):
                pass
        app.go.set()
        assert await client.rest() == b"firstother"


async def test_the_drain_lets_a_zero_copy_body_finish(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob), Limits(grace=20)) as server, Client(server.port, receive_buffer=4096) as client:
        client.ask()
        await client.head()
        server.stop()
        assert await client.rest() == content


async def test_a_response_beyond_the_grace_is_cut_off() -> None:
    app = Gate()
    with structlog.testing.capture_logs() as logs:
        async with serving(app, Limits(grace=0.1)) as server, Client(server.port) as client:
            client.ask()
            await client.head()
            server.stop()
            assert await client.rest() == b"first"
            await wait_until_async(lambda: app.cancelled, "the app has been cancelled")
    assert [entry["event"] for entry in logs] == ["responses are cut off: the grace period is over"]


async def test_an_idle_server_stops_at_once() -> None:
    loop = asyncio.get_running_loop()
    async with serving(hello, Limits(grace=20)) as server, Client(server.port) as client:
        await client.get()
        before = loop.time()
    assert loop.time() - before < 10


async def test_two_servers_run_in_one_loop(blob: Path) -> None:
    async with serving(hello) as one, serving(FileApp(blob)) as two, Client(one.port) as first:
        async with Client(two.port) as second:
            assert (await second.get("/0-100000")).status == 200
        two.stop()
        assert (await first.get()).body == b"hello"


async def test_nothing_of_uvicorn_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    async with serving(hello) as server, Client(server.port) as client:
        client.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.response()).status == 200
    assert capfd.readouterr() == ("", "")


async def test_a_client_that_has_all_and_closes_before_the_thread_says_so_has_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that has sent the last byte tells the event loop of it, which may hear of the client's end before."""
    size = 2 * AT_ONCE
    file = tmp_path / "blob"
    file.write_bytes(bytes(size))
    app, ended, heard = FileApp(file), asyncio.Event(), threading.Event()

    def send_late(sock: int, source: int, offset: int, count: int) -> int:
        taken = send_piece(sock, source, offset, count)
        if offset + taken == size:
            assert heard.wait(DEADLINE)
        return taken

    async def noted(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            ended.set()

    monkeypatch.setattr(pump, "send_piece", send_late)
    async with serving(noted) as server, Client(server.port) as client:
        client.ask()
        assert (await client.response()).body == bytes(size)
        await client.leave()
        await wait_until_async(lambda: server.connections == 0, "the server knows that the client has gone")
        heard.set()
        await asyncio.wait_for(ended.wait(), DEADLINE)
    assert app.failures == []

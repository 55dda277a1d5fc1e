"""What a client may send, and for how long: heads, dribbles, garbage, bodies that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.server import Limits
from proxy.server.asgi import Receive, Send
from proxy.server.protocol import MAX_PIPELINED
from tests.server.harness import Client, FileApp, body, hello, serving, start

pytestmark = pytest.mark.anyio

QUICK = Limits(header_timeout=1, grace=1)


async def test_a_dribbled_head_is_closed_by_the_deadline_while_others_proceed() -> None:
    async with serving(hello, QUICK) as server, Client(server.port) as dribbler, Client(server.port) as other:
        head = b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 10_000
        answered = 0
        ended = asyncio.create_task(dribbler.rest())
        for index in range(len(head)):
            dribbler.write(head[index : index + 1])
            assert (await other.get()).body == b"hello"
            answered += 1
            if ended.done():
                break
            await asyncio.wait({ended}, timeout=0.01)
        assert await ended == b""
        assert 1 < answered < len(head)
        assert (await other.get()).body == b"hello"


async def test_a_connection_that_says_nothing_is_closed_by_the_deadline() -> None:
    async with serving(hello, QUICK) as server, Client(server.port) as client:
        assert await client.rest() == b""


async def test_blank_lines_do_not_hold_a_connection_open() -> None:
    async with serving(hello, QUICK) as server, Client(server.port) as client:
        ended = asyncio.create_task(client.rest())
        while not ended.done():
            client.write(b"\r\n")
            await asyncio.wait({ended}, timeout=0.02)
        assert await ended == b""


async def test_the_second_head_of_a_connection_has_the_deadline_too() -> None:
    async with serving(hello, QUICK) as server, Client(server.port) as client:
        await client.get()
        client.write(b"GET / HT")
        assert await client.rest() == b""


async def test_an_idle_connection_outlives_the_header_deadline_and_ends_with_keep_alive() -> None:
    limits = Limits(header_timeout=0.5, keep_alive=3, grace=1)
    async with serving(hello, limits) as server, Client(server.port) as client:
        await client.get()
        with contextlib.suppress(TimeoutError):
            assert await asyncio.wait_for(client.reader.read(1), 1) != b"", "closed too soon"
        assert (await client.get()).body == b"hello"
        assert await client.rest() == b""


async def test_a_response_may_take_longer_than_the_header_deadline() -> None:
    release = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await release.wait()
        await hello(scope, receive, send)

    async with serving(app, Limits(header_timeout=0.5, grace=1)) as server, Client(server.port) as client:
        client.ask()
        asyncio.get_running_loop().call_later(1, release.set)
        assert (await client.response()).body == b"hello"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX-Large: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Many: x\r\n" * 7_000 + b"\r\n",
    ],
    ids=["one header", "many headers"],
)
async def test_a_head_beyond_the_limit_is_answered_with_431(head: bytes) -> None:
    async with serving(hello) as server, Client(server.port) as client:
        client.write(head)
        response = await client.response()
        assert response.status == 431
        assert "larger than 65536 bytes" in json.loads(response.body)["errors"][0]["message"]
        assert response.headers["connection"] == "close"


async def test_a_head_that_never_ends_is_answered_with_431() -> None:
    async with serving(hello) as server, Client(server.port) as client:
        client.write(b"GET / HTTP/1.1\r\nX-Endless: ")
        answer = asyncio.create_task(client.head())
        while not answer.done():
            client.write(b"x" * 8192)
            await asyncio.wait({answer}, timeout=0.001)
        assert (await answer).status == 431


async def test_what_is_not_http_is_answered_with_400_in_the_form_of_oci() -> None:
    async with serving(hello) as server, Client(server.port) as client:
        client.write(b"\x16\x03\x01 this is no request\r\n\r\n")
        response = await client.response()
    assert response.status == 400
    assert json.loads(response.body)["errors"][0]["code"] == "UNSUPPORTED"


async def test_garbage_behind_a_request_does_not_break_into_its_response(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        client.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n\x00\x01garbage\r\n\r\n")
        assert (await client.response()).body == content
        assert await client.rest() == b""


async def test_a_body_that_nobody_reads_does_not_hold_a_connection_open() -> None:
    async with serving(hello, QUICK) as server, Client(server.port) as client:
        client.ask(method="PUT", headers="Content-Length: 1000000000\r\n")
        assert (await client.response()).body == b"hello"
        ended = asyncio.create_task(client.rest())
        while not ended.done():
            client.write(b"x" * 1000)
            await asyncio.wait({ended}, timeout=0.01)
        assert await ended == b""


async def test_a_connection_is_used_again_after_a_body_that_nobody_read() -> None:
    async with serving(hello, QUICK) as server, Client(server.port) as client:
        client.ask(method="PUT", headers="Content-Length: 200000\r\n")
        client.write(b"x" * 200_000)
        assert (await client.response()).body == b"hello"
        assert (await client.get()).body == b"hello"


async def test_requests_that_pile_up_on_one_connection_are_bounded() -> None:
    release = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await release.wait()
        await hello(scope, receive, send)

    async with serving(app) as server, Client(server.port) as client:
        client.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 1000)
        release.set()
        assert (await client.rest()).count(b"hello") == MAX_PIPELINED + 1


async def test_no_header_names_the_software() -> None:
    async with serving(hello) as server, Client(server.port) as client:
        headers = (await client.get()).headers
    assert "server" not in headers
    assert headers["date"].endswith("gmt")


async def test_an_app_that_reads_a_body_gets_it() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        message = await receive()
        await send(start(len(message["body"])))
        await send(body(message["body"]))

    async with serving(app) as server, Client(server.port) as client:
        client.ask(method="POST", headers="Content-Length: 3\r\n")
        client.write(b"abc")
        assert (await client.response()).body == b"abc"

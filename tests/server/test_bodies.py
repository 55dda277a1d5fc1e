"""Zero-copy bodies: the right bytes, in order, however the file and the client behave."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from proxy.server import sendfile
from proxy.server.sendfile import resident
from tests.server.harness import Client, FileApp, hello, serving
from tests.support.certificates import Authority
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio


async def test_a_whole_file_arrives_as_it_is(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        response = await client.get()
    assert response.status == 200
    assert response.body == content


async def test_ranges_of_every_size_arrive_in_their_order(blob: Path, content: bytes) -> None:
    ranges = [(0, 1), (5, 300_000), (100, 0), (4_194_303, 9_000_001), (24_000_000, 4096)]
    path = "/" + ",".join(f"{offset}-{count}" for offset, count in ranges)
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        response = await client.get(path)
    assert response.body == b"".join(content[offset : offset + count] for offset, count in ranges)


async def test_a_connection_is_used_again_after_a_zero_copy_body(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        for path, expected in (("/7-1000000", content[7:1_000_007]), ("/0-10", content[:10]), ("/", content)):
            assert (await client.get(path)).body == expected


async def test_pipelined_requests_are_answered_in_turn(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        for path in ("/0-5000000", "/1-10", "/2-3000000"):
            client.ask(path)
        answers = [(await client.response()).body for _ in range(3)]
    assert answers == [content[:5_000_000], content[1:11], content[2:3_000_002]]


async def test_many_clients_share_one_file(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob)) as server:

        async def pull() -> bytes:
            async with Client(server.port) as client:
                return (await client.get()).body

        bodies = await asyncio.wait_for(asyncio.gather(*(pull() for _ in range(8))), 60)
    assert all(body == content for body in bodies)


async def test_head_has_the_length_and_no_body(blob: Path, content: bytes) -> None:
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        response = await client.get(method="HEAD")
        assert response.headers["content-length"] == str(len(content))
        assert (await client.get("/0-3")).body == content[:3]


async def test_tls_gives_the_same_bytes(blob: Path, content: bytes, authority: Authority) -> None:
    certificate = authority.issue()
    files: dict[str, Any] = {"cert_file": certificate.chain_file, "key_file": certificate.key_file}
    async with (
        serving(FileApp(blob), **files) as server,
        Client(server.port, tls=authority.client_context()) as client,
    ):
        assert (await client.get("/3-70000,9-2")).body == content[3:70003] + content[9:11]
        assert (await client.get()).body == content


async def test_a_file_system_without_sendfile_gives_the_same_bytes(
    blob: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    async with serving(FileApp(blob)) as server, Client(server.port) as client:
        assert (await client.get("/3-70000,0-9000000")).body == content[3:70003] + content[:9_000_000]


@pytest.mark.parametrize("secure", [False, True])
async def test_pages_that_must_come_from_the_disk_arrive_as_well(
    blob: Path, content: bytes, authority: Authority, secure: bool
) -> None:
    certificate = authority.issue()
    files: dict[str, Any] = {"cert_file": certificate.chain_file, "key_file": certificate.key_file} if secure else {}
    context = authority.client_context() if secure else None
    with blob.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if resident(file.fileno(), 0, len(content)):
            pytest.skip("this file system keeps its pages, or does not tell")
    async with serving(FileApp(blob), **files) as server, Client(server.port, tls=context) as client:
        assert (await client.get()).body == content


async def test_a_truncated_file_breaks_the_connection_and_is_logged(blob: Path, content: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        app = FileApp(blob, declared=len(content) + 1)
        async with serving(app) as server, Client(server.port) as client:
            client.ask()
            assert (await client.head()).status == 200
            assert await client.rest() == content
    assert isinstance(app.failures[0], sendfile.Truncated)
    assert [(entry["event"], entry["path"]) for entry in logs] == [("the response was broken off", "/")]


@pytest.mark.parametrize("path", ["/", "/0-10,0-20000000"])
async def test_a_client_that_leaves_makes_send_raise(blob: Path, path: str) -> None:
    app = FileApp(blob)
    with structlog.testing.capture_logs() as logs:
        async with serving(app) as server:
            async with Client(server.port, receive_buffer=4096) as client:
                client.ask(path)
                await client.head()
            await wait_until_async(lambda: app.failures, "send has raised")
            assert server.active == 0
    assert isinstance(app.failures[0], ConnectionResetError)
    assert logs == []


async def test_more_than_the_promised_length_is_refused(blob: Path) -> None:
    failures: list[Exception] = []

    async def app(scope: object, receive: object, send: object) -> None:
        with blob.open("rb") as file:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})  # type: ignore[operator]
            try:
                await send({"type": "http.response.zerocopysend", "file": file, "offset": 0, "count": 11})  # type: ignore[operator]
            except RuntimeError as error:
                failures.append(error)
                raise

    with structlog.testing.capture_logs():
        async with serving(app) as server, Client(server.port) as client:
            client.ask()
            await client.head()
            assert await client.rest() == b""
    assert "longer than Content-Length" in str(failures[0])


@pytest.mark.parametrize("secure", [False, True])
async def test_what_has_been_sent_is_known_while_it_is_sent(
    blob: Path, content: bytes, authority: Authority, secure: bool
) -> None:
    certificate = authority.issue()
    files: dict[str, Any] = {"cert_file": certificate.chain_file, "key_file": certificate.key_file} if secure else {}
    context = authority.client_context() if secure else None
    async with serving(FileApp(blob), **files) as server:
        assert server.sent == 0
        async with Client(server.port, tls=context, receive_buffer=4096) as client:
            client.ask()
            await client.head()
            await wait_until_async(lambda: 0 < server.sent < len(content), "a part of it has been sent")
            assert await client.reader.readexactly(len(content)) == content
            await wait_until_async(lambda: server.sent == len(content), "all of it has been sent")
            client.ask(method="HEAD")
            await client.head()
            client.ask("/0-10")
            await client.response()
        assert server.sent == len(content) + 10


async def test_a_body_that_is_no_file_counts_as_sent_and_that_of_head_does_not() -> None:
    async with serving(hello) as server, Client(server.port) as client:
        for method, sent in (("GET", 5), ("HEAD", 5), ("GET", 10)):
            await client.get(method=method)
            await wait_until_async(lambda sent=sent: server.sent == sent, f"{sent} bytes have been sent")  # type: ignore[misc]


async def test_what_was_sent_to_a_client_that_left_stays_counted(blob: Path, content: bytes) -> None:
    app = FileApp(blob)
    with structlog.testing.capture_logs():
        async with serving(app) as server:
            async with Client(server.port, receive_buffer=4096) as client:
                client.ask()
                await client.head()
                await wait_until_async(lambda: server.sent, "a part of it has been sent")
                before = server.sent
            await wait_until_async(lambda: app.failures, "send has raised")
            assert before <= server.sent < len(content)

"""The wire: deadlines, broken connections, private authorities, proxies, and bytes as they are."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy import __version__
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.oci.names import Tag
from proxy.oci.source import BlobStream
from proxy.upstream.endpoint import Endpoint, Timeouts
from proxy.upstream.guard import Guard
from proxy.upstream.transport import CONNECTIONS_PER_HOST, ConnectionFailed, Transport
from tests.support.certificates import Authority
from tests.support.faults import Gate, change, cut, stall
from tests.support.images import chart
from tests.support.ports import free_port
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until_async
from tests.upstream.conftest import FAST, REPOSITORY, Connect, Notes

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 4096 * 4  # 4 MiB
DIGEST = Digest.of(CONTENT)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server on 127.0.0.1 that does what `serve` does with each connection."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def says(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return serve


@asynccontextmanager
async def transport(url: str, timeouts: Timeouts = FAST, ca_file: Path | None = None) -> AsyncIterator[Transport]:
    endpoint = Endpoint("example.test", url, ca_file=ca_file)
    made = Transport(endpoint, timeouts, Guard(endpoint))
    try:
        yield made
    finally:
        await made.aclose()


async def get(url: str, timeouts: Timeouts = FAST, ca_file: Path | None = None) -> bytes:
    async with transport(url, timeouts, ca_file) as wire:
        guard = Guard(Endpoint("example.test", url))
        async with await wire.send("GET", guard.api("/v2/"), {}) as reply:
            return await reply.read(1 << 20, within=5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionFailed),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UpstreamInvalid),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", UpstreamInvalid),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", UpstreamInvalid),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", UpstreamInvalid),
    ],
    ids=["hangs up", "short", "short chunk", "half a header", "no http", "no length", "huge header", "many headers"],
)
async def test_an_answer_that_is_cut_or_not_http_is_told_apart(answer: bytes, error: type[Exception]) -> None:
    async with listening(says(answer)) as port:
        with pytest.raises(error, match=f"127.0.0.1:{port}") as caught:
            await get(f"http://127.0.0.1:{port}")
    assert caught.value.__context__ is None, "the client's exception holds the URL, which may be a secret"


async def test_nobody_listening_says_so() -> None:
    port = free_port()
    with pytest.raises(ConnectionFailed, match=r"[Rr]efused.*check its url"):
        await get(f"http://127.0.0.1:{port}")


async def test_a_name_that_does_not_exist_says_so() -> None:
    with pytest.raises(ConnectionFailed, match="cannot be resolved"):
        await get("http://nowhere.invalid")


async def test_no_answer_at_all_is_a_timeout() -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(serve) as port:
        with pytest.raises(UpstreamTimeout, match="in time"):
            await get(f"http://127.0.0.1:{port}")


async def test_headers_dribbled_byte_by_byte_are_a_timeout() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    async with listening(serve) as port:
        with pytest.raises(UpstreamTimeout):
            await get(f"http://127.0.0.1:{port}", Timeouts(connect=1, read=0.3, pool=0.3))


async def test_a_body_that_stalls_is_a_timeout_after_what_came_before(
    upstream: ScriptedUpstream, connect: Connect
) -> None:
    upstream.add_blob(REPOSITORY, CONTENT)
    upstream.script(DIGEST, stall(1_000_000))
    async with connect(upstream.url, timeouts=FAST).blob(REPOSITORY, DIGEST) as stream:
        got, error = await _drain(stream)
    assert isinstance(error, UpstreamTimeout)
    assert got == CONTENT[:1_000_000]


@pytest.mark.parametrize("at", [0, 1, len(CONTENT) // 2, len(CONTENT) - 1])
async def test_a_body_that_breaks_is_told_after_what_came_before(
    upstream: ScriptedUpstream, connect: Connect, at: int
) -> None:
    upstream.add_blob(REPOSITORY, CONTENT)
    upstream.script(DIGEST, cut(at, "close"))
    async with connect(upstream.url, timeouts=FAST).blob(REPOSITORY, DIGEST) as stream:
        got, error = await _drain(stream)
    assert isinstance(error, ConnectionFailed)
    assert got == CONTENT[:at]


async def test_a_manifest_dribbled_within_the_read_deadline_still_ends(
    upstream: ScriptedUpstream, connect: Connect
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with listening(serve) as port:
        timeouts = Timeouts(connect=5, read=5, pool=5, whole=0.5)
        with pytest.raises(UpstreamTimeout, match=r"within 0\.5 s"):
            await connect(f"http://127.0.0.1:{port}", timeouts=timeouts).manifest(REPOSITORY, Tag("x"))


async def test_leaving_early_closes_the_connection_instead_of_draining_it(connect: Connect) -> None:
    closed = asyncio.Event()
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        except OSError:
            closed.set()

    async with listening(serve) as port:
        async with connect(f"http://127.0.0.1:{port}").blob(REPOSITORY, DIGEST) as stream:
            assert stream.size == 10_000_000_000
            await anext(aiter(stream.chunks))
        async with asyncio.timeout(5):
            await closed.wait()
    assert sent < 64 << 20


async def test_a_finished_body_gives_its_connection_back(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add(chart(), REPOSITORY, "x")
    registry = connect(upstream.url)
    for _ in range(5):
        await registry.manifest(REPOSITORY, Tag("x"))
    assert upstream.connections == 1


async def test_large_reads_arrive_in_few_chunks(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add_blob(REPOSITORY, CONTENT)
    async with connect(upstream.url).blob(REPOSITORY, DIGEST) as stream:
        sizes = []
        async for chunk in stream.chunks:
            sizes.append(len(chunk))
            await asyncio.sleep(0.01)
    assert sum(sizes) == len(CONTENT)
    assert max(sizes) > 256 * 1024


async def test_a_reader_slower_than_the_read_deadline_is_not_upstreams_fault(
    upstream: ScriptedUpstream, connect: Connect
) -> None:
    large = CONTENT * 8
    digest = Digest.parse(upstream.add_blob(REPOSITORY, large))
    async with connect(upstream.url, timeouts=Timeouts(read=1)).blob(REPOSITORY, digest) as stream:
        first = await anext(aiter(stream.chunks))
        await asyncio.sleep(2)  # this pause is what is tested
        got, error = await _drain(stream)
    assert error is None
    assert first + got == large


async def test_a_content_coding_is_never_asked_for_nor_undone(upstream: ScriptedUpstream, connect: Connect) -> None:
    packed = gzip.compress(CONTENT)
    digest = Digest.of(packed)
    upstream.add_blob(REPOSITORY, packed)
    upstream.script(digest, then=change(headers={"Content-Encoding": "gzip"}))
    async with connect(upstream.url).blob(REPOSITORY, digest) as stream:
        assert stream.size == len(packed)
        assert b"".join([chunk async for chunk in stream.chunks]) == packed
    headers = upstream.seen(digest)[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == f"millpond/{__version__}"


async def test_many_stalled_blobs_do_not_keep_a_manifest_waiting(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add(chart(), REPOSITORY, "x")
    upstream.add_blob(REPOSITORY, CONTENT)
    gate = Gate()
    upstream.script(DIGEST, then=change(gates={10: gate}))
    registry = connect(upstream.url, timeouts=Timeouts(pool=5, read=5))

    async def pull() -> None:
        async with registry.blob(REPOSITORY, DIGEST) as stream:
            async for _ in stream.chunks:
                pass

    pulls = [asyncio.create_task(pull()) for _ in range(CONNECTIONS_PER_HOST + 5)]
    await wait_until_async(lambda: len(upstream.seen(DIGEST)) >= CONNECTIONS_PER_HOST, "every connection is taken")
    await registry.manifest(REPOSITORY, Tag("x"))
    gate.open()
    await asyncio.gather(*pulls)


async def test_a_private_authority_is_trusted_once_it_is_configured(authority: Authority, connect: Connect) -> None:
    notes = Notes()
    with ScriptedUpstream(authority) as upstream:
        await connect(upstream.url, ca_file=authority.ca_file).ping()
        with pytest.raises(UpstreamUnreachable, match=r"certificate.*refused.*ca_file"):
            await connect(upstream.url, observer=notes).ping()
    assert notes.requests == [("ping", 0)], "a certificate does not get better by trying again"


async def test_an_unusable_ca_file_is_named(tmp_path: Path, connect: Connect) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    for file in (empty, tmp_path / "missing.pem"):
        with pytest.raises(UpstreamUnreachable, match=r"upstreams\.example\.test\.ca_file") as caught:
            await connect("https://127.0.0.1:1", ca_file=file).ping()
        assert str(file) in str(caught.value)


async def test_https_to_a_plain_port_says_so(connect: Connect) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with listening(serve) as port:
        with pytest.raises(MillpondError, match="TLS with"):
            await connect(f"https://127.0.0.1:{port}").ping()


async def test_netrc_is_never_read(
    upstream: ScriptedUpstream, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login robot password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    await connect(upstream.url).ping()
    assert "authorization" not in upstream.seen()[0].headers


async def test_cookies_are_never_sent_back(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.script("/v2/", then=change(headers={"Set-Cookie": "a=b; Path=/"}))
    registry = connect(upstream.url.replace("127.0.0.1", "localhost"))
    await registry.ping()
    await registry.ping()
    assert all("cookie" not in request.headers for request in upstream.seen())


async def test_an_http_proxy_of_the_environment_is_used_but_for_no_proxy(
    upstream: ScriptedUpstream, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with listening(serve) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.0.1:{port}")
        await connect("http://registry.invalid/prefix").ping()
        assert asked[0].startswith(b"GET http://registry.invalid/prefix/v2/ HTTP/1.1")
        assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in asked[0]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,other.test")
        await connect(upstream.url).ping()
        assert len(asked) == 1
        assert len(upstream.seen()) == 1


async def test_https_goes_through_a_proxys_tunnel_and_the_certificate_is_still_checked(
    authority: Authority, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    with ScriptedUpstream(authority) as upstream:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
            there, onward = await asyncio.open_connection("127.0.0.1", upstream.port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pass(reader, onward), _pass(there, writer))

        async with listening(serve) as port:
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
            registry = connect(f"https://localhost:{upstream.port}", ca_file=authority.ca_file)
            await registry.ping()
            await registry.aclose()
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await connect(f"https://wrong.invalid:{upstream.port}", ca_file=authority.ca_file).ping()
    assert asked[0] == f"CONNECT localhost:{upstream.port} HTTP/1.1".encode()


async def test_a_proxy_that_refuses_is_named_without_its_password(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(says(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{port}")
        with pytest.raises(UpstreamUnreachable, match=f"127.0.0.1:{port}.*407") as caught:
            await connect("https://registry.invalid").ping()
    assert "hunter2" not in str(caught.value)


async def test_a_proxy_that_is_no_url_is_named(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://x")
    with pytest.raises(UpstreamUnreachable, match="HTTP_PROXY"):
        await connect("http://registry.invalid").ping()


async def test_nothing_is_opened_before_it_is_needed() -> None:
    async with transport("http://127.0.0.1:1") as wire:
        assert wire._routes == {}


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _drain(stream: BlobStream) -> tuple[bytes, MillpondError | None]:
    """What came, and how it ended."""
    got = bytearray()
    try:
        async for chunk in stream.chunks:
            got += chunk
    except MillpondError as error:
        return bytes(got), error
    return bytes(got), None

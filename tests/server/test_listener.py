"""Ports and certificates that cannot be used are refused with a message that says what to do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from proxy.server import Listener, ListenError, Server
from tests.server.harness import Client, hello, serving
from tests.support.certificates import Authority


def refusal(listener: Listener) -> str:
    with pytest.raises(ListenError) as caught:
        Server(hello, listener).bind()
    return str(caught.value)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refusal(Listener("127.0.0.1", port))
    assert message == (
        f"cannot listen on 127.0.0.1:{port}: another program has this port; stop it, or choose another port"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "::ffff:0:0:1:2"])
def test_an_address_that_is_not_of_this_machine_is_named(host: str) -> None:
    assert "this machine has no such address; use 0.0.0.0 or [::]" in refusal(Listener(host, 0))


def test_a_port_beyond_the_last_is_refused() -> None:
    assert refusal(Listener("127.0.0.1", 70000)).endswith("127.0.0.1:70000: a port is a number from 0 to 65535")


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    message = refusal(Listener("127.0.0.1", 0, cert_file=tmp_path / "none.pem"))
    assert f"cannot read {tmp_path / 'none.pem'} (No such file or directory)" in message


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, authority: Authority) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not PEM")
    assert f"cannot use the certificate {wrong}" in refusal(Listener("127.0.0.1", 0, cert_file=wrong))
    good = authority.issue()
    listener = Listener("127.0.0.1", 0, good.chain_file, good.key_file, client_ca_file=wrong)
    assert f"{wrong} holds no certificate authority" in refusal(listener)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue(), authority.issue()
    assert "its own PEM key" in refusal(Listener("127.0.0.1", 0, one.chain_file, other.key_file))


def test_tls_files_without_a_certificate_are_refused(authority: Authority) -> None:
    assert "TLS needs cert_file as well" in refusal(Listener("127.0.0.1", 0, client_ca_file=authority.ca_file))


def test_all_addresses_of_ipv6_serve_ipv4_too() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    server = Server(hello, Listener("[::]", 0))
    server.bind()
    try:
        with socket.create_connection(("127.0.0.1", server.port), 5), socket.create_connection(("::1", server.port), 5):
            pass
    finally:
        assert server._socket is not None
        server._socket.close()  # it was never served


@pytest.mark.anyio
async def test_a_client_without_a_certificate_is_refused_when_one_is_wanted(authority: Authority) -> None:
    own = authority.issue()
    async with serving(
        hello, cert_file=own.chain_file, key_file=own.key_file, client_ca_file=authority.ca_file
    ) as server:
        context = authority.client_context()
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await pull(server.port, context)
        context.load_cert_chain(own.chain_file, own.key_file)
        assert await pull(server.port, context) == b"hello"


async def pull(port: int, context: ssl.SSLContext) -> bytes:
    async with Client(port, tls=context) as client:
        return (await client.get()).body

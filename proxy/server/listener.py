"""Where a server listens, what it allows a client, and how a bad address or certificate is told to a person."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

LAST_PORT = 65535


class ListenError(OSError):
    """A port that cannot be opened or a certificate that cannot be used; `str(error)` says what to do."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An address and, with a certificate, TLS on it. Port 0 lets the kernel choose; host `::` serves IPv4 as well."""

    host: str
    port: int
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    """Clients must then show a certificate that this authority signed."""
    backlog: int = 2048
    """Connections that wait for accept: a thousand nodes that start at once must not be refused."""

    @property
    def address(self) -> str:
        host = self.host.strip("[]")
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds, sizes in bytes."""

    header_timeout: float = 10.0
    """From a connection's first moment, or a further request's first byte, to its head's end (or the handshake's)."""
    keep_alive: float = 150.0
    """An idle connection: longer than any client's own (BuildKit 120 s), so that no request meets a closing socket."""
    write_timeout: float = 60.0
    """No byte acknowledged for so long, while bytes wait: the client has stalled."""
    grace: float = 30.0
    """What a running response gets after `Server.stop()`."""
    max_header_bytes: int = 64 * 1024
    """A request's head: names are at most 255 characters, but tokens of some clients run to 16 KiB."""
    max_url_bytes: int = 8 * 1024
    """A request's path and query: the longest names, tags and filters of the protocol together are below 2 KiB."""
    max_connections: int | None = None
    """One more is told to come again. None: MAX_CONNECTIONS, or as many as this process may have files open for."""
    max_connections_per_address: int | None = None
    """None: no limit, for many nodes may come from one address (NAT, a balancer)."""


DEFAULT_LIMITS = Limits()

MAX_CONNECTIONS = 10_000
"""A thousand nodes that pull three layers each, three times over. An idle one costs some 20 KiB."""


def open_socket(listener: Listener) -> socket.socket:
    """A bound socket that listens, not blocking. Raises ListenError."""
    host = listener.host.strip("[]")
    if not 0 <= listener.port <= LAST_PORT:
        raise ListenError(f"cannot listen on {listener.address}: a port is a number from 0 to {LAST_PORT}")
    try:
        found = socket.getaddrinfo(
            host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        raise _refusal(listener, error) from error
    family, kind, protocol, _, address = found[0]
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
            sock.bind(address)
            sock.listen(listener.backlog)
        except OSError as error:
            raise _refusal(listener, error) from error
        sock.setblocking(False)
        undo.pop_all()
    return sock


def tls_context(listener: Listener) -> ssl.SSLContext | None:
    """The server's side of TLS, 1.2 or later; None without a certificate. Raises ListenError."""
    if listener.cert_file is None:
        if listener.key_file is not None or listener.client_ca_file is not None:
            raise ListenError(f"{listener.address}: TLS needs cert_file as well; give it, or drop the other TLS files")
        return None
    for path in (listener.cert_file, listener.key_file, listener.client_ca_file):
        if path is not None:
            _readable(listener, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password: OpenSSL would else ask for one on the terminal, and wait.
        context.load_cert_chain(listener.cert_file, listener.key_file, password="")
    except (OSError, ValueError) as error:
        raise ListenError(
            f"{listener.address}: cannot use the certificate {listener.cert_file} with the key "
            f"{listener.key_file or listener.cert_file} ({error}); give a PEM chain, leaf first, and its own PEM key "
            "without a passphrase"
        ) from error
    if listener.client_ca_file is not None:
        try:
            context.load_verify_locations(cafile=listener.client_ca_file)
        except (OSError, ValueError) as error:
            raise ListenError(
                f"{listener.address}: {listener.client_ca_file} holds no certificate authority ({error}); "
                "give the PEM file of the one that signs the clients' certificates"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _readable(listener: Listener, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ListenError(
            f"{listener.address}: cannot read {path} ({os.strerror(error.errno or 0)}); "
            "give a file that this user can read"
        ) from error


def _refusal(listener: Listener, error: Exception) -> ListenError:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        advice = "another program has this port; stop it, or choose another port"
    elif number in (errno.EACCES, errno.EPERM):
        advice = "this user may not open this port; choose one from 1024 up, or grant CAP_NET_BIND_SERVICE"
    elif isinstance(error, (socket.gaierror, UnicodeError)) or number == errno.EADDRNOTAVAIL:
        advice = "this machine has no such address; use 0.0.0.0 or [::] for all addresses, 127.0.0.1 for this machine"
    else:
        advice = f"the system says: {error}"
    refusal = ListenError(f"cannot listen on {listener.address}: {advice}")
    refusal.errno = number
    return refusal

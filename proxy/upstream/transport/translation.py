"""What went wrong on the wire, in Millpond's own errors: where it was, what it is, and what to check."""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp
import httpx

from proxy.oci.errors import MillpondError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.guard import Target


class ConnectionFailed(UpstreamUnreachable):
    """No connection, or one that broke: worth another try."""


class Translation:
    """Turns every exception of the client, of TLS and of the operating system into one of ours, kept in `error`.

    It is raised after the block, not within: there Python would chain it to the original, which holds the URL, and
    that is a secret when it is presigned. One translation serves a request and each read of its answer.
    """

    def __init__(self, target: Target, proxied: str | None) -> None:
        """`proxied`: host[:port] of the proxy that the request takes; None without one."""
        self._target = target
        self._proxied = proxied
        self.error: MillpondError

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError)):
            return False
        self.error = _translate(error, self._target, self._proxied)
        return True


def _translate(error: Exception, target: Target, proxied: str | None) -> MillpondError:
    # httpx-aiohttp calls a server that hung up a ConnectTimeout: only what is beneath tells.
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    where = f"{target} (through the proxy {proxied})" if proxied else str(target)
    system = getattr(cause, "os_error", None) or cause
    reason = getattr(system, "strerror", None) or type(cause).__name__
    if isinstance(cause, aiohttp.ClientConnectorError) and reason.startswith("Connect call failed"):
        reason = os.strerror(cause.os_error.errno or 0)  # asyncio's own words leave out what the kernel said
    match cause:
        case TimeoutError() | httpx.TimeoutException():
            return UpstreamTimeout(f"{where} did not answer in time; check that it is up and can be reached from here")
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            verdict = getattr(getattr(cause, "certificate_error", cause), "verify_message", "") or "not trusted"
            return UpstreamUnreachable(
                f"the TLS certificate of {where} was refused: {verdict}; for a private authority set ca_file of this "
                "upstream"
            )
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return UpstreamUnreachable(f"TLS with {where} failed: {reason}; check that its url is really https")
        case aiohttp.ClientHttpProxyError():
            return UpstreamUnreachable(f"the proxy refused to connect to {where}: {cause.status}; check HTTPS_PROXY")
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return ConnectionFailed(f"the name of {where} cannot be resolved: {reason}; check its url and the DNS")
        case aiohttp.ClientConnectorError():
            return ConnectionFailed(f"no connection to {where}: {reason}; check its url, and that it is up")
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return ConnectionFailed(f"the connection to {where} broke: {reason}")
        case _:
            return UpstreamInvalid(f"{where} sent something that is not a valid HTTP response ({type(cause).__name__})")

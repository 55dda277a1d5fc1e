"""The wire: the only module that knows the HTTP client. One request in, one reply out, every exception translated."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, Self

import aiohttp
import aiohttp.abc
import httpx
import yarl
from httpx_aiohttp.transport import AiohttpResponseStream, AiohttpTransport, map_aiohttp_exceptions

from proxy import __version__
from proxy.oci.errors import MillpondError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.oci.secret import Secret
from proxy.upstream.endpoint import Endpoint, Timeouts
from proxy.upstream.guard import Guard, Target
from proxy.upstream.proxies import host_of, proxy_for

# Measured: 16 KiB reads cost a core at 0.35 GB/s; 1 MiB reads reach 2.4.
CHUNK_SIZE: Final = 1024 * 1024
# Enough for eight large blobs in parallel ranges; a host is not asked for more at once. There is no limit over all
# hosts: blobs of one CDN must not keep the manifests of another registry waiting.
CONNECTIONS_PER_HOST: Final = 64
# Registries and load balancers close idle connections after 60 s or more: drop ours first. Half of the read deadline at
# most: aiohttp (3.14.5) may leave that deadline running behind a body whose end it parsed while reading was paused, and
# whoever took the connection out of the pool after it had passed would be told at once that nothing came in time.
IDLE_CONNECTION: Final = 45.0
# A query of so many characters may be a signature; those of the registry API (n, last, artifactType) may be repeated.
SIGNED_QUERY: Final = 64

Fields = Mapping[str, str | Secret]
"""A request's headers. What is secret among them is revealed here, where it is sent."""


class ConnectionFailed(UpstreamUnreachable):
    """No connection, or one that broke: worth another try."""


class Reply:
    """An answer whose body is still on the wire: read it once, close it always (`async with`).

    Iterating yields raw bytes as they arrive, never content-decoded.
    """

    def __init__(
        self,
        target: Target,
        response: httpx.Response,
        proxied: str | None,
        *,
        secrets: Sequence[Secret],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        """`secrets` are what was sent, and what is not to be repeated from the answer; `ended` is called once."""
        self.target: Final = target
        self.status: Final = response.status_code
        self._response = response
        self._proxied = proxied
        self._secrets = secrets
        self._ended: Callable[[], Awaitable[None]] | None = ended
        self._body = response.aiter_raw()

    def header(self, name: str) -> str | None:
        """The first value; None when the header is missing."""
        return next(iter(self.headers(name)), None)

    def headers(self, name: str) -> list[str]:
        """The header's lines, each as it came."""
        return self._response.headers.get_list(name)

    @property
    def length(self) -> int | None:
        """Content-Length in bytes; None when it is missing or not a number."""
        text = self.header("content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None

    def repeats_a_secret(self, text: str) -> bool:
        """Whether `text`, of this answer, has in it what was secret in the request: some gateways echo it."""
        _, _, query = self.target.path.partition("?")
        kept = [secret.reveal().rpartition(" ")[2] for secret in self._secrets]
        return any(part in text for part in (*kept, *([query] if len(query) >= SIGNED_QUERY else ())))

    async def read(self, limit: int, *, within: float) -> bytes:
        """The whole body, of at most `limit` bytes, in `within` seconds.

        Raises:
            UpstreamInvalid: it is longer; no more than one chunk beyond `limit` has been read.
            UpstreamTimeout: it took longer.
        """
        too_long = UpstreamInvalid(f"{self.target} sent a body of more than {limit} bytes where that is the limit")
        if (self.length or 0) > limit:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(within):
                async for chunk in self:
                    body += chunk
                    if len(body) > limit:
                        raise too_long
        except TimeoutError:
            raise UpstreamTimeout(f"{self.target} did not finish its answer within {within:g} s") from None
        return bytes(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _Translation(self.target, self._proxied) as translation:
            return await anext(self._body)
        raise translation.error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back when the body has been read to its end, else close it: nothing is drained."""
        try:
            await self._body.aclose()  # type: ignore[attr-defined]  # an async generator, though typed as an iterator
        finally:
            ended, self._ended = self._ended, None
            try:
                await self._response.aclose()
            finally:
                if ended is not None:
                    await ended()


class Transport:
    """Connections to one upstream, and to wherever it redirects. Opened lazily, in the loop that runs then."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, guard: Guard) -> None:
        self._endpoint = endpoint
        self._guard = guard
        self._whole = timeouts.pool + timeouts.read
        self._timeout = {"connect": timeouts.connect, "read": timeouts.read, "pool": timeouts.pool}
        self._idle = min(IDLE_CONNECTION, timeouts.read / 2)
        self._tls: ssl.SSLContext | None = None
        self._routes: dict[tuple[str | None, bool], AiohttpTransport] = {}
        self._under_way = 0  # requests, until their replies are closed
        self._retired = False

    async def send(self, method: str, target: Target, headers: Fields, *, bulk: bool = False) -> Reply:
        """Make one request, nothing followed or repeated. `bulk` (blobs) has connections of its own.

        Raises:
            UpstreamTimeout, UpstreamUnreachable, UpstreamInvalid: no usable answer; says which host, what and why.
        """
        self._under_way += 1
        try:
            return await self._sent(method, target, headers, bulk=bulk)
        except BaseException:
            await self._ended()
            raise

    async def retire(self) -> None:
        """Close the connections when what is under way has ended. What is asked for all the same still works."""
        self._retired = True
        if not self._under_way:
            await self.aclose()

    @property
    def over(self) -> bool:
        """Whether it is retired, and nothing is under way any more."""
        return self._retired and not self._under_way

    async def _ended(self) -> None:
        self._under_way -= 1
        if self.over:
            await self.aclose()

    async def _sent(self, method: str, target: Target, headers: Fields, *, bulk: bool) -> Reply:
        proxy = proxy_for(target)
        request = httpx.Request(
            method,
            f"{target.scheme}://{target.authority}",
            headers={
                "Host": target.authority,
                "User-Agent": f"millpond/{__version__}",
                "Accept-Encoding": "identity",  # what is cached and hashed are the registry's own bytes
                **{name: value.reveal() if isinstance(value, Secret) else value for name, value in headers.items()},
            },
            extensions={"timeout": self._timeout, "target": target.url},
        )
        with _Translation(target, host_of(proxy)) as translation:
            # Over the whole, because headers dribbled byte by byte renew the deadline between reads each time.
            async with asyncio.timeout(self._whole):
                response = await self._route(proxy, bulk).handle_async_request(request)
            return Reply(target, response, host_of(proxy), secrets=self._secrets_in(headers), ended=self._ended)
        raise translation.error

    def _secrets_in(self, headers: Fields) -> list[Secret]:
        own = [self._endpoint.password] if self._endpoint.password is not None else []
        return own + [value for value in headers.values() if isinstance(value, Secret)]

    async def aclose(self) -> None:
        routes, self._routes = list(self._routes.values()), {}
        for route in routes:
            await route.aclose()

    def _route(self, proxy: str | None, bulk: bool) -> AiohttpTransport:
        route = self._routes.get((proxy, bulk))
        if route is None:
            # A forward proxy resolves names itself, and may well be at a private address.
            resolver = _GuardedResolver(self._guard) if proxy is None else None
            try:
                route = _Route(self._tls_context(), httpx.Proxy(proxy) if proxy else None, resolver, self._idle)
            except (ValueError, httpx.InvalidURL):
                raise UpstreamUnreachable("the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not a URL") from None
            self._routes[proxy, bulk] = route
        return route

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            context = ssl.create_default_context()
            if self._endpoint.ca_file is not None:
                try:
                    context.load_verify_locations(self._endpoint.ca_file)
                except OSError as error:  # ssl.SSLError is one
                    reason = error.strerror or "it holds no certificate in PEM form"
                    raise UpstreamUnreachable(
                        f"upstream {self._endpoint.name}: {self._endpoint.ca_file} cannot be used: {reason}; "
                        f"check upstreams.{self._endpoint.name}.ca_file"
                    ) from None
            self._tls = context
        return self._tls


class _Stream(AiohttpResponseStream):
    CHUNK_SIZE = CHUNK_SIZE


class _Route(AiohttpTransport):
    """The transport of httpx-aiohttp with large reads, and URLs sent exactly as they were given.

    httpx and aiohttp would both normalise a URL, each in its way; a presigned one must stay as it was signed.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        proxy: httpx.Proxy | None,
        resolver: aiohttp.abc.AbstractResolver | None,
        idle: float,
    ) -> None:
        """`idle`: seconds after which a connection that nobody uses is closed."""
        connector = aiohttp.TCPConnector(
            ssl=tls,
            limit=0,
            limit_per_host=CONNECTIONS_PER_HOST,
            keepalive_timeout=idle,
            resolver=resolver,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # it would read ~/.netrc; proxies from the environment are chosen above
            read_bufsize=CHUNK_SIZE,
        )
        self._proxy_auth = {}
        if proxy and proxy.auth:
            pair = base64.b64encode(":".join(proxy.auth).encode()).decode()
            self._proxy_auth = {"Proxy-Authorization": f"Basic {pair}"}
        super().__init__(verify=tls, trust_env=False, proxy=proxy, client=self._session)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions["timeout"]
        url = yarl.URL(request.extensions["target"], encoded=True)
        # A proxy reads a plain request's own headers; for a tunnel it has some of its own, which the registry must
        # not see.
        tunnel = url.scheme == "https"
        with map_aiohttp_exceptions():
            response = await self._session.request(
                request.method,
                url,
                headers={**request.headers, **({} if tunnel else self._proxy_auth)},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=timeout["connect"], sock_read=timeout["read"], connect=timeout["pool"]
                ),
                proxy=str(self.proxy.url) if self.proxy else None,
                proxy_headers=self._proxy_auth if tunnel and self._proxy_auth else None,
            )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Stream(response), request=request)


class _GuardedResolver(aiohttp.abc.AbstractResolver):
    """The system's resolver, whose answers the guard sees before a connection is made."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._system.resolve(host, port, family)
        self._guard.admit(host, [result["host"] for result in found])
        return found

    async def close(self) -> None:
        await self._system.close()


class _Translation:
    """Turns every exception of the client, of TLS and of the operating system into one of ours, kept in `error`.

    It is raised after the block, not within: there Python would chain it to the original, which holds the URL, and
    that is a secret when it is presigned.
    """

    def __init__(self, target: Target, proxied: str | None) -> None:
        self._target = target
        self._proxied = proxied
        self.error: MillpondError

    def __enter__(self) -> Self:
        return self

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

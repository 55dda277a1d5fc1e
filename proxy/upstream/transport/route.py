"""A way to upstream: a pool of connections, direct or through one proxy, that leaves URLs and bodies as they are."""

from __future__ import annotations

import base64
import socket
import ssl
from typing import Final

import aiohttp
import aiohttp.abc
import httpx
import yarl
from httpx_aiohttp.transport import AiohttpResponseStream, AiohttpTransport, map_aiohttp_exceptions

from proxy.upstream.guard import Guard

# Measured: 16 KiB reads cost a core at 0.35 GB/s; 1 MiB reads reach 2.4.
CHUNK_SIZE: Final = 1024 * 1024
# Enough for eight large blobs in parallel ranges; a host is not asked for more at once. There is no limit over all
# hosts: blobs of one CDN must not keep the manifests of another registry waiting.
CONNECTIONS_PER_HOST: Final = 64


class Route(AiohttpTransport):
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
            trust_env=False,  # it would read ~/.netrc; the caller chooses proxies from the environment
            read_bufsize=CHUNK_SIZE,
        )
        self._proxy_auth = {}
        if proxy and proxy.auth:
            pair = base64.b64encode(":".join(proxy.auth).encode()).decode()
            self._proxy_auth = {"Proxy-Authorization": f"Basic {pair}"}
        super().__init__(verify=tls, trust_env=False, proxy=proxy, client=self._session)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it. Its extensions have `target`, the URL, and `timeout`, in seconds: `connect`, `read`, `pool`."""
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


class _Stream(AiohttpResponseStream):
    CHUNK_SIZE = CHUNK_SIZE


class GuardedResolver(aiohttp.abc.AbstractResolver):
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

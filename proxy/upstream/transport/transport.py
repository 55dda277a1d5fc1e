"""Requests to one upstream: each by a route of its own kind, all of them counted until their replies are closed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from proxy import __version__
from proxy.oci.errors import UpstreamUnreachable
from proxy.oci.secret import Secret
from proxy.upstream.endpoint import Endpoint, Timeouts
from proxy.upstream.guard import Guard, Target
from proxy.upstream.proxies import host_of, proxy_for
from proxy.upstream.transport.reply import Reply
from proxy.upstream.transport.route import GuardedResolver, Route
from proxy.upstream.transport.translation import Translation

# Registries and load balancers close idle connections after 60 s or more: drop ours first. Half of the read deadline at
# most: aiohttp (3.14.5) may leave that deadline running behind a body whose end it parsed while reading was paused, and
# whoever took the connection out of the pool after it had passed would be told at once that nothing came in time.
IDLE_CONNECTION: Final = 45.0

Fields = Mapping[str, str | Secret]
"""A request's headers. What is secret among them is revealed here, where it is sent."""


class Transport:
    """Connections to one upstream, and to wherever it redirects. Opened lazily, in the loop that runs then."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, guard: Guard) -> None:
        self._endpoint = endpoint
        self._guard = guard
        self._whole = timeouts.pool + timeouts.read
        self._timeout = {"connect": timeouts.connect, "read": timeouts.read, "pool": timeouts.pool}
        self._idle = min(IDLE_CONNECTION, timeouts.read / 2)
        self._tls: ssl.SSLContext | None = None
        self._routes: dict[tuple[str | None, bool], Route] = {}
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
        translation = Translation(target, host_of(proxy))
        with translation:
            # Over the whole, because headers dribbled byte by byte renew the deadline between reads each time.
            async with asyncio.timeout(self._whole):
                response = await self._route(proxy, bulk).handle_async_request(request)
            return Reply(target, response, translation, secrets=self._secrets_in(headers), ended=self._ended)
        raise translation.error

    def _secrets_in(self, headers: Fields) -> list[Secret]:
        own = [self._endpoint.password] if self._endpoint.password is not None else []
        return own + [value for value in headers.values() if isinstance(value, Secret)]

    def _route(self, proxy: str | None, bulk: bool) -> Route:
        route = self._routes.get((proxy, bulk))
        if route is None:
            if self._tls is None:
                self._tls = _tls_context(self._endpoint)
            # A forward proxy resolves names itself, and may well be at a private address.
            resolver = GuardedResolver(self._guard) if proxy is None else None
            try:
                route = Route(self._tls, httpx.Proxy(proxy) if proxy else None, resolver, self._idle)
            except (ValueError, httpx.InvalidURL):
                raise UpstreamUnreachable("the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not a URL") from None
            self._routes[proxy, bulk] = route
        return route

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

    async def aclose(self) -> None:
        routes, self._routes = list(self._routes.values()), {}
        for route in routes:
            await route.aclose()


def _tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """The system's authorities, and the endpoint's own. Raises UpstreamUnreachable where that cannot be used."""
    context = ssl.create_default_context()
    if endpoint.ca_file is not None:
        try:
            context.load_verify_locations(endpoint.ca_file)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or "it holds no certificate in PEM form"
            raise UpstreamUnreachable(
                f"upstream {endpoint.name}: {endpoint.ca_file} cannot be used: {reason}; "
                f"check upstreams.{endpoint.name}.ca_file"
            ) from None
    return context

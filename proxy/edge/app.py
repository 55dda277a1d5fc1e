"""The registry port as an ASGI application: parse, hand off, answer, and say what was served."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.edge.access import AT_ONCE, Access
from proxy.edge.handlers import Handlers
from proxy.edge.problems import problem
from proxy.edge.request import Request, RequestHeaders, request_id
from proxy.edge.routes import Namespace, Noun
from proxy.observe.events import Observer, Served
from proxy.oci.errors import MillpondError, Unsupported
from proxy.oci.names import Repository

_API_VERSION: Final = "registry/2.0"


class RegistryPort:
    """Pulls over HTTP. Everything but GET and HEAD is refused, its body unread."""

    def __init__(
        self,
        namespace: Namespace,
        handlers: Handlers,
        observers: Sequence[Observer],
        access: Access | None = None,
        began: Sequence[Observer] = (),
    ) -> None:
        """Without `access`, whoever reaches the port may pull everything. `observers` are told of each request when it
        has ended, `began` when it has been understood."""
        self._namespace = namespace
        self._observers = observers
        self._began = began
        self.access = access
        """Another one holds for requests that come from then on."""
        self._plain: dict[Noun, Callable[[Request], Awaitable[Response]]] = {
            "ping": handlers.ping,
            "catalog": handlers.catalog,
        }
        self._in_repository: dict[Noun, Callable[[Request, Repository], Awaitable[Response]]] = {
            "manifests": handlers.manifest,
            "blobs": handlers.blob,
            "tags": handlers.tags,
            "referrers": handlers.referrers,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = RequestHeaders(scope)
        client = scope["client"][0] if scope.get("client") else ""
        path = scope["raw_path"].decode("ascii", "replace")
        served = Served(request_id(headers), client, scope["method"], path)
        began, access = time.monotonic(), self.access
        meter = _Meter(send, served, began)
        try:
            try:
                request = await self._admit(access, scope, headers, served)
                for tell in self._began:
                    tell(served)
                async with AT_ONCE if access is None else access.turn(request):
                    response = await self._answer(request)
                    await response(scope, receive, meter.send)
            except MillpondError as error:
                served.why = str(error)
                if meter.begun:
                    served.outcome = "aborted"
                    raise
                await problem(error)(scope, receive, meter.send)
        except ConnectionError as error:
            served.outcome = "client left"
            if isinstance(error, ConnectionAbortedError):  # not by itself
                served.why = str(error)
            raise
        finally:
            served.seconds = time.monotonic() - began
            for observe in self._observers:
                observe(served)

    async def _admit(self, access: Access | None, scope: Scope, headers: Headers, served: Served) -> Request:
        """Who asks comes first: a stranger learns nothing of what there is."""
        if scope["method"] not in ("GET", "HEAD"):
            raise Unsupported("this registry is a pull-through cache: it can be pulled from, not pushed to")
        may_pull = None
        if access is not None:
            await access.admit(scope, headers, served)
            may_pull = access.may_pull(served.user)
        route = self._namespace.route(served.path, scope["query_string"].decode("ascii", "replace"))
        served.kind, served.upstream, served.item = route.noun, route.upstream or "", route.item
        if route.repository is not None:
            served.repository = route.repository.path
        return Request(scope["method"] == "HEAD", headers, route, served, may_pull)

    async def _answer(self, request: Request) -> Response:
        route = request.route
        if route.repository is None:
            response = await self._plain[route.noun](request)
        else:
            response = await self._in_repository[route.noun](request, route.repository)
        if route.ns:
            response.headers["OCI-Namespace"] = route.ns
        return response


class _Meter:
    """Counts what is sent, and adds the headers that every response has."""

    def __init__(self, send: Send, served: Served, began: float) -> None:
        self._send = send
        self._served = served
        self._began = began
        self._extra = [
            (b"docker-distribution-api-version", _API_VERSION.encode()),
            (b"x-request-id", served.id.encode()),
        ]
        self.begun = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._served.status = message["status"]
            # A blob's status line waits for its first bytes (`BlobResponse`), and so this is their moment as well.
            self._served.first_byte = time.monotonic() - self._began
            message["headers"] = [*message.get("headers", ()), *self._extra]
            self.begun = True
        await self._send(message)
        if kind == "http.response.zerocopysend":
            self._served.bytes += message["count"]
        elif kind == "http.response.body" and self._served.method != "HEAD":
            self._served.bytes += len(message.get("body", b""))

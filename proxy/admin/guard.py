"""Who may do what on the admin port.

Reading is open to whoever reaches the port. A change needs the token, or the pass that the command line beside the
program reads in the cache directory. Without a token it is also allowed where the port listens to this machine alone,
but not to a web page that somebody on this machine has open: its browser tells where the page came from (Origin), and
by which name it found us (Host), which DNS rebinding cannot forge.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.oci.secret import Secret

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# A balancer on this machine asks by whatever name it was told; the answer is of no use to a page.
_HEALTH: Final = frozenset({"/healthz", "/readyz"})
# urlsplit takes `name[::1]` and `[::1]name` for ::1.
_HOST: Final = re.compile(r"(?:\[[^\[\]@]*\]|[^\[\]@]*?)(?::[0-9]*)?")
_LOCAL_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})

# For browsers: nothing here is to be taken for another type, embedded by another page, or framed and clicked through.
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)

_HOW_TO_SET: Final = "set admin.token_file, or the environment variable MILLPOND_ADMIN__TOKEN"


class Guard:
    """An ASGI application that lets through to `app` what may pass, and refuses the rest with a status and a reason.
    `proved` in the scope says whether whoever asks has shown the token or the pass, `trusted` whether they have, or can
    only be somebody on this machine.

    `host` is what the port listens on: an address or a name. `token` is what changes need; None if there is none.
    `local_pass` is as good, and known on this machine only.
    """

    def __init__(self, app: ASGIApp, host: str, token: Secret | None, local_pass: Secret | None = None) -> None:
        self._app = app
        self._host = host.lower()
        self._local = is_local(host)
        self._token = token
        self._tokens = [each for each in (token, local_pass) if each is not None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)

        async def marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        scope["proved"] = self._holds_token(headers)
        scope["trusted"] = scope["proved"] or self._local
        refusal = self._refusal(scope["method"], scope["path"], scope["proved"], headers)
        await (self._app if refusal is None else refusal)(scope, receive, marked)

    def _refusal(self, method: str, path: str, proved: bool, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if self._local and path not in _HEALTH and not all(self._is_own(host) for host in hosts):
            return _refused(403, "this port is asked by another name than this machine's own; ask 127.0.0.1 instead")
        if method in _READS or proved:
            return None
        if self._token is not None:
            return _refused(401, _token_wanted(headers))
        if not self._local:
            return _refused(
                403,
                f"changes are off: admin.listen ({self._host}) is open to other machines and there is no token; "
                f"{_HOW_TO_SET}, or run the command beside the server, as its user and with its configuration",
            )
        if not all(_same_origin(origin, hosts) for origin in headers.getlist("origin")):
            return _refused(403, "a web page from elsewhere asks for a change; ask from the command line instead")
        return None

    def _is_own(self, host: str) -> bool:
        name = _name_in(host)
        return name is not None and (name == self._host or is_local(name))

    def _holds_token(self, headers: Headers) -> bool:
        given = headers.getlist("authorization")
        if len(given) != 1:
            return False
        scheme, _, value = given[0].partition(" ")
        return scheme.lower() == "bearer" and Secret(value.strip()) in self._tokens


def is_local(host: str) -> bool:
    """Whether only this machine reaches `host`, an address without brackets or a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") in _LOCAL_NAMES


def _name_in(host: str) -> str | None:
    """The host without its port, in lower case; None when this is no host at all."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and _HOST.fullmatch(host) else None


def _same_origin(origin: str, hosts: list[str]) -> bool:
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and [rest.lower()] == [host.lower() for host in hosts]


def _token_wanted(headers: Headers) -> str:
    if "authorization" in headers:
        return "this is not the token of this server (Authorization: Bearer); check admin.token_file on both sides"
    return f"changes need the token of this server (Authorization: Bearer); {_HOW_TO_SET}, to the same as the server's"


def _refused(status: int, why: str) -> Response:
    response = Response(json.dumps({"error": why}), status, media_type="application/json")
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="millpond admin"'
    return response

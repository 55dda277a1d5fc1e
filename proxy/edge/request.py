"""A request, parsed once."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from random import getrandbits
from typing import Any, Final, NamedTuple

from starlette.datastructures import Headers
from starlette.types import Scope

from proxy.edge.routes import Route
from proxy.observe.events import Served
from proxy.oci.manifest import ACCEPT
from proxy.oci.names import Repository

MayPull = Callable[[Repository, str | None], bool]
"""Whether a client may pull a tag, or with None at least something, of a repository."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_MEDIA_TYPE: Final = re.compile(r"application/[a-z0-9][a-z0-9.+_-]{0,120}\Z")
# Signed by schema, not by bytes: the digest of such a manifest is not the digest of what is sent.
_SCHEMA_1: Final = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+")
_MAX_EXTRA_TYPES: Final = 8  # beyond the five that are always asked for; real clients name two or three at most


class RequestHeaders(Headers):
    """Looked up without going through all of them each time. Names are given in lower case, as ASGI has them."""

    def __init__(self, scope: Scope) -> None:
        """Of lines with the same name the first counts, as in `Headers`."""
        super().__init__(raw=scope["headers"])
        self._first = dict(reversed(self.raw))

    def get(self, key: str, default: Any = None) -> Any:
        value = self._first.get(key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        return super().getlist(key) if key.encode("latin-1") in self._first else []


class Request(NamedTuple):
    """A GET or HEAD on the registry port."""

    head: bool
    headers: Headers
    route: Route
    served: Served  # what will be said of it: a handler adds what the response does not show
    may_pull: MayPull | None = None  # of what is listed, what the client is shown; None is all of it

    def tell(self, origin: str, digest: str = "") -> None:
        """Have the log and the metrics say where the answer came from, and what it is."""
        self.served.origin, self.served.digest = origin, digest

    def extra_types(self) -> tuple[str, ...]:
        """Manifest types that the client accepts beyond those that upstream is always asked for.

        Clients send one Accept line a type, or one for all.
        """
        return _extra_types(",".join(self.headers.getlist("accept")))


def request_id(headers: Headers) -> str:
    """The client's own X-Request-Id where it is harmless, else a new one."""
    given = headers.get("x-request-id", "")
    # Told apart, not kept secret: no system call for it.
    return given if _REQUEST_ID.match(given) else f"{getrandbits(64):016x}"


# A fleet has a few clients, and each sends the same line for ever. What is kept is bounded: a head has its limit.
@lru_cache(maxsize=64)
def _extra_types(accept: str) -> tuple[str, ...]:
    types = {name.partition(";")[0].strip() for name in accept.lower().split(",")[:100]}
    extra = sorted(name for name in types - set(ACCEPT) if _MEDIA_TYPE.match(name) and not _SCHEMA_1.match(name))
    return tuple(extra[:_MAX_EXTRA_TYPES])

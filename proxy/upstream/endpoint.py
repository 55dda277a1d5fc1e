"""Plain values that describe an upstream, and what it reports while it is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from proxy.oci.secret import Secret

# containerd gives a mirror 30 s to dial and 30 s to answer: with these, a dead upstream is known before that.
CONNECT_TIMEOUT: Final = 10.0
# Between two reads, and from request to status line; registries that assemble an answer have been seen to take 20 s.
READ_TIMEOUT: Final = 30.0
# To get a connection at all, waiting for a free one included.
POOL_TIMEOUT: Final = 30.0
# For a whole small answer (manifest, token, tag page), so that a byte a second cannot hold a caller for hours.
WHOLE_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One upstream. `url` may have a path prefix, never userinfo; `name` is what messages and settings call it."""

    name: str
    url: str
    token_hosts: tuple[str, ...] = ()  # `host` or `host:port`, besides the upstream's own: where credentials may go
    ca_file: Path | None = None  # trusted in addition to the system's authorities
    username: str | None = None
    password: Secret | None = None
    keys: str = ""  # where the two are configured, for messages; empty: below upstreams
    # Instead of the two: asked each time they are needed; raises Denied, UpstreamFailure or UpstreamInvalid.
    login: Callable[[], Awaitable[tuple[str, str]]] | None = field(default=None, repr=False)
    forget: Callable[[], None] | None = field(default=None, repr=False)  # told when what it gave was refused

    @property
    def has_credentials(self) -> bool:
        return self.login is not None or (self.username is not None and self.password is not None)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds, a phase each."""

    connect: float = CONNECT_TIMEOUT
    read: float = READ_TIMEOUT
    pool: float = POOL_TIMEOUT
    whole: float = WHOLE_TIMEOUT


class Observer(Protocol):
    """Told synchronously of what happens; must return at once and not raise."""

    def request(self, upstream: str, noun: str, status: int) -> None:
        """A request was answered with `status`, or not at all: 0."""

    def token(self, upstream: str, outcome: str) -> None:
        """A token was asked for: `fetched`, `denied` or `failed`."""


class Silence:
    """The observer that is used when nobody observes."""

    def request(self, *_: object, **__: object) -> None: ...

    def token(self, *_: object, **__: object) -> None: ...

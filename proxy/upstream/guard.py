"""Where requests may go. Every address that comes from the network passes here before a connection is made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from proxy.oci.errors import UpstreamInvalid
from proxy.upstream.addresses import Reach, reach_of
from proxy.upstream.endpoint import Endpoint

# Presigned URLs run to about 2 KiB; nothing honest is longer than this.
MAX_URL: Final = 16 * 1024

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,252}[a-z0-9_])?\Z")
# Everything printable that may stand in a path or query as it is; escapes that are there stay as they are, because
# a presigned URL is signed as it was written.
_AS_IT_IS: Final = "%/:?#[]@!$&'()*+,;=-._~|"


@dataclass(frozen=True, slots=True)
class Target:
    """One place to send a request to, canonical: every parser downstream reads it the same way.

    `path` starts with a slash and holds the query, which can be a secret: `str` and `repr` leave it out.
    """

    scheme: str
    host: str
    port: int
    path: str = field(default="/", repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """host[:port], as it stands in a URL and in messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def __str__(self) -> str:
        return self.authority

    def at(self, path: str) -> Target:
        return Target(self.scheme, self.host, self.port, path)


def parse_target(text: str) -> Target:
    """Raises ValueError, with a reason that holds nothing of the URL, for anything but a plain http(s) URL."""
    if len(text) > MAX_URL:
        raise ValueError(f"it is longer than {MAX_URL} characters")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise ValueError("it contains control characters")
    try:
        parts = urlsplit(text.strip(" "))
        port = parts.port
    except ValueError:
        raise ValueError("it is not a URL") from None
    if parts.scheme not in _PORTS or not parts.netloc:
        raise ValueError("it is not an http or https URL")
    if "@" in parts.netloc:
        raise ValueError("it contains a user name")
    host = (parts.hostname or "").removesuffix(".")
    if port == 0 or not _is_host(host):
        raise ValueError("its host is not valid")
    path = quote(parts.path or "/", safe=_AS_IT_IS.replace("?", "").replace("#", ""))
    if parts.query:
        path += "?" + quote(parts.query, safe=_AS_IT_IS.replace("#", ""))
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


def literal_reach(host: str) -> Reach | None:
    """Where an IP literal lies; None for a name."""
    try:
        return reach_of(host)
    except ValueError:
        return None


def _is_host(host: str) -> bool:
    if literal_reach(host) is not None:
        return "%" not in host
    # 2130706433, 127.1 and 0x7f.1 are loopback to the system's resolver: what ends like a number must be canonical.
    last = host.rpartition(".")[2]
    return bool(_HOST.match(host)) and not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last)


class Guard:
    """The rules for one upstream. Refusals are UpstreamInvalid; they name hosts, never paths or queries."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._name = endpoint.name
        try:
            self.own: Final = parse_target(endpoint.url)
        except ValueError as error:
            raise UpstreamInvalid(f"upstreams.{endpoint.name}.url cannot be used: {error}") from None
        self._token_hosts = tuple(entry.lower() for entry in endpoint.token_hosts)
        self._own_reach = literal_reach(self.own.host)

    def api(self, path: str) -> Target:
        """The upstream's own URL for `path`, which starts with `/v2/` and may have a query."""
        return self.own.at(self.own.path.rstrip("/") + path)

    def realm(self, text: str) -> Target:
        """The token server that a challenge names, if credentials and tokens may be had there (CVE-2026-33540)."""
        target = self._parse(text, "the token realm of its challenge")
        if target.scheme != "https" and self.own.scheme == "https":
            raise self._refusal(f"its challenge names a token realm on {target} over plain http")
        if not self._trusted(target):
            raise self._refusal(
                f"its challenge sends for tokens to {target}, which is neither its own host nor configured; if that is "
                f"its token server, add it to upstreams.{self._name}.token_hosts"
            )
        return target

    def redirect(self, current: Target, location: str) -> Target:
        """Where a redirect from `current` leads, if it may be followed."""
        target = self._parse(self._join(current, location), f"the redirect from {current}")
        if current.scheme == "https" and target.scheme != "https":
            raise self._refusal(f"it redirected from {current} to {target} over plain http")
        if not self._trusted(target):
            self._check(target.host, literal_reach(target.host))
        return target

    def page(self, current: Target, link: str) -> Target:
        """The next page that a Link header names: on the same origin only, since it is sent credentials."""
        target = self._parse(self._join(current, link), "the Link to its next page")
        if target.origin != self.own.origin:
            raise self._refusal(f"its next page is on another host, {target}")
        return target

    def admit(self, host: str, addresses: Iterable[str]) -> None:
        """Refuse what a name resolved to, so that DNS cannot lead where a redirect may not (rebinding)."""
        reaches = [reach_of(address) for address in addresses]
        name = host.lower().removesuffix(".")
        if name == self.own.host:
            self._own_reach = min(reaches, default=None)
        elif not any(_fits(entry, name, None) for entry in self._token_hosts):
            for reach in reaches:
                self._check(name, reach)

    def _trusted(self, target: Target) -> bool:
        if target.host == self.own.host:
            return True
        return any(_fits(entry, target.host, target.port) for entry in self._token_hosts)

    def _check(self, host: str, reach: Reach | None) -> None:
        # The upstream's own address is known by now, unless a forward proxy resolves for us: then it counts as public.
        own = self._own_reach or Reach.PUBLIC
        if reach is not None and (reach is Reach.FORBIDDEN or reach > own):
            raise self._refusal(
                f"it leads to {host}, a {reach.name.lower()} address, where an upstream at a {own.name.lower()} "
                "address may not send Millpond"
            )

    def _join(self, current: Target, reference: str) -> str:
        try:
            return urljoin(current.url, reference.strip(" "))
        except ValueError:
            raise self._refusal(f"{current} answered with a reference that is not a URL") from None

    def _parse(self, text: str, what: str) -> Target:
        try:
            return parse_target(text)
        except ValueError as error:
            raise self._refusal(f"{what} is refused: {error}") from None

    def _refusal(self, reason: str) -> UpstreamInvalid:
        return UpstreamInvalid(f"upstream {self._name}: {reason}; no connection was made")


def _fits(entry: str, host: str, port: int | None) -> bool:
    """Exact hosts only: a sub-domain can belong to someone else. An entry without a port means any."""
    if entry.strip("[]") == host:
        return True
    name, _, number = entry.rpartition(":")
    return name.strip("[]") == host and (port is None or number == str(port))

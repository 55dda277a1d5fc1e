"""The table of contents of the registry port: which path means what, and which upstream it names.

    /v2/                                            ping
    /v2/_catalog                                    what is cached
    /v2/<name>/manifests/<tag or digest>
    /v2/<name>/blobs/<digest>
    /v2/<name>/tags/list
    /v2/<name>/referrers/<digest>

One image has four names: `<name>` with `?ns=<upstream>`, `<upstream>/<name>`, `/<upstream>/v2/<name>/…` (containerd's
path style), and `<name>` alone, at the default upstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

from proxy.oci.errors import NameInvalid, NameUnknown, PathUnknown
from proxy.oci.names import Repository, looks_like_host

Noun = Literal["ping", "catalog", "manifests", "blobs", "tags", "referrers"]

_PREFIXED: Final = re.compile(r"/([^/]+)/v2(?:/(.*))?\Z", re.DOTALL)
# Greedy: a repository may itself have a part called `blobs`, so the last noun is the one that counts.
_ITEM: Final = re.compile(r"(.+)/(manifests|blobs|referrers)/([^/]+)\Z", re.DOTALL)
_TAGS: Final = re.compile(r"(.+)/tags/list\Z", re.DOTALL)
_MAX_QUERY: Final = 50  # fields; the API knows four
# Routes that are remembered, of paths up to so long: what a fleet asks for again and again, in some megabytes.
_REMEMBERED: Final = 4096
_MAX_REMEMBERED: Final = 512


class Namespace:
    """The upstreams that exist, by all their names."""

    def __init__(self, names: Mapping[str, str], default: str) -> None:
        """`names` maps each name and alias to the upstream's configured name."""
        self.renew(names, default)

    def renew(self, names: Mapping[str, str], default: str) -> None:
        """From now on these are the names."""
        self._names = dict(names)
        self._default = default
        self._known_routes = lru_cache(_REMEMBERED)(lambda path, query: parse(path, query, self))

    def route(self, raw_path: str, raw_query: str) -> Route:
        """As `parse`, which nodes that pull the same have done once for all of them."""
        if len(raw_path) + len(raw_query) > _MAX_REMEMBERED:
            return parse(raw_path, raw_query, self)
        return self._known_routes(raw_path, raw_query)

    def find(self, name: str) -> str | None:
        # ASCII only: beyond it there are letters that lower() turns into ours, such as the Kelvin sign.
        return self._names.get(name.lower()) if name.isascii() else None

    def known(self, name: str) -> str:
        """The configured name of an upstream that a client names. Raises NameUnknown; nothing is ever contacted."""
        found = self.find(name)
        if found is None:
            known = ", ".join(sorted(set(self._names.values())))
            raise NameUnknown(f"no upstream {name[:100]!r} is configured here; known are {known}")
        return found

    def locate(self, name: str, prefix: str | None, ns: str | None) -> Repository:
        """The repository that `name` means, with the path-style `prefix` and the `ns` that came along.

        Raises:
            NameUnknown: an upstream that is not configured.
            NameInvalid: names of two different upstreams, or a name outside the grammar.
        """
        stated = self.agree(prefix, ns)
        first, _, rest = name.partition("/")
        inner = self.find(first) if rest else None
        if stated is None:
            if inner is not None:
                return Repository.parse(inner, rest)
            if rest and looks_like_host(first):
                self.known(first)
            return Repository.parse(self._default, name)
        if inner == stated:
            return Repository.parse(stated, rest)
        if inner is not None and looks_like_host(first):
            raise NameInvalid(f"the path names the upstream {inner}, but ns or the prefix names {stated}")
        return Repository.parse(stated, name)

    def named(self, name: str) -> Repository:
        """The repository that an operator means by `name`. Raises as `locate`."""
        return self.locate(name, None, None)

    def agree(self, prefix: str | None, ns: str | None) -> str | None:
        """The upstream that the path's prefix and `ns` name, if they do. Raises as `locate`."""
        stated = {self.known(name) for name in (prefix, ns) if name is not None}
        if len(stated) > 1:
            raise NameInvalid(f"the path prefix names the upstream {prefix!r}, but ns names {ns!r}")
        return stated.pop() if stated else None


@dataclass(frozen=True, slots=True)
class Route:
    """What a request is about. `item` is the last part of the path as it came, still to be validated."""

    noun: Noun
    repository: Repository | None = None
    item: str = ""
    upstream: str | None = None  # of a catalog request that names one
    ns: str | None = None  # as the client sent it, when it names an upstream
    query: Mapping[str, str] = field(default_factory=dict)


def parse(raw_path: str, raw_query: str, namespace: Namespace) -> Route:
    """Read a request's path, still percent-encoded, and its query.

    Raises:
        PathUnknown: not a path of the registry API.
        NameUnknown, NameInvalid: as `Namespace.locate`.
    """
    query = _query(raw_query)
    ns = query.get("ns") or None
    path = _decode(raw_path)
    prefix = None
    if path in ("/v2", "/v2/"):
        rest = ""
    elif path.startswith("/v2/"):
        rest = path[len("/v2/") :]
    elif match := _PREFIXED.match(path):
        prefix, rest = match.group(1), match.group(2) or ""
    else:
        raise PathUnknown("this is a registry: its paths begin with /v2/; health and metrics are on the admin port")
    stated = namespace.agree(prefix, ns)
    if not rest:
        return Route("ping", upstream=stated, ns=ns, query=query)
    if rest == "_catalog":
        return Route("catalog", upstream=stated, ns=ns, query=query)
    if match := _ITEM.match(rest):
        name, noun, item = match.groups()
        repository = namespace.locate(name, prefix, ns)
        return Route(noun, repository, item, repository.upstream, ns, query)  # type: ignore[arg-type]  # by the pattern
    if match := _TAGS.match(rest):
        repository = namespace.locate(match.group(1), prefix, ns)
        return Route("tags", repository, "", repository.upstream, ns, query)
    raise PathUnknown("no such path in the registry API")


def _decode(raw_path: str) -> str:
    # Nothing in the grammar needs an encoded slash; decoding one would let a part of the path pretend to be two.
    if "%2f" in raw_path.lower():
        raise NameInvalid("an encoded slash has no place in a repository name or reference")
    return unquote(raw_path) if "%" in raw_path else raw_path


def _query(raw_query: str) -> dict[str, str]:
    if not raw_query:
        return {}
    try:
        pairs = parse_qsl(raw_query, keep_blank_values=True, max_num_fields=_MAX_QUERY)
    except ValueError:
        raise NameInvalid(f"the query has more than {_MAX_QUERY} fields") from None
    query = dict(pairs)
    if len({value for key, value in pairs if key == "ns"}) > 1:
        raise NameInvalid("ns is given twice, with different values")
    return query

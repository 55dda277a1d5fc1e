"""What clients send."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response

from proxy.admin.guard import Guard
from proxy.edge import users
from proxy.edge.addresses import Addresses
from proxy.edge.problems import problem
from proxy.edge.request import _extra_types, request_id
from proxy.edge.respond import not_modified
from proxy.edge.routes import Namespace, parse
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, RangeInvalid, RequestError
from proxy.oci.names import parse_image, parse_reference
from proxy.oci.ranges import parse_range
from tests.fuzz.target import Target, text
from tests.unit import grammar

SHA: Final = b"sha256:" + b"a" * 64
_NAMES: Final = {
    "docker.io": "docker.io",
    "index.docker.io": "docker.io",
    "ghcr.io": "ghcr.io",
    "registry.test:5443": "registry.test:5443",
    "hub": "hub",
}
_NAMESPACE: Final = Namespace(_NAMES, "docker.io")


def path(data: bytes) -> bool:
    """S P: path and query are a repository within the grammar, which its canonical path names too, or an error."""
    raw_path, _, raw_query = data.decode("ascii", "replace").partition("?")
    try:
        route = parse(raw_path, raw_query, _NAMESPACE)
    except MillpondError as error:
        return _refused(error)
    assert route.upstream is None or route.upstream in _NAMES.values()
    assert route.ns is None or route.ns.lower() in _NAMES, "it goes out as a header"
    assert "/" not in route.item
    if route.repository is not None:
        assert route.repository.upstream == route.upstream
        assert grammar.is_name(route.repository.path.removeprefix("library/"))
        tail = "tags/list" if route.noun == "tags" else f"{route.noun}/x"
        again = parse(f"/v2/{route.repository}/{tail}", "", _NAMESPACE)
        assert (again.repository, again.noun) == (route.repository, route.noun)
    return True


def _refused(error: MillpondError) -> bool:
    assert problem(error).status_code in (400, 404)
    return False


def reference(data: bytes) -> bool:
    """S P: what follows `manifests/`, and an image as the operator names it; what is read is written the same."""
    given = data.decode("utf-8", "replace")
    taken = False
    try:
        assert parse_reference(given) == given
        assert grammar.is_digest(given) or grammar.is_tag(given)
        taken = True
    except RequestError:
        assert not grammar.is_digest(given)
        assert not grammar.is_tag(given)
    try:
        image = parse_image(given, lambda name: _NAMESPACE.locate(name, None, None))
    except MillpondError:
        return taken
    assert parse_image(str(image), lambda name: _NAMESPACE.locate(name, None, None)) == image
    return True


def byte_range(data: bytes) -> bool:
    """W H: a size, then a Range header: a part of the content, the whole, or a refusal."""
    number, _, header = text(data).partition(" ")
    size = int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 1000
    try:
        wanted = parse_range(header, size)
    except RangeInvalid:
        return True
    if wanted is None:
        return False
    assert 0 <= wanted.start < wanted.stop <= wanted.size == size
    assert parse_range(f"bytes={wanted.start}-{wanted.stop - 1}", size) == wanted
    return True


def head(data: bytes) -> bool:
    """S: Accept, X-Request-Id and If-None-Match, a line each; what is repeated elsewhere cannot break out of a line."""
    accept, identity, match = (data + b"\n\n").split(b"\n")[:3]
    headers = Headers(raw=[(b"accept", accept), (b"x-request-id", identity)])
    extra = _extra_types(",".join(headers.getlist("accept")))
    assert len(extra) <= 8
    for found in (*extra, request_id(headers)):
        assert found.isascii()
        assert found.isprintable()
        assert not set(found) & set(' ,;"')
    assert len(request_id(headers)) <= 64
    matched = not_modified(text(match), Digest(SHA.decode()))
    assert not matched or SHA in match or b"*" in match
    return bool(extra) or matched


_FORWARDERS: Final = Addresses([], [ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def forwarded(data: bytes) -> bool:
    """S: X-Forwarded-For through two trusted forwarders: no word of the client's counts for more than theirs."""
    lines = text(data).split("\n")
    found = _FORWARDERS.find("10.0.0.1", lines)
    assert found is not None, "the connection itself has an address"
    for vouched in ("203.0.113.9", "203.0.113.9:4711", "2001:db8::9", "[2001:db8::9]:4711"):
        client = ip_address("203.0.113.9" if "." in vouched else "2001:db8::9")
        assert _FORWARDERS.find("10.0.0.1", [*lines, f"{vouched}, 10.9.9.9"]) == client
        assert _FORWARDERS.find(str(client), lines) == client, "a stranger cannot speak for others"
    return found != ip_address("10.0.0.1")


def authorization(data: bytes) -> bool:
    """S H: a credential, or none; never an error that would show it."""
    found = users._read(data)  # the public way costs a bcrypt
    if found is None:
        return False
    assert found.name is None or isinstance(found.name, str)
    assert isinstance(found.secret, bytes)
    assert found.secret.decode("latin-1") not in repr(found) or len(found.secret) < 16
    return True


_ADMIN: Final = Guard(Response(), "127.0.0.1", None)


def host(data: bytes) -> bool:
    """S: Host on an admin port of this machine's own: only names of this machine, so that no DNS leads here."""
    given = text(data)
    if not _ADMIN._is_own(given):  # the public way is a whole application
        return False
    name = re.sub(r":[0-9]*$", "", given) if not given.endswith("]") else given
    assert name.lower().removesuffix(".") in _OWN_NAMES or ip_address(name.strip("[]")).is_loopback
    return True


_OWN_NAMES: Final = {"localhost", "localhost.localdomain", "ip6-localhost"}

CLIENTS: Final = (
    Target(
        "path",
        path,
        (
            b"/v2/",
            b"/v2/_catalog?n=5&ns=hub",
            b"/v2/library/alpine/manifests/3.20?ns=docker.io",
            b"/v2/ghcr.io/org/app/blobs/" + SHA,
            b"/registry.test:5443/v2/a/b/tags/list?n=1&last=x",
            b"/v2/x/referrers/" + SHA + b"?artifactType=a%2Fb&ns=index.docker.io",
        ),
        (
            *(b"/", b"//", b"/v2/", b"v2", b"manifests", b"blobs", b"tags/list", b"referrers", b"_catalog", b"uploads"),
            *(
                b"%2f",
                b"%2F",
                b"%252f",
                b"%00",
                b"%0d%0a",
                b"..",
                b".",
                b"%2e%2e",
                b"?",
                b"&",
                b"=",
                b"ns=",
                b"n=",
                b"#",
            ),
            *(
                b"docker.io",
                b"ghcr.io",
                b"hub",
                b"evil.test",
                b"registry.test:5443",
                b"localhost",
                b"doc%E2%84%AAer.io",
            ),
            *(b"library", b"x", b"A", b"latest", SHA, b"sha256:", b"a" * 255, b"__", b"--", b";", b"@", b"\xff"),
        ),
    ),
    Target(
        "reference",
        reference,
        (b"latest", SHA, b"nginx", b"docker.io/library/nginx:1.27@" + SHA, b"ghcr.io/a/b:c", b"registry.test:5443/a/b"),
        (b":", b"@", b"/", b"-", b".", b"_", b"sha256:", b"sha512:", b"a" * 64, b"0" * 128, b"hub/", b" ", b"\n", b"A"),
    ),
    Target(
        "range",
        byte_range,
        (b"2500 bytes=500-1499", b"2500 bytes=500-", b"2500 bytes=-500", b"2500 bytes=500-0", b"10 BYTES= 0-0 "),
        (b"bytes=", b"-", b",", b" ", b"0", b"9" * 30, b"1", b"+", b"0x1", b"_", b"\xb2", b"\t", b"items="),
    ),
    Target(
        "head",
        head,
        (b"application/vnd.example+json, */*\nid-1\n*", b"*/*\n\n" + b'W/"' + SHA + b'"', b"application/a;q=0.5\nx\nx"),
        (
            b"application/",
            b",",
            b";q=",
            b"\n",
            b"*",
            b'"',
            b"W/",
            SHA,
            b"vnd.",
            b"+json",
            b"\r",
            b"\0",
            b"a" * 130,
            b" ",
        ),
    ),
    Target(
        "forwarded",
        forwarded,
        (b"198.51.100.7", b"198.51.100.7, 10.1.2.3", b"2001:db8::1\n10.0.0.2", b"[2001:db8::1]:80", b"198.51.100.7:80"),
        (
            *(
                b",",
                b"\n",
                b" ",
                b"10.0.0.2",
                b"198.51.100.7",
                b"::1",
                b"::ffff:10.0.0.3",
                b"fd00::1",
                b"[",
                b"]",
                b":80",
            ),
            *(b"%eth0", b"unknown", b"_hidden", b"0x7f.1", b"127.1", b"010.0.0.1", b"/8", b"\xff", b"1" * 300),
        ),
    ),
    Target(
        "authorization",
        authorization,
        (b"Basic dXNlcjpwYXNzd29yZA==", b"bearer abc.def-ghi", b"BASIC Og=="),
        (b"Basic ", b"Bearer ", b"=", b"==", b"dXNlcjpw", b":", b" ", b"\t", b"\0", b"/+", b"-_", b"\xff", b"Og"),
    ),
    Target(
        "host",
        host,
        (b"127.0.0.1:5001", b"localhost", b"LOCALHOST.:80", b"[::1]:5001", b"127.3.2.1"),
        (
            *(
                b"localhost",
                b"127.0.0.1",
                b"[::1]",
                b"evil.test",
                b".",
                b":",
                b"@",
                b"/",
                b"\\",
                b"?",
                b"#",
                b"[",
                b"]",
                b" ",
            ),
            *(
                b"%31",
                b"::ffff:127.0.0.1",
                b"0x7f.1",
                b"2130706433",
                b"\xb9",
                b"\0",
                b"\t",
                b",",
                b":99999",
                b"1",
                b"a",
            ),
        ),
    ),
)

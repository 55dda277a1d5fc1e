"""What upstreams send."""

from __future__ import annotations

import json
from typing import Any, Final

from proxy.oci.errors import UpstreamInvalid
from proxy.oci.manifest import INDEXES, OCI_MANIFEST, Descriptor, parse_manifest
from proxy.oci.ranges import ByteRange, parse_content_range
from proxy.upstream.challenge import MAX_LINES, parse_challenges
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.guard import Guard, literal_reach, parse_target
from proxy.upstream.limits import LONGEST_PAUSE, SHORTEST_PAUSE, parse_rate_limit, parse_retry_after
from proxy.upstream.listing import MAX_LINK, next_page
from tests.fuzz.clients import SHA
from tests.fuzz.target import Target, text
from tests.unit import grammar

_GUARD: Final = Guard(Endpoint(name="example.test", url="https://registry.example.test", token_hosts=("auth.test",)))


def content_range(data: bytes) -> bool:
    """W: what is believed makes sense, and is what stands there."""
    found = parse_content_range(text(data))
    if found is None:
        return False
    start, stop, size = found
    assert 0 <= start < stop
    assert size is None or stop <= size
    again = ByteRange(start, stop, size or stop).content_range
    assert parse_content_range(again) == (start, stop, size or stop)
    return True


def challenge(data: bytes) -> bool:
    """S H: lines of WWW-Authenticate; no realm leads to where credentials may not go."""
    lines = text(data).split("\n")
    found = parse_challenges(lines)
    assert len({line for line in lines[:MAX_LINES] if line}) > 0 or not found
    for one in found:
        assert one.scheme == one.scheme.lower() != ""
        assert all(key == key.lower() != "" for key, _ in one.params)
        if (realm := one.get("realm")) is not None:
            assert any(realm[:1] in line for line in lines)
            realm_of(realm.encode("latin-1"))
    return bool(found)


def realm_of(data: bytes) -> bool:
    """S: a token realm is on upstream's own host or a configured one, by https, or refused (CVE-2026-33540)."""
    try:
        target = _GUARD.realm(text(data))
    except UpstreamInvalid as refused:
        return not str(refused)
    assert target.scheme == "https"
    assert target.host in ("registry.example.test", "auth.test")
    assert parse_target(target.url) == target
    return True


def location(data: bytes) -> bool:
    """S: a redirect, and the Link to a next page: canonical, never down to http, never to a private address."""
    given = text(data)
    taken = False
    current = _GUARD.own.at("/v2/x/blobs/y?z=1")
    try:
        target = _GUARD.redirect(current, given)
    except UpstreamInvalid:
        pass
    else:
        assert target.scheme == "https"
        assert parse_target(target.url) == target, "every reader must see the same place"
        assert literal_reach(target.host) in (None, literal_reach("8.8.8.8"))
        assert not set(target.url) & set(" \r\n\t\0")
        taken = True
    try:
        page = _GUARD.page(current, given)
    except UpstreamInvalid:
        return taken
    assert page.origin == _GUARD.own.origin
    return True


def link(data: bytes) -> bool:
    """H: lines of Link; the next page stands in them, in angle brackets."""
    lines = text(data).split("\n")
    found = next_page(lines)
    if found is None:
        return False
    joined = ",".join(lines)[:MAX_LINK]
    assert f"<{found}>" in joined
    assert "next" in joined.lower()
    assert not set(found) & set("<>")
    return True


def limits(data: bytes) -> bool:
    """H: Retry-After and Docker Hub's quota, a line each: no upstream silences Millpond for long, nor not at all."""
    retry, quota, source = (text(data) + "\n\n").split("\n")[:3]
    assert SHORTEST_PAUSE <= parse_retry_after(retry) <= LONGEST_PAUSE
    found = parse_rate_limit({"ratelimit-remaining": quota, "docker-ratelimit-source": source}.get)
    if found is None:
        return False
    assert found.remaining is not None
    assert found.remaining >= 0
    assert found.source is None or (len(found.source) <= 64 and found.source.isprintable())
    return True


def manifest(data: bytes) -> bool:
    """P H: a Content-Type, a line, a body: a manifest that is sound, or refused."""
    content_type, _, body = data.partition(b"\n")
    try:
        found = parse_manifest(body, text(content_type))
    except UpstreamInvalid:
        return False
    document: dict[str, Any] = json.loads(body)
    assert found.is_index == (found.media_type in INDEXES) == ("manifests" in document)
    assert not (found.children and found.blobs), "one thing at a time (CVE-2021-41190)"
    assert found.media_type.isascii()
    assert found.media_type.isprintable()
    assert " " not in found.media_type
    for named in (*found.children, *found.blobs):
        _check(named)
    assert parse_manifest(found.body, found.media_type, found.digest) == found, "it is read the same from the disk"
    return True


def _check(named: Descriptor) -> None:
    assert grammar.is_digest(named.digest)
    assert 0 <= named.size < 1 << 63


_DESCRIPTOR: Final = b'{"mediaType":"a/b","digest":"' + SHA + b'","size":3}'
_IMAGE: Final = b'{"schemaVersion":2,"config":' + _DESCRIPTOR + b',"layers":[' + _DESCRIPTOR + b"]}"
_INDEX: Final = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'

UPSTREAMS: Final = (
    Target(
        "content-range",
        content_range,
        (b"bytes 0-9/10", b"bytes 5-5/*", b"BYTES 1-2/3"),
        (b"bytes ", b"-", b"/", b"*", b"0", b"9" * 20, b"1", b" ", b"\xb2", b"+"),
    ),
    Target(
        "challenge",
        challenge,
        (
            b'Bearer realm="https://auth.test/token",service="x",scope="repository:a/b:pull"',
            b'Basic realm="x"\nBearer realm="https://auth.test/\\"t"',
            b"Negotiate YWJj==, Basic realm=x",
        ),
        (
            *(
                b"Bearer ",
                b"Basic ",
                b"realm=",
                b'realm="',
                b"service=",
                b"scope=",
                b'"',
                b"\\",
                b"\\\\",
                b",",
                b"=",
                b" ",
            ),
            *(
                b"\n",
                b"\t",
                b"https://auth.test/",
                b"http://",
                b"https://evil.test/",
                b"https://auth.test@evil.test/",
                b"==",
            ),
        ),
    ),
    Target(
        "realm",
        realm_of,
        (b"https://auth.test/token", b"https://registry.example.test/t?a=b", b"https://AUTH.test:443/"),
        (
            *(
                b"https://",
                b"http://",
                b"//",
                b"auth.test",
                b"evil.test",
                b"@",
                b":",
                b"/",
                b"\\",
                b"?",
                b"#",
                b".",
                b"%2e",
            ),
            *(
                b"%00",
                b"\0",
                b"\r\n",
                b"\t",
                b"169.254.169.254",
                b"[::1]",
                b":443",
                b":0",
                b"\xe9",
                b"127.1",
                b"registry.",
            ),
        ),
    ),
    Target(
        "location",
        location,
        (b"/v2/x/blobs/other", b"https://cdn.test/a?sig=b%2Bc", b"//cdn.test/x", b"?n=1&last=b", b"https://8.8.8.8/x"),
        (
            *(
                b"https://",
                b"http://",
                b"//",
                b"/",
                b"..",
                b"cdn.test",
                b"registry.example.test",
                b"@",
                b":",
                b"\\",
                b"?",
            ),
            *(
                b"#",
                b"%",
                b"%2f",
                b"\0",
                b"\r\n",
                b" ",
                b"169.254.169.254",
                b"[::1]",
                b"[::ffff:10.0.0.1]",
                b"10.0.0.1",
            ),
            *(b"2130706433", b"127.1", b"0x7f.1", b":99999", b":0", b"\xe9", b"|", b"{}", b";", b"data:", b"file:///"),
        ),
    ),
    Target(
        "link",
        link,
        (
            b'</v2/x/tags/list?n=1&last=a>; rel="next"',
            b"<a>; rel=next",
            b'<https://x.test/?a,b>; title="t"; REL="NEXT"',
            b'<a>; rel="prev"\n<b>; rel="next"',
        ),
        (b"<", b">", b";", b" ", b"rel=", b'"', b"next", b"prev", b",", b"\n", b"title=", b"/v2/", b"=", b"; " * 50),
    ),
    Target(
        "limits",
        limits,
        (b"3\n20;w=21600\n203.0.113.1", b"Sun, 06 Nov 1994 08:49:37 GMT\n0\n", b"-1\n100;w=1\nx"),
        (
            *(
                b"\n",
                b";w=",
                b"0",
                b"9" * 13,
                b"-",
                b".",
                b"1e9",
                b"nan",
                b"Sun, ",
                b"06 Nov ",
                b"1994 ",
                b"08:49:37 ",
                b"GMT",
            ),
            *(b"+9999", b"-0000", b"99999999 ", b",", b":", b" ", b"\xff"),
        ),
    ),
    Target(
        "manifest",
        manifest,
        (
            OCI_MANIFEST.encode() + b"\n" + _IMAGE,
            b"\n" + _IMAGE,
            b"application/json; charset=x\n" + _INDEX,
            b"\n" + _INDEX.replace(b"vnd.oci.image.index", b"Vnd.OCI.Image.Index"),
        ),
        (
            *(
                b"{",
                b"}",
                b"[",
                b"]",
                b":",
                b",",
                b"\n",
                b'"',
                b"null",
                b"true",
                b"1e999",
                b"NaN",
                b"-1",
                b"9" * 20,
                b"2",
            ),
            *(
                b'"schemaVersion":2,',
                b'"manifests":',
                b'"layers":',
                b'"blobs":',
                b'"config":',
                b'"subject":',
                b'"size":',
            ),
            *(b'"mediaType":', b'"digest":', b'"platform":{"os":', b'"\\ud800"', b'"\\u0000"', b"\\", SHA, _DESCRIPTOR),
        ),
    ),
)

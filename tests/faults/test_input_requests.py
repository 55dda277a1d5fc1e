"""What clients and upstreams should not send: other people's digests, hostile headers, absurd pages."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.cache.disks import landed
from tests.edge.raw import ask, exchange
from tests.faults.conftest import UPSTREAM, await_gate
from tests.support import images
from tests.support.faults import Answer, Gate, change, refuse
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, head, pull
from tests.support.scripted import ScriptedUpstream

MIB: Final = 1 << 20
_seeds = itertools.count(5000)

# Besides those of HTTP itself, everything that a client ever gets to see.
ALLOWED: Final = {
    "accept-ranges",
    "connection",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "link",
    "oci-filters-applied",
    "oci-namespace",
    "retry-after",
    "x-millpond",
    "x-request-id",
}
HOSTILE: Final = {
    "Set-Cookie": "session=upstream",
    "WWW-Authenticate": 'Bearer realm="https://evil.test/token"',
    "Location": "https://evil.test/",
    "Cache-Control": "public, max-age=31536000",
    "Access-Control-Allow-Origin": "*",
    "Strict-Transport-Security": "max-age=1",
    "X-Millpond": "hit",
    "OCI-Namespace": "evil.test",
    "Server": "evil/1.0",
    "Via": "1.1 evil",
    "Link": '<https://evil.test/v2/x/tags/list?last=a>; rel="next"',
    "Trailer": "X-Evil",
    "X-Evil": "1",
}


def base(millpond: Millpond, repository: str) -> str:
    return f"{millpond.url}/v2/{UPSTREAM}/{repository}"


def noise(size: int) -> bytes:
    return b"".join(images.noise(size, next(_seeds)))


def assert_unknown(reply: Reply, code: str) -> None:
    assert (reply.status, reply.error_code) == (404, code), reply.text


# Row 38


@pytest.fixture
def private(upstream: ScriptedUpstream, millpond: Millpond) -> images.Manifest:
    """An image of a private repository, which somebody who may has pulled."""
    image = images.artifact(images.EMPTY_CONFIG, [images.blob(noise(50_000))])
    upstream.add(image, "org/private")
    pull(base(millpond, "org/private"), image, image.digest)
    landed(millpond)
    return image


def test_a_private_blob_is_not_given_out_under_the_name_of_another_repository(
    upstream: ScriptedUpstream, millpond: Millpond, private: images.Manifest
) -> None:
    """Row 38; S: CVE-2024-39897."""
    upstream.add(images.artifact(images.EMPTY_CONFIG, []), "org/public", "1")
    layer = private.blobs[1]
    public = base(millpond, "org/public")
    for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": f'"{layer.digest}"'}):
        assert_unknown(get(f"{public}/blobs/{layer.digest}", headers), "BLOB_UNKNOWN")
    assert head(f"{public}/blobs/{layer.digest}").status == 404
    assert_unknown(get(f"{public}/manifests/{private.digest}"), "MANIFEST_UNKNOWN")
    assert_unknown(get(f"{public}/blobs/{private.digest}"), "BLOB_UNKNOWN")
    assert upstream.seen(f"/org/public/blobs/{layer.digest}") == []
    # The refusals are kept for a moment only, and for that repository only.
    assert get(f"{base(millpond, 'org/private')}/blobs/{layer.digest}").headers["x-millpond"] == "hit"


def test_a_blob_on_disk_is_given_out_where_upstream_says_that_the_repository_has_it(
    upstream: ScriptedUpstream, millpond: Millpond, private: images.Manifest
) -> None:
    """Row 38; S: asked once, by HEAD, and remembered over a restart."""
    layer = private.blobs[1]
    upstream.add_blob("org/fork", layer.read())
    for _ in range(3):
        reply = get(f"{base(millpond, 'org/fork')}/blobs/{layer.digest}")
        assert (reply.digest, reply.headers["x-millpond"]) == (layer.digest, "hit")
    millpond.restart()
    assert get(f"{base(millpond, 'org/fork')}/blobs/{layer.digest}").headers["x-millpond"] == "hit"
    assert [request.method for request in upstream.seen(f"/org/fork/blobs/{layer.digest}", "")] == ["HEAD"]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_private_blob_is_not_given_out_while_upstream_does_not_say_so(
    upstream: ScriptedUpstream, millpond: Millpond, private: images.Manifest, status: int
) -> None:
    """Row 38; S: a failure is no permission."""
    layer, repository = private.blobs[1], f"org/unclear-{status}"
    for method in ("HEAD", "GET"):
        upstream.script(f"/{repository}/", then=refuse(status), method=method)
    reply = get(f"{base(millpond, repository)}/blobs/{layer.digest}")
    assert (reply.status, reply.error_code) == ((502, "UNAVAILABLE") if status == 500 else (403, "DENIED"))
    assert layer.read()[:16] not in reply.body
    assert "www-authenticate" not in reply.headers
    upstream.behave()


def test_a_private_blob_in_flight_cannot_be_joined_through_another_repository(
    upstream: ScriptedUpstream, millpond: Millpond
) -> None:
    """Row 38; S H."""
    body, gate = noise(3 * MIB), Gate()
    digest = upstream.add_blob("org/private", body)
    upstream.add_blob("org/fork", body)
    upstream.script(f"/org/private/blobs/{digest}", change(gates={2 * MIB: gate}))
    with ThreadPoolExecutor() as pool:
        allowed = pool.submit(get, f"{base(millpond, 'org/private')}/blobs/{digest}")
        await_gate(gate)
        assert_unknown(get(f"{base(millpond, 'org/stranger')}/blobs/{digest}"), "BLOB_UNKNOWN")
        fork = pool.submit(get, f"{base(millpond, 'org/fork')}/blobs/{digest}", {"Range": "bytes=0-99"})
        assert fork.result(10).body == body[:100]
        assert fork.result().headers["x-millpond"] == "joined"
        gate.open()
        assert allowed.result(20).digest == digest
    assert len(upstream.seen(digest)) == 1


@pytest.mark.parametrize("how", ["foreign", "index"])
def test_naming_a_private_blob_where_no_registry_checks_it_is_no_permission(
    upstream: ScriptedUpstream, millpond: Millpond, private: images.Manifest, how: str
) -> None:
    """Row 38; S: registries take a foreign layer's digest, and some an index's, without looking for its content."""
    layer, repository = private.blobs[1], f"evil/{how}"
    named = layer.descriptor()
    if how == "foreign":
        named |= {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["https://x.test/"]}
        document = {
            "schemaVersion": 2,
            "mediaType": images.OCI_MANIFEST,
            "config": private.blobs[0].descriptor(),
            "layers": [named],
        }
        body = json.dumps(document).encode()
        upstream.add_manifest(repository, body, images.OCI_MANIFEST, "1")
    else:
        document = {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [named]}
        upstream.add_manifest(repository, json.dumps(document).encode(), images.OCI_INDEX, "1")
    assert get(f"{base(millpond, repository)}/manifests/1").status == 200
    reply = get(f"{base(millpond, repository)}/blobs/{layer.digest}")
    assert reply.status == 404, (reply.digest, reply.headers["x-millpond"])
    assert head(f"{base(millpond, repository)}/blobs/{layer.digest}").status == 404


# Row 39


def assert_only_allowed(reply: Reply) -> None:
    assert set(reply.headers) <= ALLOWED, set(reply.headers) - ALLOWED
    assert "evil" not in str(reply.headers)


def test_of_an_upstreams_headers_none_reaches_a_client_but_what_is_ours_to_say(
    upstream: ScriptedUpstream, millpond: Millpond
) -> None:
    """Row 39; S: an allow-list, not a deny-list."""
    image = images.artifact(images.EMPTY_CONFIG, [images.blob(noise(1000))])
    upstream.add(image, "org/headers", "1")
    for method in ("GET", "HEAD"):
        upstream.script("/org/headers/", then=change(headers=HOSTILE), method=method)
    for reply in pull(base(millpond, "org/headers"), image, "1", "?ns=docker.io"):
        assert_only_allowed(reply)
        assert reply.headers["x-millpond"] in ("upstream", "hit")
        assert reply.headers["oci-namespace"] == "docker.io"
    for path in ("tags/list", f"referrers/{image.digest}", "manifests/2", f"blobs/sha256:{'b' * 64}"):
        assert_only_allowed(get(f"{base(millpond, 'org/headers')}/{path}"))
    upstream.behave()
    for status in (401, 403, 404, 429, 500):
        upstream.script(
            f"/org/headers-{status}/", then=refuse(status, **{k.replace("-", "_"): v for k, v in HOSTILE.items()})
        )
        reply = get(f"{base(millpond, f'org/headers-{status}')}/manifests/1")
        assert reply.status >= 400
        assert_only_allowed(reply)
    upstream.behave()


@pytest.mark.parametrize(
    "head_lines",
    [
        ["GET /v2/ HTTP/1.1", "Host: evil.test"],
        ["GET /v2/ HTTP/1.1", "Host: 127.0.0.1:1", "X-Forwarded-Host: evil.test", "Forwarded: host=evil.test"],
        ["GET /v2/ HTTP/1.1", "Host: "],
        ["GET /v2/ HTTP/1.1", "Host: a", "Host: b"],
        ["GET /v2/ HTTP/1.0"],
        ["GET http://evil.test/v2/ HTTP/1.1", "Host: evil.test"],
    ],
)
def test_the_name_by_which_a_client_calls_the_cache_changes_nothing(
    upstream: ScriptedUpstream, millpond: Millpond, head_lines: list[str]
) -> None:
    """Row 39; S: no Host chooses an upstream, and none is repeated."""
    before = upstream.connections
    reply = exchange(millpond, "\r\n".join([*head_lines, "Connection: close", "", ""]).encode())
    assert reply.status in (200, 400)
    assert "evil" not in f"{reply.headers} {reply.text}"
    assert upstream.connections == before


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /v2/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    ],
)
def test_what_is_not_a_request_is_answered_with_an_error_in_oci_form(
    upstream: ScriptedUpstream, millpond: Millpond, request_bytes: bytes
) -> None:
    """Rows 37 and 39; S H."""
    before = upstream.connections
    try:
        reply = exchange(millpond, request_bytes)
    except ConnectionError:  # it may close before all of it has been sent
        reply = None
    if reply is not None:
        assert 400 <= reply.status < 500
        assert reply.error_code
    assert get(f"{millpond.url}/v2/").status == 200
    assert upstream.connections == before


# Row 40


@pytest.mark.parametrize("asked", ["1000000000000", "9" * 5000, "1001", "5000"])
def test_a_page_is_never_larger_than_a_thousand_names_whatever_the_client_asks(
    upstream: ScriptedUpstream, millpond: Millpond, asked: str
) -> None:
    """Row 40; H: CVE-2023-2253."""
    image = images.artifact(images.EMPTY_CONFIG, [])
    upstream.add(image, "org/tags", *(f"t{number:05}" for number in range(2500)))
    url = f"{base(millpond, 'org/tags')}/tags/list?n={asked}"
    found: list[str] = []
    for _ in range(3):
        reply = get(url)
        found += reply.json()["tags"]
        assert len(reply.json()["tags"]) <= 1000
        link = reply.headers.get("link")
        if link is None:
            break
        url = millpond.url + link[1 : link.index(">")]
    assert found == [f"t{number:05}" for number in range(2500)]
    assert {request.query["n"] for request in upstream.seen("/org/tags/tags/list")} == {"1000"}
    page = get(f"{millpond.url}/v2/_catalog?n={asked}")
    assert (page.status, len(page.json()["repositories"]) <= 1000) == (200, True)


def test_a_page_of_no_names_is_empty_and_asks_nobody(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 40."""
    reply = get(f"{base(millpond, 'org/none')}/tags/list?n=0")
    assert (reply.status, reply.json()) == (200, {"name": "org/none", "tags": []})
    assert "link" not in reply.headers
    assert upstream.seen("/org/none/", "") == []


@pytest.mark.parametrize(
    ("name", "tags"),
    [("huge", ["t" * 100 + str(number) for number in range(300_000)]), ("nonsense", {"a": 1}), ("deep", "[" * 100_000)],
)
def test_a_tag_list_beyond_reason_is_refused_after_a_bounded_read(
    upstream: ScriptedUpstream, millpond: Millpond, name: str, tags: object
) -> None:
    """Row 40; H."""
    body = json.dumps({"name": name, "tags": tags}).encode() if name != "deep" else b"[" * 100_000
    path = f"/v2/org/list-{name}/tags/list"
    upstream.serve(path, Answer(200, body, {"Content-Type": "application/json"}, ranged=False))
    reply = get(f"{base(millpond, f'org/list-{name}')}/tags/list")
    assert (reply.status, reply.error_code) == (502, "UNAVAILABLE")
    assert upstream.sent_of(path) < 16 * MIB  # of 30 in the first case: 2, and what the sockets hold
    assert get(f"{millpond.admin_url}/readyz").status == 200


def test_tags_that_no_grammar_has_are_not_passed_on(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Rows 39 and 40; S."""
    body = json.dumps({"name": "x", "tags": ["good", "a b", "../x", 5, None, "\r\nX: y", "t" * 200, "v1"]}).encode()
    upstream.serve("/v2/org/odd/tags/list", Answer(200, body, {"Content-Type": "application/json"}, ranged=False))
    assert get(f"{base(millpond, 'org/odd')}/tags/list").json()["tags"] == ["good", "v1"]


def test_ten_thousand_ranges_are_answered_with_the_whole(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 19; H."""
    body = noise(1000)
    digest = upstream.add_blob("org/ranges", body)
    ranges = ",".join("0-1" for _ in range(10_000))
    reply = ask(millpond, f"/v2/{UPSTREAM}/org/ranges/blobs/{digest}", "GET", f"Range: bytes={ranges}")
    assert (reply.status, reply.body) == (200, body)


def test_a_blob_of_no_bytes_is_a_blob(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 19; K: no range of it exists, so the whole is answered."""
    digest = upstream.add_blob("org/empty", b"")
    url = f"{base(millpond, 'org/empty')}/blobs/{digest}"
    for headers in ({}, {"Range": "bytes=0-"}, {"Range": "bytes=-5"}, {}):
        reply = get(url, headers)
        assert (reply.status, reply.body, reply.complete) == (200, b"", True)
    landed(millpond)
    assert get(url).headers["x-millpond"] == "hit"
    assert millpond.blob_file(digest).stat().st_size == 0

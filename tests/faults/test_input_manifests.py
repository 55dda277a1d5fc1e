"""Manifests that are large, deep, ambiguous or hostile: passed unchanged, or refused and not kept."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.cache.disks import bytes_on_disk
from tests.faults.conftest import UPSTREAM
from tests.support import images
from tests.support.faults import change
from tests.support.images import OCI_INDEX, OCI_MANIFEST
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, head
from tests.support.scripted import ScriptedUpstream

MIB: Final = 1 << 20
SHA: Final = "sha256:" + "a" * 64
ITEM: Final = {"digest": SHA, "size": 1, "mediaType": "application/octet-stream"}


def manifest(millpond: Millpond, repository: str, reference: str) -> Reply:
    return get(f"{millpond.url}/v2/{UPSTREAM}/{repository}/manifests/{reference}")


def padded(size: int) -> bytes:
    """An image manifest of exactly `size` bytes."""
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [], "annotations": {"pad": ""}}
    return json.dumps(document).replace('"pad": "', f'"pad": "{"x" * (size - len(json.dumps(document)))}').encode()


def assert_refused(upstream: ScriptedUpstream, millpond: Millpond, repository: str, digest: str, message: str) -> None:
    """502 by tag and by digest, each time anew, and nothing of it is kept."""
    before = bytes_on_disk(millpond.cache)
    for reference in ("bad", digest, "bad"):
        asked = len(upstream.seen(f"/{repository}/manifests/{reference}"))
        reply = manifest(millpond, repository, reference)
        assert (reply.status, reply.error_code) == (502, "UNAVAILABLE"), reply.text[:500]
        assert message in reply.json()["errors"][0]["message"]
        assert reply.size < 1000
        assert "docker-content-digest" not in reply.headers
        assert len(upstream.seen(f"/{repository}/manifests/{reference}")) > asked
    assert not millpond.blob_file(digest).exists()
    assert bytes_on_disk(millpond.cache) == before
    assert get(f"{millpond.admin_url}/readyz").status == 200


def test_a_manifest_of_four_mebibytes_is_served_unchanged_and_kept(
    upstream: ScriptedUpstream, millpond: Millpond
) -> None:
    """Row 33; H: the specification wants that much to be possible."""
    body = padded(4 * MIB)
    assert len(body) == 4 * MIB
    digest = upstream.add_manifest("large/four", body, OCI_MANIFEST, "1")
    for origin in ("upstream", "hit"):
        reply = manifest(millpond, "large/four", "1")
        assert (reply.status, reply.body, reply.headers["x-millpond"]) == (200, body, origin)
        assert reply.headers["docker-content-digest"] == digest
    assert head(f"{millpond.url}/v2/{UPSTREAM}/large/four/manifests/{digest}").headers["content-length"] == str(4 * MIB)
    assert millpond.blob_file(digest).read_bytes() == body


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_of_a_manifest_of_64_mebibytes_only_a_bounded_part_is_read(
    upstream: ScriptedUpstream, millpond: Millpond, framing: str
) -> None:
    """Row 33; H P."""
    repository = f"large/{framing}"
    digest = upstream.add_manifest(repository, padded(64 * MIB), OCI_MANIFEST, "bad")
    upstream.script(f"{repository}/manifests", then=change(framing=framing))
    rss = millpond.rss()
    assert_refused(upstream, millpond, repository, digest, "8388608 bytes")
    per_request = upstream.sent_of(f"{repository}/manifests") / len(upstream.seen(f"{repository}/manifests"))
    assert per_request < 24 * MIB  # 8 MiB, and what the sockets between the two hold
    assert millpond.rss() - rss < 64 * MIB
    upstream.behave()


@pytest.mark.parametrize(
    ("name", "body", "media_type", "message"),
    [
        ("both", {"manifests": [], "layers": [ITEM]}, OCI_INDEX, "ambiguous"),
        ("both-typed", {"manifests": [ITEM], "config": ITEM, "mediaType": OCI_INDEX}, OCI_INDEX, "CVE-2021-41190"),
        ("index-as-image", {"manifests": [ITEM]}, OCI_MANIFEST, "does not fit its type"),
        ("image-as-index", {"layers": [ITEM], "config": ITEM}, OCI_INDEX, "does not fit its type"),
        ("two-types", {"layers": [], "mediaType": images.DOCKER_MANIFEST}, OCI_MANIFEST, "its Content-Type says"),
        ("many", {"manifests": [ITEM] * 100_000}, OCI_INDEX, "more than 8388608 bytes"),
        ("many-small", {"manifests": [{}] * 100_000}, OCI_INDEX, "the limit is 10000"),
        ("header", {"layers": [], "mediaType": "x/y\r\nSet-Cookie: a=b"}, "application/json", "is not a media type"),
        ("unicode", {"layers": [], "mediaType": "x/\u2028"}, "application/json", "is not a media type"),
    ],
)
def test_a_manifest_that_is_not_what_it_says_is_refused_and_not_kept(
    upstream: ScriptedUpstream, millpond: Millpond, *, name: str, body: dict[str, Any], media_type: str, message: str
) -> None:
    """Rows 34, 35 and 39; P S."""
    raw = json.dumps({"schemaVersion": 2, **body}).encode()
    digest = upstream.add_manifest(f"wrong/{name}", raw, media_type, "bad")
    assert_refused(upstream, millpond, f"wrong/{name}", digest, message)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("arrays", b"[" * MIB),
        ("objects", b'{"a":' * 200_000),
        ("closed", b'{"schemaVersion":2,"layers":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        ("digits", b'{"schemaVersion":2,"layers":[{"size":' + b"1" * MIB + b"}]}"),
        ("html", b"<html>captive portal</html>"),
        ("empty", b""),
        ("binary", bytes(range(256)) * 100),
    ],
)
def test_json_that_is_made_to_break_its_reader_is_refused(
    upstream: ScriptedUpstream, millpond: Millpond, name: str, body: bytes
) -> None:
    """Row 34; H: a RecursionError is contained."""
    digest = upstream.add_manifest(f"bomb/{name}", body, OCI_MANIFEST, "bad")
    assert_refused(upstream, millpond, f"bomb/{name}", digest, "upstream answered something that is not a")


def test_an_index_in_an_index_a_thousand_deep_is_passed_one_at_a_time(
    upstream: ScriptedUpstream, millpond: Millpond
) -> None:
    """Row 34; H: nobody but the client walks down."""
    nested = images.artifact(images.EMPTY_CONFIG, [])
    for _ in range(1000):
        nested = images.index([nested])
        upstream.add_manifest("deep/x", nested.body, nested.media_type)
    upstream.add_manifest("deep/x", nested.body, nested.media_type, "1")
    for _ in range(2):
        assert manifest(millpond, "deep/x", "1").body == nested.body
    assert len(upstream.seen("/deep/x/", "")) == 1
    child = nested.children[0]
    assert manifest(millpond, "deep/x", child.digest).body == child.body
    assert len(upstream.seen("/deep/x/", "")) == 2


def test_the_urls_of_a_foreign_layer_are_never_fetched_and_pass_unchanged(
    upstream: ScriptedUpstream, millpond: Millpond
) -> None:
    """Row 36; S: CVE-2020-15157."""
    with ScriptedUpstream() as elsewhere:
        foreign = images.foreign_layer(f"{elsewhere.url}/v2/x/blobs/layer")
        image = images.artifact(images.EMPTY_CONFIG, [foreign, images.blob(b"ours")])
        upstream.add(image, "windows/x", "1")
        reply = manifest(millpond, "windows/x", "1")
        assert reply.body == image.body
        assert elsewhere.url in reply.text
        base = f"{millpond.url}/v2/{UPSTREAM}/windows/x/blobs"
        assert get(f"{base}/{image.blobs[2].digest}").body == b"ours"
        for answer in (get(f"{base}/{foreign.digest}"), head(f"{base}/{foreign.digest}")):
            assert answer.status == 404
        assert manifest(millpond, "windows/x", image.digest).headers["x-millpond"] == "hit"
        assert elsewhere.connections == 0

"""Whatever a registry can hold passes byte for byte, in every way in which a client may name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import Shelf
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, head, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

NAMES = {
    "ns": ("/v2/library/several", "?ns=docker.io"),
    "prefix": ("/v2/docker.io/library/several", ""),
    "path style": ("/docker.io/v2/library/several", ""),
    "path style with ns": ("/docker.io/v2/library/several", "?ns=docker.io"),
    "default upstream": ("/v2/library/several", ""),
    "short name": ("/v2/several", "?ns=docker.io"),
}


def test_every_name_of_an_image_reaches_one_cache_entry(
    millpond: Millpond, plain_registry: Registry, shelf: Shelf
) -> None:
    base, query = NAMES["prefix"]
    pull(millpond.url + base, shelf.several, "1", query)
    with plain_registry.down():
        for base, query in NAMES.values():
            replies = pull(millpond.url + base, shelf.several, "1", query)
            assert {reply.headers["x-millpond"] for reply in replies} == {"hit"}
            assert all(reply.headers.get("oci-namespace") == ("docker.io" if query else None) for reply in replies)


def artifacts(directory: Path) -> dict[str, Manifest]:
    image = images.simple_image(directory, seed=30)
    far = images.foreign_layer("https://127.0.0.1:1/never/fetched")
    return {
        "helm chart": images.chart(),
        "cosign signature": images.signature(image)[1],
        "docker list": images.index([images.simple_image(directory, seed=31, docker=True)], docker=True),
        "index of indexes": images.index([images.index([image])]),
        "foreign layer": images.image([images.layer(directory, 1000, seed=32, base=True), far]),
        "artifact with a subject": images.artifact(
            images.EMPTY_CONFIG, [images.blob(b"sbom")], subject=image, artifact_type="application/spdx+json"
        ),
        "zero-length blob": images.artifact(images.EMPTY_CONFIG, [images.blob(b"")]),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "helm chart",
        "cosign signature",
        "docker list",
        "index of indexes",
        "foreign layer",
        "artifact with a subject",
        "zero-length blob",
    ],
)
def test_every_kind_of_artifact_passes_byte_for_byte(
    kind: str, start_millpond: StartMillpond, images_directory: Path
) -> None:
    source = artifacts(images_directory)[kind]
    with ScriptedUpstream() as upstream:
        upstream.add(source, "team/thing", "1")
        millpond = start_millpond({"registry.test": upstream.upstream()})
        base = f"{millpond.url}/v2/registry.test/team/thing"
        pull(base, source, "1")
        upstream.stop()
        pull(base, source, "1")
        pull(base, source, source.digest)
    assert not upstream.seen("/never/fetched")


def test_content_under_sha512_is_served_and_kept(start_millpond: StartMillpond) -> None:
    with ScriptedUpstream() as upstream:
        config = images.blob(b"{}", images.EMPTY_CONFIG, "sha512")
        layer = images.blob(b"".join(images.noise(100_000, 40)), images.OCI_LAYER, "sha512")
        plain = images.artifact(images.EMPTY_CONFIG, [layer])
        source = Manifest(plain.media_type, plain.body, (*plain.blobs, config), algorithm="sha512")
        upstream.add(source, "team/thing", "1")
        millpond = start_millpond({"registry.test": upstream.upstream()})
        base = f"{millpond.url}/v2/registry.test/team/thing"
        manifest = get(f"{base}/manifests/{source.digest}")
        assert (manifest.status, manifest.body) == (200, source.body)
        assert manifest.headers["docker-content-digest"] == source.digest
        first = get(f"{base}/blobs/{layer.digest}")
        upstream.stop()
        second = get(f"{base}/blobs/{layer.digest}")
        assert first.body == second.body == layer.read()
        wait_until(lambda: millpond.blob_file(layer.digest).exists(), "the blob is kept, a moment after its last byte")


def test_head_says_what_get_delivers(millpond: Millpond, shelf: Shelf) -> None:
    base = f"{millpond.url}/v2/library/single"
    layer = shelf.single.blobs[-1]
    get(f"{base}/manifests/1")
    for path, size in (
        (f"manifests/{shelf.single.digest}", len(shelf.single.body)),
        (f"blobs/{layer.digest}", layer.size),
    ):
        asked, got = head(f"{base}/{path}"), get(f"{base}/{path}", keep=False)
        assert (asked.status, got.status, got.size) == (200, 200, size)
        for name in ("content-length", "content-type", "docker-content-digest", "etag"):
            assert asked.headers[name] == got.headers[name]


def test_referrers_and_the_fallback_tag_are_passed_through(start_millpond: StartMillpond) -> None:
    with ScriptedUpstream() as upstream:
        subject = images.chart()
        signed = images.artifact(images.EMPTY_CONFIG, [], subject=subject, artifact_type="application/vnd.test")
        listed = images.index([signed])
        upstream.add(subject, "team/thing", "1")
        upstream.add(signed, "team/thing")
        upstream.add(listed, "team/thing", subject.digest.replace(":", "-"))
        millpond = start_millpond({"registry.test": upstream.upstream()})
        base = f"{millpond.url}/v2/registry.test/team/thing"
        found = get(f"{base}/referrers/{subject.digest}")
        assert found.headers["content-type"] == images.OCI_INDEX
        assert [entry["digest"] for entry in found.json()["manifests"]] == [signed.digest]
        none = get(f"{base}/referrers/{subject.digest}?artifactType=application/other")
        assert (none.status, none.json()["manifests"]) == (200, [])
        pull(base, listed, subject.digest.replace(":", "-"))

"""The tables of the specification that the suite asks only of what it has pushed itself: every answer, every range."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.conformance.shelf import REPOSITORY
from tests.edge.raw import ask
from tests.support import images
from tests.support.faults import Gate, change
from tests.support.images import Manifest
from tests.support.millpond import Millpond, running
from tests.support.pulls import Reply, get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import DEADLINE

UPSTREAM: Final = "registry.test"
# As large as the suite's own blob for ranges.
SIZE: Final = 2500
_seeds = itertools.count(7000)

RANGES: Final = {
    "bytes=500-1499": (500, 1500),
    "bytes=500-": (500, SIZE),
    "bytes=-500": (SIZE - 500, SIZE),
    "bytes=2000-5000": (2000, SIZE),
}
IMPOSSIBLE: Final = ("bytes=500-0", "bytes=5000-10000")


@pytest.fixture(scope="module")
def millpond(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    config = {"upstreams": {UPSTREAM: upstream.upstream()}, "default_upstream": UPSTREAM}
    with running(config, tmp_path_factory.mktemp("millpond")) as made:
        yield made


def noise() -> bytes:
    return b"".join(images.noise(SIZE, next(_seeds)))


def assert_partial(reply: Reply, content: bytes, wanted: str) -> None:
    start, stop = RANGES[wanted]
    assert (reply.status, reply.body) == (206, content[start:stop])
    assert reply.headers["content-length"] == str(stop - start)
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("wanted", RANGES)
def test_a_range_is_exact_cold_and_warm(
    upstream: ScriptedUpstream, millpond: Millpond, wanted: str, algorithm: str
) -> None:
    """W: the suite's range table, by both algorithms."""
    content = noise()
    digest = upstream.add_blob(REPOSITORY, content, algorithm)
    for _ in ("cold", "warm"):
        reply = get(f"{millpond.url}/v2/{REPOSITORY}/blobs/{digest}", {"Range": wanted})
        assert_partial(reply, content, wanted)
        assert reply.headers["docker-content-digest"] == digest
        assert reply.headers["accept-ranges"] == "bytes"


def test_every_range_is_exact_while_the_blob_arrives(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """W H: nobody is answered from what is not there yet, and the impossible is refused without waiting."""
    content, gate = noise(), Gate()
    digest = upstream.add_blob(REPOSITORY, content)
    upstream.script(digest, change(gates={700: gate}))
    url = f"{millpond.url}/v2/{REPOSITORY}/blobs/{digest}"
    with ThreadPoolExecutor(len(RANGES)) as clients:
        waiting = {wanted: clients.submit(get, url, {"Range": wanted}) for wanted in RANGES}
        try:
            assert gate.reached.wait(DEADLINE)
            for wanted in IMPOSSIBLE:
                assert get(url, {"Range": wanted}).status == 416
            assert not any(client.done() for client in waiting.values())
        finally:
            gate.open()
        for wanted, client in waiting.items():
            assert_partial(client.result(DEADLINE), content, wanted)
    assert len(upstream.seen(digest)) == 1


@pytest.mark.parametrize("wanted", IMPOSSIBLE)
def test_a_range_that_cannot_be_is_416_cold_and_warm(
    upstream: ScriptedUpstream, millpond: Millpond, wanted: str
) -> None:
    digest = upstream.add_blob(REPOSITORY, noise())
    url = f"{millpond.url}/v2/{REPOSITORY}/blobs/{digest}"
    for _ in ("cold", "warm"):
        reply = get(url, {"Range": wanted})
        assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{SIZE}")
        assert get(url).status == 200


@pytest.mark.parametrize("wanted", [*RANGES, *IMPOSSIBLE])
def test_ranges_mean_nothing_to_head_nor_to_a_manifest(
    upstream: ScriptedUpstream, millpond: Millpond, wanted: str
) -> None:
    """RFC 9110 defines Range for GET only; containerd 2.1.0 to 2.1.2 send one for manifests too, and want the whole."""
    image = shelved(upstream)
    base = f"{millpond.url}/v2/{REPOSITORY}"
    blob = image.blobs[-1]
    for _ in ("cold", "warm"):
        reply = get(f"{base}/blobs/{blob.digest}", {"Range": wanted}, method="HEAD")
        assert (reply.status, reply.headers["content-length"]) == (200, str(blob.size))
        for method in ("HEAD", "GET"):
            reply = get(f"{base}/manifests/{image.digest}", {"Range": wanted}, method=method)
            assert (reply.status, reply.headers["content-length"]) == (200, str(len(image.body)))
            assert "content-range" not in reply.headers
        assert get(f"{base}/blobs/{blob.digest}").status == 200


def shelved(upstream: ScriptedUpstream) -> Manifest:
    """An image that nobody has pulled yet, under the tag `one`."""
    image = images.artifact(images.EMPTY_CONFIG, [images.blob(noise())])
    upstream.add(image, REPOSITORY, "one")
    return image


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_has_the_status_and_headers_of_the_specification(
    upstream: ScriptedUpstream, millpond: Millpond, method: str
) -> None:
    """The table of requests, cold and warm, by GET and by HEAD."""
    image = shelved(upstream)
    blob = image.blobs[-1]
    missing = f"sha256:{next(_seeds):064}"
    manifest = {
        "content-type": image.media_type,
        "content-length": str(len(image.body)),
        "docker-content-digest": image.digest,
    }
    octets = {
        "content-type": "application/octet-stream",
        "content-length": str(blob.size),
        "docker-content-digest": blob.digest,
        "accept-ranges": "bytes",
    }
    index = {"content-type": images.OCI_INDEX}
    table: list[tuple[str, int, dict[str, str]]] = [
        ("", 200, {"docker-distribution-api-version": "registry/2.0"}),
        (f"{REPOSITORY}/manifests/{image.digest}", 200, manifest),
        (f"{REPOSITORY}/manifests/none", 404, {"content-type": "application/json"}),
        (f"{REPOSITORY}/manifests/{missing}", 404, {"content-type": "application/json"}),
        (f"{REPOSITORY}/manifests/sha256:baddigeststring", 400, {"content-type": "application/json"}),
        (f"{REPOSITORY}/blobs/{blob.digest}", 200, octets),
        (f"{REPOSITORY}/blobs/{missing}", 404, {"content-type": "application/json"}),
        (f"{REPOSITORY}/tags/list", 200, {"content-type": "application/json"}),
        (f"{REPOSITORY}/tags/list?n=1", 200, {"content-type": "application/json"}),
        ("conformance/none/tags/list", 404, {"content-type": "application/json"}),
        (f"{REPOSITORY}/referrers/{image.digest}", 200, index),
        (f"{REPOSITORY}/referrers/{missing}", 200, index),
        (
            f"{REPOSITORY}/referrers/{image.digest}?artifactType=a/b",
            200,
            {**index, "oci-filters-applied": "artifactType"},
        ),
        (f"{REPOSITORY}/referrers/one", 400, {"content-type": "application/json"}),
    ]
    for _ in ("cold", "warm"):
        for path, status, headers in table:
            reply = ask(millpond, f"/v2/{path}", method)
            assert (path, reply.status) == (path, status), reply.text
            assert {name: reply.headers.get(name) for name in headers} == headers, path
            assert (reply.size == 0) == (method == "HEAD"), path
            if method == "GET":
                assert int(reply.headers["content-length"]) == reply.size
                assert status < 400 or reply.error_code

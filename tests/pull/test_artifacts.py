"""Everything that a registry can hold passes byte for byte, cold and warm; and the lists that are no content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import StartMillpond
from tests.support import images
from tests.support.faults import Answer, refuse
from tests.support.images import OCI_INDEX, Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
ATTESTATION: Final = "application/vnd.in-toto+json"
SBOM: Final = "application/spdx+json"


@pytest.fixture(scope="module")
def millpond(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    made = Millpond({"upstreams": {UPSTREAM: upstream.upstream()}}, tmp_path_factory.mktemp("millpond")).start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def good_behaviour(upstream: ScriptedUpstream) -> None:
    upstream.behave()


def base_of(millpond: Millpond, repository: str) -> str:
    return f"{millpond.url}/v2/{UPSTREAM}/{repository}"


def landed(millpond: Millpond) -> None:
    wait_until(lambda: millpond.metric("millpond_flights") == 0, "all blobs have landed")


# Content


def oci_index(directory: Path) -> Manifest:
    return images.index([images.simple_image(directory, seed=1), images.simple_image(directory, seed=2, layers=3)])


def docker_list(directory: Path) -> Manifest:
    return images.index([images.simple_image(directory, seed=3, docker=True)], docker=True)


def index_of_indexes(directory: Path) -> Manifest:
    return images.index([oci_index(directory), images.chart(seed=4)])


def zstd(directory: Path) -> Manifest:
    return images.image([images.layer(directory, 50_000, seed=5, media_type=images.OCI_LAYER_ZSTD, base=True)])


def chart(_: Path) -> Manifest:
    return images.chart(seed=6)


def index_with_attestation(directory: Path) -> Manifest:
    """As BuildKit writes it: the attestation is a child of platform unknown/unknown."""
    image = images.simple_image(directory, seed=7)
    attestation = images.artifact(images.OCI_CONFIG, [images.blob(b'{"predicate": {}}', ATTESTATION)])
    return images.index([image, replace(attestation, platform="unknown/unknown")])


def bare_artifact(_: Path) -> Manifest:
    """One that states no mediaType, has annotations beyond ASCII, and ends in spaces: its bytes are its identity."""
    document = json.loads(images.artifact(images.EMPTY_CONFIG, [images.blob(b"content")]).body)
    del document["mediaType"]
    document["annotations"] = {"org.opencontainers.image.title": "Mühlteich \u6c34"}
    body = json.dumps(document, ensure_ascii=False).encode() + b"  \n"
    return Manifest(images.OCI_MANIFEST, body, (images.blob(b"{}"), images.blob(b"content")))


def empty_index(_: Path) -> Manifest:
    return images.index([])


@pytest.mark.parametrize(
    "make",
    [oci_index, docker_list, index_of_indexes, zstd, chart, index_with_attestation, bare_artifact, empty_index],
    ids=lambda make: make.__name__.replace("_", " "),
)
def test_content_passes_byte_for_byte_and_the_second_pull_asks_nobody(
    upstream: ScriptedUpstream, millpond: Millpond, images_directory: Path, make: Callable[[Path], Manifest]
) -> None:
    """W K."""
    made, repository = make(images_directory), f"library/{make.__name__}"
    upstream.add(made, repository, "1")
    pull(base_of(millpond, repository), made, "1")
    landed(millpond)
    asked = len(upstream.requests)
    replies = pull(base_of(millpond, repository), made, "1")
    assert {reply.headers["x-millpond"] for reply in replies} == {"hit"}
    assert len(upstream.requests) == asked


def test_a_cosign_signature_is_found_by_its_tag(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """W: the tag is made of the signed digest."""
    signed = images.chart(seed=11)
    tag, signature = images.signature(signed)
    upstream.add(signed, "library/signed", "1")
    upstream.add(signature, "library/signed", tag)
    for _ in range(2):
        pull(base_of(millpond, "library/signed"), signed, "1")
        pull(base_of(millpond, "library/signed"), signature, tag)


def test_sha512_is_as_good_as_sha256(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """W P: manifests and blobs, each verified by its own algorithm and kept under it."""
    blob = images.blob(b"a blob with a long name", algorithm="sha512")
    made = replace(images.artifact(images.EMPTY_CONFIG, [blob]), algorithm="sha512")
    upstream.add(made, "library/long")
    for origin in ("upstream", "hit"):
        reply = get(f"{base_of(millpond, 'library/long')}/manifests/{made.digest}")
        assert (reply.body, reply.headers["docker-content-digest"]) == (made.body, made.digest)
        assert reply.headers["x-millpond"] == origin
        reply = get(f"{base_of(millpond, 'library/long')}/blobs/{blob.digest}")
        assert (reply.body, reply.headers["docker-content-digest"]) == (blob.data, blob.digest)
        assert reply.headers["x-millpond"] == origin
        landed(millpond)
    for digest in (made.digest, blob.digest):
        assert f"sha512:{hashlib.sha512(millpond.blob_file(digest).read_bytes()).hexdigest()}" == digest


def test_wrong_bytes_under_a_sha512_digest_are_refused(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """W P."""
    digest = images.blob(b"right", algorithm="sha512").digest
    upstream.serve(f"/v2/library/long/blobs/{digest}", Answer(200, b"wrong"))
    assert get(f"{base_of(millpond, 'library/long')}/blobs/{digest}").status == 502
    assert not millpond.blob_file(digest).exists()


def test_a_foreign_layer_is_named_and_never_fetched(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    """Row 36, S: the manifest passes unchanged, `urls` and all; whose they are learns nothing (CVE-2020-15157)."""
    with ScriptedUpstream() as elsewhere:
        layer = images.foreign_layer(f"{elsewhere.url}/layer")
        made = images.image([layer])
        upstream.add(made, "library/windows", "1")
        pull(base_of(millpond, "library/windows"), made, "1")
        reply = get(f"{base_of(millpond, 'library/windows')}/manifests/1")
        assert reply.json()["layers"][0]["urls"] == [f"{elsewhere.url}/layer"]
        missing = get(f"{base_of(millpond, 'library/windows')}/blobs/{layer.digest}")
        assert (missing.status, missing.error_code) == (404, "BLOB_UNKNOWN")
        assert elsewhere.requests == []
        assert elsewhere.connections == 0


# Referrers


@pytest.fixture
def subject(upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> tuple[str, Manifest]:
    """(repository, manifest) of one that has an attestation and an SBOM referring to it."""
    repository = f"library/subject-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"
    made = images.chart(seed=int(repository[-4:], 16))
    upstream.add(made, repository, "1")
    for kind in (ATTESTATION, SBOM):
        upstream.add(images.artifact(images.EMPTY_CONFIG, [], subject=made, artifact_type=kind), repository)
    return repository, made


def referrers(millpond: Millpond, subject: tuple[str, Manifest], query: str = "") -> Reply:
    repository, made = subject
    return get(f"{base_of(millpond, repository)}/referrers/{made.digest}{query}")


def kinds(reply: Reply) -> list[str]:
    index = reply.json()
    assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
    assert reply.headers["content-type"] == OCI_INDEX
    return [entry["artifactType"] for entry in index["manifests"]]


def test_referrers_are_upstreams_and_cached(
    upstream: ScriptedUpstream, millpond: Millpond, subject: tuple[str, Manifest]
) -> None:
    """K: byte for byte, and asked for once."""
    repository, made = subject
    theirs = get(f"{upstream.url}/v2/{repository}/referrers/{made.digest}")
    asked = len(upstream.seen("/referrers/"))
    for origin in ("upstream", "hit", "hit"):
        reply = referrers(millpond, subject)
        assert (reply.status, reply.body, reply.headers["x-millpond"]) == (200, theirs.body, origin)
        assert kinds(reply) == [ATTESTATION, SBOM]
        assert "oci-filters-applied" not in reply.headers
    assert len(upstream.seen("/referrers/")) == asked + 1
    for entry in theirs.json()["manifests"]:
        assert get(f"{base_of(millpond, repository)}/manifests/{entry['digest']}").digest == entry["digest"]


@pytest.mark.parametrize(("wanted", "found"), [(SBOM, [SBOM]), (ATTESTATION, [ATTESTATION]), ("application/x", [])])
def test_referrers_are_filtered_by_artifact_type(
    upstream: ScriptedUpstream, millpond: Millpond, subject: tuple[str, Manifest], wanted: str, found: list[str]
) -> None:
    """Out of one list, whether or not upstream could have done it."""
    query = f"?artifactType={wanted.replace('+', '%2B')}"
    reply = referrers(millpond, subject, query)
    assert (kinds(reply), reply.headers["oci-filters-applied"]) == (found, "artifactType")
    assert kinds(referrers(millpond, subject)) == [ATTESTATION, SBOM]
    assert kinds(referrers(millpond, subject, query)) == found
    assert len(upstream.seen(f"/{subject[0]}/referrers/")) == 1


def test_a_manifest_without_referrers_has_an_empty_index(upstream: ScriptedUpstream, millpond: Millpond) -> None:
    made = images.chart(seed=21)
    upstream.add(made, "library/lonely", "1")
    assert kinds(referrers(millpond, ("library/lonely", made))) == []


def test_an_upstream_without_referrers_is_passed_on_with_its_fallback_tag(
    upstream: ScriptedUpstream, millpond: Millpond
) -> None:
    """404, and not an empty list: clients then look for the tag."""
    made = images.chart(seed=22)
    fallback = images.index([images.artifact(images.EMPTY_CONFIG, [], subject=made)])
    tag = made.digest.replace(":", "-")
    upstream.add(made, "library/older", "1")
    upstream.add(fallback, "library/older", tag)
    upstream.script("/library/older/referrers/", then=refuse(404))
    for _ in range(10):
        reply = referrers(millpond, ("library/older", made))
        assert (reply.status, reply.error_code) == (404, "MANIFEST_UNKNOWN")
    assert len(upstream.seen("/library/older/referrers/")) == 1  # a refusal is remembered for moments
    pull(base_of(millpond, "library/older"), fallback, tag)


def test_referrers_of_what_is_no_digest_are_refused(millpond: Millpond) -> None:
    reply = get(f"{base_of(millpond, 'library/older')}/referrers/sha256:0")
    assert (reply.status, reply.error_code) == (400, "DIGEST_INVALID")


def test_referrers_outlive_an_upstream_that_fails(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, subject: tuple[str, Manifest]
) -> None:
    """Row 10, B: as a tag does; and new ones are seen when it is back."""
    millpond = start_millpond({UPSTREAM: upstream.upstream(tag_ttl="0s")})
    assert kinds(referrers(millpond, subject)) == [ATTESTATION, SBOM]
    upstream.script("/referrers/", then=refuse(500))
    reply = referrers(millpond, subject)
    assert (kinds(reply), reply.headers["x-millpond"]) == ([ATTESTATION, SBOM], "stale")
    repository, made = subject
    upstream.add(images.artifact(images.EMPTY_CONFIG, [], subject=made, artifact_type="text/plain"), repository)
    upstream.behave()
    wait_until(lambda: kinds(referrers(millpond, subject)) == [ATTESTATION, SBOM, "text/plain"], "the new one is seen")


# Lists

TAGS: Final = ["1", "1.0", "2", "latest", "v3"]


def next_of(reply: Reply) -> str | None:
    """The path of the next page."""
    link = reply.headers.get("link")
    found = re.fullmatch(r'<(/[^>]*)>; rel="next"', link) if link else None
    assert bool(link) == bool(found), link
    return found[1] if found else None


def pages(millpond: Millpond, path: str, key: str) -> list[list[str]]:
    """Every page from `path` on, as a client follows them."""
    found: list[list[str]] = []
    following: str | None = path
    while following:
        reply = get(f"{millpond.url}{following}")
        assert reply.status == 200, reply.text
        found.append(reply.json()[key])
        following = next_of(reply)
        assert len(found) < 20
    return found


@pytest.fixture(scope="module")
def tagged(upstream: ScriptedUpstream) -> str:
    upstream.add(images.chart(seed=31), "library/tagged", *TAGS)
    return "library/tagged"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/docker.io/{}/tags/list?",
        "/v2/{}/tags/list?ns=docker.io&",
        "/docker.io/v2/{}/tags/list?",
        "/v2/{}/tags/list?",
    ],
    ids=["prefix", "ns", "path style", "default"],
)
def test_tags_are_paged_by_links_that_lead_on(millpond: Millpond, tagged: str, path: str) -> None:
    """Whatever the name that the client uses."""
    for size in (1, 2, 3):
        expected = [TAGS[at : at + size] for at in range(0, len(TAGS), size)]
        assert pages(millpond, f"{path.format(tagged)}n={size}", "tags") == expected
    for size in (5, 6, 1000):
        assert pages(millpond, f"{path.format(tagged)}n={size}", "tags") == [TAGS]
    assert pages(millpond, path.format(tagged) + "n=10&last=1.0", "tags") == [TAGS[2:]]


def test_all_tags_are_listed_where_no_number_is_asked_for(millpond: Millpond, tagged: str) -> None:
    reply = get(f"{base_of(millpond, tagged)}/tags/list")
    assert (reply.status, next_of(reply)) == (200, None)
    assert reply.json() == {"name": tagged, "tags": TAGS}
    assert reply.headers["content-type"] == "application/json"


def test_no_tags_at_all_is_an_empty_list_without_a_link(
    upstream: ScriptedUpstream, millpond: Millpond, tagged: str
) -> None:
    asked = len(upstream.requests)
    reply = get(f"{base_of(millpond, tagged)}/tags/list?n=0")
    assert (reply.status, reply.json()["tags"], next_of(reply)) == (200, [], None)
    assert len(upstream.requests) == asked


@pytest.mark.parametrize("number", ["1001", str(10**12), "9" * 3000])
def test_a_number_beyond_reason_is_clamped(
    upstream: ScriptedUpstream, millpond: Millpond, tagged: str, number: str
) -> None:
    """Row 40, H (CVE-2023-2253): upstream is asked for no more than a page."""
    assert pages(millpond, f"/v2/{tagged}/tags/list?n={number}", "tags") == [TAGS]
    assert upstream.seen("/tags/list")[-1].query == {"n": "1000"}


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "%C2%B2", ""])
def test_what_is_no_number_is_refused(millpond: Millpond, tagged: str, number: str) -> None:
    reply = get(f"{base_of(millpond, tagged)}/tags/list?n={number}")
    assert (reply.status, reply.error_code) == (400, "PAGINATION_NUMBER_INVALID")


def test_tags_of_an_unknown_repository_are_404(millpond: Millpond) -> None:
    reply = get(f"{base_of(millpond, 'library/nobody')}/tags/list")
    assert (reply.status, reply.error_code) == (404, "NAME_UNKNOWN")


def test_tags_that_were_pulled_are_listed_while_upstream_fails(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tagged: str
) -> None:
    """Row 10, B: those that can be pulled, paged all the same; of a repository that is not here nothing is said."""
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    for tag in ("v3", "1", "latest"):
        assert get(f"{base_of(millpond, tagged)}/manifests/{tag}").status == 200
    upstream.script("/tags/list", then=refuse(500))
    reply = get(f"{base_of(millpond, tagged)}/tags/list")
    assert (reply.json()["tags"], reply.headers["x-millpond"]) == (["1", "latest", "v3"], "stale")
    assert pages(millpond, f"/v2/{tagged}/tags/list?n=2", "tags") == [["1", "latest"], ["v3"]]
    assert get(f"{base_of(millpond, 'library/nobody')}/tags/list").status == 502


def test_the_catalog_lists_what_is_cached_page_by_page(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Of all upstreams with their names, or of one without; nobody is asked for it."""
    other = "registry.example.com"
    millpond = start_millpond({UPSTREAM: upstream.upstream(), other: upstream.upstream()})
    assert pages(millpond, "/v2/_catalog", "repositories") == [[]]
    made = images.chart(seed=41)
    for repository in ("library/b", "library/a", "library/c"):
        upstream.add(made, repository, "1")
        assert get(f"{millpond.url}/v2/{UPSTREAM}/{repository}/manifests/1").status == 200
    assert get(f"{millpond.url}/v2/{other}/library/a/manifests/1").status == 200
    assert get(f"{millpond.url}/v2/{other}/library/missing/manifests/1").status == 404
    asked = len(upstream.requests)
    mine, theirs = ["library/a", "library/b", "library/c"], f"{other}/library/a"
    every = [*(f"{UPSTREAM}/{name}" for name in mine), theirs]
    assert pages(millpond, "/v2/_catalog", "repositories") == [every]
    assert pages(millpond, "/v2/_catalog?n=3", "repositories") == [every[:3], every[3:]]
    for path in (f"/v2/_catalog?ns={UPSTREAM}&n=2", f"/{UPSTREAM}/v2/_catalog?n=2"):
        assert pages(millpond, path, "repositories") == [mine[:2], mine[2:]]
    assert get(f"{millpond.url}/v2/_catalog?ns=unknown.example.com").status == 404
    assert len(upstream.requests) == asked

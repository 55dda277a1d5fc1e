"""The names that clients use for one image reach one cache entry."""

from __future__ import annotations

import itertools

import pytest

from proxy.edge.routes import Namespace
from tests.cache.disks import landed
from tests.edge.conftest import WITH_PORT, House
from tests.support import images
from tests.support.pulls import get, head, pull
from tests.support.scripted import ScriptedUpstream

_seeds = itertools.count()


def image() -> images.Manifest:
    """One that nobody has pulled yet."""
    return images.artifact(images.EMPTY_CONFIG, [images.blob(f"layer {next(_seeds)}".encode() * 1000)])


HUB = ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"]


def test_every_name_of_a_short_docker_hub_image_is_one_cache_entry(house: House) -> None:
    """The contract: four ways, all aliases, with and without `library/`; one GET upstream for each part."""
    made = image()
    house.hub.add(made, "library/alpine", "3")
    bases = [("/v2/library/alpine", ""), ("/v2/alpine", "")]
    for host, name in itertools.product(HUB, ["library/alpine", "alpine"]):
        bases += [(f"/v2/{name}", f"?ns={host}"), (f"/v2/{host}/{name}", ""), (f"/{host}/v2/{name}", "")]
        bases += [(f"/{host}/v2/{name}", "?ns=docker.io"), (f"/v2/docker.io/{name}", f"?ns={host}")]
    for number, (base, query) in enumerate(bases):
        replies = pull(house.url + base, made, "3", query)
        landed(house.millpond)
        expected = {"hit"} if number else {"upstream"}
        assert {reply.headers["x-millpond"] for reply in replies} == expected, base
        namespaces = {reply.headers.get("oci-namespace") for reply in replies}
        assert namespaces == {query.removeprefix("?ns=") or None}
    for digest in (made.digest, *made.all_blobs()):
        assert len(house.hub.seen(digest, "")) == (0 if digest == made.digest else 1)
    assert len(house.hub.seen("/v2/library/alpine/manifests/3", "GET")) == 1
    assert house.hub.seen("/v2/alpine/", "") == []


@pytest.mark.parametrize("upstream", ["ghcr.io", WITH_PORT])
def test_every_name_of_an_image_elsewhere_is_one_cache_entry(house: House, upstream: str) -> None:
    """The contract; a port in an upstream's name, and an alias for it."""
    at: ScriptedUpstream = house.ghcr if upstream == "ghcr.io" else house.ported
    made, name = image(), f"org/image-{next(_seeds)}"
    at.add(made, name, "v1")
    hosts = [upstream, "ported"] if at is house.ported else [upstream]
    for host in hosts:
        for base, query in [
            (f"/v2/{name}", f"?ns={host}"),
            (f"/v2/{host}/{name}", ""),
            (f"/{host}/v2/{name}", f"?ns={host}"),
        ]:
            pull(house.url + base, made, "v1", query)
            landed(house.millpond)
    assert len(at.seen(f"/v2/{name}/manifests/")) == 1
    assert len(at.seen(made.blobs[1].digest)) == 1
    assert house.hub.seen(name, "") == []


def test_the_same_name_at_two_upstreams_is_two_repositories(house: House) -> None:
    """S: what one upstream has is not given out under another's name."""
    made, name = image(), "same/name"
    house.ghcr.add(made, name, "1")
    pull(f"{house.url}/v2/{name}", made, "1", "?ns=ghcr.io")
    landed(house.millpond)
    for path in (f"/v2/{name}/manifests/1", f"/v2/{name}/manifests/{made.digest}"):
        assert (get(house.url + path).status, get(house.url + path).error_code) == (404, "MANIFEST_UNKNOWN")
    blob = made.blobs[1].digest
    assert get(f"{house.url}/v2/{name}/blobs/{blob}").error_code == "BLOB_UNKNOWN"
    assert get(f"{house.url}/v2/{name}/blobs/{blob}?ns={WITH_PORT}").error_code == "BLOB_UNKNOWN"


def test_docker_hubs_short_names_mean_nothing_elsewhere(house: House) -> None:
    made = image()
    house.ghcr.add(made, "single", "1")
    pull(f"{house.url}/v2/ghcr.io/single", made, "1")
    assert house.ghcr.seen("/v2/library/single", "") == []


def test_a_repository_may_be_called_like_a_noun(house: House) -> None:
    made = image()
    house.ghcr.add(made, "org/blobs/manifests", "1")
    pull(f"{house.url}/v2/ghcr.io/org/blobs/manifests", made, "1")
    assert get(f"{house.url}/v2/ghcr.io/org/blobs/manifests/tags/list").json()["tags"] == ["1"]


def test_a_response_has_the_headers_of_the_contract(house: House) -> None:
    made = image()
    house.hub.add(made, "library/headers", "1")
    blob = made.blobs[1]
    manifest = get(f"{house.url}/v2/headers/manifests/1", {"X-Request-Id": "mine-1"})
    assert manifest.headers["docker-content-digest"] == made.digest
    assert manifest.headers["etag"] == f'"{made.digest}"'
    assert manifest.headers["content-type"] == made.media_type
    assert manifest.headers["x-request-id"] == "mine-1"
    assert manifest.headers["docker-distribution-api-version"] == "registry/2.0"
    got = get(f"{house.url}/v2/headers/blobs/{blob.digest}")
    landed(house.millpond)
    told = head(f"{house.url}/v2/headers/blobs/{blob.digest}")
    for reply in (got, told):
        assert reply.headers["accept-ranges"] == "bytes"
        assert reply.headers["content-length"] == str(blob.size)
        assert reply.headers["docker-content-digest"] == blob.digest
        assert reply.headers["etag"] == f'"{blob.digest}"'
        assert reply.headers["content-type"] == "application/octet-stream"
        assert len(reply.headers["x-request-id"]) == 16
    assert (told.size, got.headers["x-millpond"], told.headers["x-millpond"]) == (0, "upstream", "hit")
    for path in (f"manifests/{made.digest}", f"blobs/{blob.digest}"):
        etag = made.digest if "manifests" in path else blob.digest
        same = get(f"{house.url}/v2/headers/{path}", {"If-None-Match": f'"x", "{etag}"'})
        assert (same.status, same.size, same.headers["etag"]) == (304, 0, f'"{etag}"')
        assert get(f"{house.url}/v2/headers/{path}", {"If-None-Match": '"sha256:other"'}).status == 200


def test_a_request_id_that_could_do_harm_is_replaced(house: House) -> None:
    """S."""
    for given in ("a b", "x" * 65, '";drop', "é"):
        answered = get(f"{house.url}/v2/", {"X-Request-Id": given}).headers["x-request-id"]
        assert answered != given
        assert len(answered) == 16


def test_a_path_that_was_asked_for_before_means_what_the_names_say_now() -> None:
    """After a reload: what is remembered of paths goes with the names that it was read by."""
    namespace = Namespace({"docker.io": "docker.io"}, "docker.io")
    path = "/v2/quay/app/manifests/1"
    assert str(namespace.route(path, "").repository) == "docker.io/quay/app"
    assert namespace.route(path, "") is namespace.route(path, "")
    namespace.renew({"docker.io": "docker.io", "quay": "quay.io"}, "docker.io")
    assert str(namespace.route(path, "").repository) == "quay.io/app"

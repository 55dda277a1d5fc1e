"""Each of the contract's refusals: its status, its code, its message, and that it leaves no trace."""

from __future__ import annotations

import pytest

from tests.edge.conftest import House
from tests.edge.raw import ask
from tests.support.pulls import get, head

SHA = "sha256:" + "a" * 64

REFUSALS = [
    # Names of upstreams. No connection is ever made.
    ("/v2/library/x/manifests/1?ns=evil.test", 404, "NAME_UNKNOWN", "no upstream 'evil.test' is configured here"),
    ("/v2/evil.test/x/manifests/1", 404, "NAME_UNKNOWN", "is configured here; known are docker.io, ghcr.io, "),
    ("/evil.test/v2/x/manifests/1", 404, "NAME_UNKNOWN", "no upstream 'evil.test'"),
    ("/v2/localhost/x/manifests/1", 404, "NAME_UNKNOWN", "no upstream 'localhost'"),
    ("/v2/x/y/manifests/1?ns=127.0.0.1", 404, "NAME_UNKNOWN", "no upstream '127.0.0.1'"),
    ("/v2/169.254.169.254/latest/manifests/1", 404, "NAME_UNKNOWN", "no upstream '169.254.169.254'"),
    ("/v2/x/y/manifests/1?ns=%5B::1%5D:80", 404, "NAME_UNKNOWN", "no upstream '[::1]:80'"),
    ("/v2/x/y/manifests/1?ns=doc%E2%84%AAer.io", 404, "NAME_UNKNOWN", "no upstream"),
    ("/v2/x/y/manifests/1?ns=docker.io%0d%0aSet-Cookie:%20a=b", 404, "NAME_UNKNOWN", "no upstream"),
    ("/v2/?ns=evil.test", 404, "NAME_UNKNOWN", "no upstream 'evil.test'"),
    # Names of upstreams that disagree.
    ("/v2/ghcr.io/x/manifests/1?ns=docker.io", 400, "NAME_INVALID", "the path names the upstream ghcr.io, but ns"),
    ("/ghcr.io/v2/x/manifests/1?ns=docker.io", 400, "NAME_INVALID", "the path prefix names the upstream 'ghcr.io'"),
    ("/ghcr.io/v2/docker.io/x/manifests/1", 400, "NAME_INVALID", "the path names the upstream docker.io, but ns"),
    ("/v2/x/manifests/1?ns=docker.io&ns=ghcr.io", 400, "NAME_INVALID", "ns is given twice, with different values"),
    # Names outside the grammar.
    ("/v2/a%2f..%2f..%2fetc/blobs/" + SHA, 400, "NAME_INVALID", "an encoded slash has no place"),
    ("/v2/x/manifests/a%2F..%2Fb", 400, "NAME_INVALID", "an encoded slash has no place"),
    ("/v2/x/../../etc/passwd/manifests/1", 400, "NAME_INVALID", "is not a repository name"),
    ("/v2/x//y/manifests/1", 400, "NAME_INVALID", "is not a repository name"),
    ("/v2//manifests/1", 404, "UNSUPPORTED", "no such path in the registry API"),
    ("/v2/x%00y/manifests/1", 400, "NAME_INVALID", "is not a repository name"),
    ("/v2/x%0d%0aEvil:%20y/manifests/1", 400, "NAME_INVALID", "is not a repository name"),
    ("/v2/X/manifests/1", 400, "NAME_INVALID", "lower-case letters, digits and single separators"),
    ("/v2/x..y/manifests/1", 400, "NAME_INVALID", "is not a repository name"),
    (f"/v2/{'a' * 300}/manifests/1", 400, "NAME_INVALID", "expected at most 255 characters"),
    # References.
    ("/v2/x/manifests/.hidden", 400, "TAG_INVALID", "'.hidden' is not a tag: expected up to 128 letters"),
    (f"/v2/x/manifests/{'t' * 129}", 400, "TAG_INVALID", "is not a tag"),
    ("/v2/x/manifests/a%00b", 400, "TAG_INVALID", "is not a tag"),
    ("/v2/x/manifests/sha256:" + "A" * 64, 400, "DIGEST_INVALID", "64, or sha512: and 128 lower-case hexadecimal"),
    ("/v2/x/manifests/sha256:" + "a" * 63, 400, "DIGEST_INVALID", "is not a digest that can be verified"),
    ("/v2/x/blobs/sha256:" + "a" * 12, 400, "DIGEST_INVALID", "is not a digest that can be verified"),
    ("/v2/x/blobs/md5:" + "a" * 32, 400, "DIGEST_INVALID", "is not a digest that can be verified"),
    ("/v2/x/blobs/latest", 400, "DIGEST_INVALID", "is not a digest that can be verified"),
    ("/v2/x/blobs/..", 400, "DIGEST_INVALID", "'..' is not a digest"),
    ("/v2/x/referrers/latest", 400, "DIGEST_INVALID", "is not a digest that can be verified"),
    # Pages.
    ("/v2/x/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID", "n='-1' is not a number of entries"),
    ("/v2/x/tags/list?n=ten", 400, "PAGINATION_NUMBER_INVALID", "expected 0 or more"),
    ("/v2/_catalog?n=1e3", 400, "PAGINATION_NUMBER_INVALID", "n='1e3' is not a number"),
    # Not a path of the registry API.
    ("/", 404, "UNSUPPORTED", "health and metrics are on the admin port"),
    ("/metrics", 404, "UNSUPPORTED", "this is a registry: its paths begin with /v2/"),
    ("/healthz", 404, "UNSUPPORTED", "its paths begin with /v2/"),
    ("/readyz", 404, "UNSUPPORTED", "its paths begin with /v2/"),
    ("/api/v1/status", 404, "UNSUPPORTED", "its paths begin with /v2/"),
    ("/v1/search?q=x", 404, "UNSUPPORTED", "its paths begin with /v2/"),
    ("//v2/x/manifests/1", 404, "UNSUPPORTED", "its paths begin with /v2/"),
    ("/v2/x/blobs/uploads/", 404, "UNSUPPORTED", "no such path in the registry API"),
    ("/v2/x/y", 404, "UNSUPPORTED", "no such path in the registry API"),
]


@pytest.mark.parametrize(("target", "status", "code", "message"), REFUSALS)
def test_what_cannot_be_asked_is_refused_with_a_reason_and_without_a_trace(
    house: House, target: str, status: int, code: str, message: str
) -> None:
    """Rows 37, 39, 40 and 41; S P."""
    before = house.traces()
    reply = ask(house.millpond, target)
    assert (reply.status, reply.error_code) == (status, code), reply.text
    assert message in reply.json()["errors"][0]["message"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.size < 1000
    assert "set-cookie" not in reply.headers
    assert "evil" not in reply.headers
    assert house.traces() == before
    same = ask(house.millpond, target, "HEAD")
    assert (same.status, same.size) == (status, 0)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_pushed_or_deleted_and_no_body_is_waited_for(house: House, method: str) -> None:
    """Row 41; S: 10 GB are announced and none of them sent."""
    before = house.traces()
    for target in ("/v2/x/manifests/1", "/v2/x/blobs/uploads/", f"/v2/x/blobs/{SHA}", "/anything"):
        reply = ask(house.millpond, target, method, "Content-Length: 10000000000", "Expect: 100-continue")
        assert (reply.status, reply.error_code) == (405, "UNSUPPORTED")
        assert "can be pulled from, not pushed to" in reply.text
        assert reply.headers["allow"] == "GET, HEAD"
        assert reply.headers["connection"] == "close"
    assert house.traces() == before


def test_a_body_that_is_sent_all_the_same_cannot_become_the_next_request(house: House) -> None:
    """Row 41; S: no request is smuggled in the body of a refused one."""
    smuggled = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"
    seen = len(house.millpond.log_lines(id="smuggled"))
    reply = ask(
        house.millpond, "/v2/x/manifests/1", "PUT", f"Content-Length: {len(smuggled)}\r\n\r\n{smuggled.decode()}"
    )
    assert reply.status == 405
    assert get(f"{house.url}/v2/").status == 200
    house.millpond.settle_log()
    assert len(house.millpond.log_lines(id="smuggled")) == seen


def test_pings_are_answered_for_every_style_without_asking_upstream(house: House) -> None:
    before = house.traces()
    for path in ("/v2", "/v2/", "/docker.io/v2/", "/ghcr.io/v2", "/v2/?ns=ghcr.io"):
        reply = get(house.url + path)
        assert (reply.status, reply.json()) == (200, {})
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
        assert head(house.url + path).status == 200
    assert house.traces() == before

"""Routes: any path and query at all is a repository within the grammar, or an error that a client can be told."""

from __future__ import annotations

import time
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.edge.problems import problem
from proxy.edge.routes import Namespace, Route, parse
from proxy.oci.errors import MillpondError, NameInvalid, NameUnknown, PathUnknown
from proxy.oci.names import Repository, looks_like_host
from tests.unit import grammar

NAMES = {
    "docker.io": "docker.io",
    "index.docker.io": "docker.io",
    "ghcr.io": "ghcr.io",
    "registry.test:5443": "registry.test:5443",
    "hub": "hub",
}
NAMESPACE = Namespace(NAMES, "docker.io")

pieces = st.one_of(
    st.sampled_from(["v2", "manifests", "blobs", "tags", "list", "referrers", "_catalog", "", "..", ".", "%2f", "%2F"]),
    st.sampled_from(["docker.io", "ghcr.io", "registry.test:5443", "evil.test", "Docker.IO", "doc%E2%84%AAer.io"]),
    st.sampled_from(["library", "x", "latest", "sha256:" + "a" * 64, "a%2f..%2f..%2fetc", "%00", "%0d%0a", "%", "é"]),
    st.text(max_size=6),
    grammar.names,
)
paths = st.lists(pieces, max_size=8).map(lambda parts: "/" + "/".join(parts)) | st.text(max_size=30)
v2_paths = st.lists(pieces, max_size=6).map(lambda parts: "/v2/" + "/".join(parts))
queries = st.one_of(
    st.just(""),
    st.lists(st.tuples(st.sampled_from(["ns", "n", "last", "x"]), st.sampled_from([*NAMES, "evil.test", "", "5"]))).map(
        urlencode
    ),
    st.text(max_size=20),
    st.integers(45, 60).map("a=b&".__mul__),
)


@given(paths | v2_paths, queries)
@example("/v2/x/tags/list", "ns=doc%E2%84%AAer.io")
def test_any_path_is_a_repository_within_the_grammar_or_an_error_for_the_client(path: str, query: str) -> None:
    """Rows 37 and 39; S P."""
    try:
        route = parse(path, query, NAMESPACE)
    except MillpondError as error:
        status = problem(error).status_code
    else:
        status = 200
        check(route)
    assert status in (200, 400, 404)


def check(route: Route) -> None:
    if route.repository is not None:
        assert route.repository.upstream in set(NAMES.values())
        assert grammar.is_name(route.repository.path.removeprefix("library/"))
        assert ".." not in route.repository.path.split("/")
    assert "/" not in route.item
    assert route.upstream is None or route.upstream in set(NAMES.values())
    # It goes out as the OCI-Namespace header.
    assert route.ns is None or route.ns.lower() in NAMES


# A name that itself begins with an upstream means something else.
plain_names = grammar.names.filter(lambda name: NAMESPACE.find(name.partition("/")[0]) is None)


@given(plain_names, st.sampled_from(["manifests", "blobs", "referrers"]), grammar.tags | grammar.digests)
def test_all_names_of_one_image_are_the_same_route(name: str, noun: str, item: str) -> None:
    """The contract's four names, for every upstream and alias."""
    for stated, upstream in NAMES.items():
        expected = Repository.parse(upstream, name)
        host = quote(stated, safe=":")
        spellings = [
            (f"/v2/{name}/{noun}/{item}", f"ns={host}"),
            (f"/v2/{host}/{name}/{noun}/{item}", ""),
            (f"/{host}/v2/{name}/{noun}/{item}", ""),
            (f"/{host}/v2/{name}/{noun}/{item}", f"ns={host}"),
            (f"/v2/{host.upper()}/{name}/{noun}/{item}", f"ns={host}"),
        ]
        if upstream == "docker.io" and not looks_like_host(name.partition("/")[0]):
            spellings.append((f"/v2/{name}/{noun}/{item}", ""))
        for path, query in spellings:
            route = parse(path, query, NAMESPACE)
            assert (route.repository, route.noun, route.item) == (expected, noun, item), path


@pytest.mark.parametrize(
    ("path", "query", "repository", "item"),
    [
        ("/v2/alpine/manifests/3", "", "docker.io/library/alpine", "3"),
        ("/v2/library/alpine/manifests/3", "ns=index.docker.io", "docker.io/library/alpine", "3"),
        ("/v2/docker.io/alpine/manifests/3", "ns=docker.io", "docker.io/library/alpine", "3"),
        ("/v2/org/blobs/manifests/v1", "ns=ghcr.io", "ghcr.io/org/blobs", "v1"),
        ("/v2/x/manifests/y/manifests/z", "ns=ghcr.io", "ghcr.io/x/manifests/y", "z"),
        ("/v2/x/manifests/tags/list", "ns=ghcr.io", "ghcr.io/x/manifests", ""),
        ("/v2/registry.test:5443/a/b/manifests/1", "", "registry.test:5443/a/b", "1"),
        ("/registry.test:5443/v2/a/b/manifests/1", "ns=registry.test%3A5443", "registry.test:5443/a/b", "1"),
        ("/v2/a.b/c/manifests/1", "ns=ghcr.io", "ghcr.io/a.b/c", "1"),
        ("/v2/hub/x/manifests/1", "ns=ghcr.io", "ghcr.io/hub/x", "1"),
        ("/v2/library/%61lpine/manifests/3", "", "docker.io/library/alpine", "3"),
    ],
)
def test_a_name_finds_its_repository(path: str, query: str, repository: str, item: str) -> None:
    route = parse(path, query, NAMESPACE)
    assert (str(route.repository), route.item) == (repository, item)


@pytest.mark.parametrize(
    ("path", "query", "error", "message"),
    [
        ("/v2/library/x/manifests/1", "ns=evil.test", NameUnknown, "no upstream 'evil.test' is configured here"),
        ("/v2/evil.test/x/manifests/1", "", NameUnknown, "known are docker.io, ghcr.io"),
        ("/evil.test/v2/x/manifests/1", "", NameUnknown, "no upstream 'evil.test'"),
        ("/v2/x/manifests/1", "ns=127.0.0.1%3A80", NameUnknown, "no upstream '127.0.0.1:80'"),
        ("/v2/x/manifests/1", "ns=doc%E2%84%AAer.io", NameUnknown, "no upstream"),
        ("/v2/ghcr.io/x/manifests/1", "ns=docker.io", NameInvalid, "names the upstream ghcr.io, but ns or the prefix"),
        ("/ghcr.io/v2/x/manifests/1", "ns=docker.io", NameInvalid, "prefix names the upstream 'ghcr.io', but ns names"),
        ("/ghcr.io/v2/docker.io/x/manifests/1", "", NameInvalid, "names the upstream docker.io"),
        ("/v2/x/manifests/1", "ns=docker.io&ns=ghcr.io", NameInvalid, "ns is given twice"),
        ("/v2/x/manifests/1", "a=b&" * 60, NameInvalid, "more than 50 fields"),
        ("/v2/a%2f..%2f..%2fetc/manifests/1", "", NameInvalid, "an encoded slash"),
        ("/v2/../../etc/passwd/manifests/1", "", NameUnknown, "no upstream '..' is configured here"),
        ("/v2//x/manifests/1", "", NameInvalid, "is not a repository name"),
        ("/v2/x%00y/manifests/1", "", NameInvalid, "is not a repository name"),
        (f"/v2/{'a' * 300}/manifests/1", "", NameInvalid, "at most 255 characters"),
        ("/v2/Library/x/manifests/1", "", NameInvalid, "lower-case letters"),
        ("/metrics", "", PathUnknown, "health and metrics are on the admin port"),
        ("//v2/x/manifests/1", "", PathUnknown, "its paths begin with /v2/"),
        ("", "", PathUnknown, "its paths begin with /v2/"),
        ("/v2/x/manifests", "", PathUnknown, "no such path in the registry API"),
        ("/v2/x/blobs/uploads/", "", PathUnknown, "no such path in the registry API"),
        ("/v2/manifests/1", "", PathUnknown, "no such path in the registry API"),
    ],
)
def test_what_is_refused_is_refused_with_a_reason(
    path: str, query: str, error: type[MillpondError], message: str
) -> None:
    """Rows 37, 39 and 41; S."""
    with pytest.raises(error, match=message.replace("(", r"\(")):
        parse(path, query, NAMESPACE)


def test_ping_and_catalog_know_which_upstream_they_are_asked_of() -> None:
    assert parse("/v2", "", NAMESPACE) == Route("ping")
    assert parse("/ghcr.io/v2/", "", NAMESPACE).upstream == "ghcr.io"
    assert parse("/v2/_catalog", "ns=hub&n=5", NAMESPACE).query["n"] == "5"


@pytest.mark.parametrize("path", ["/v2/" + "a/" * 30_000, "/v2/" + "x/manifests/" * 5_000, "/" + "%41" * 20_000])
def test_a_hostile_path_is_refused_in_no_time(path: str) -> None:
    """Row 37; H."""
    began = time.process_time()
    with pytest.raises(MillpondError):
        parse(path, "", NAMESPACE)
    assert time.process_time() - began < 1

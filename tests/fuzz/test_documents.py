"""What upstreams send, through the whole program: a client gets what is sound of it, or an error that says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.fuzz.clients import SHA
from tests.fuzz.targets import TARGETS
from tests.fuzz.test_targets import inputs
from tests.support.faults import Answer
from tests.support.millpond import Millpond, running
from tests.support.pulls import Reply, get
from tests.support.scripted import ScriptedUpstream
from tests.unit import grammar

UPSTREAM: Final = "registry.test"
# A pull takes some milliseconds.
EXAMPLES: Final = settings(max_examples=60)
_names = itertools.count()


@pytest.fixture(scope="module")
def millpond(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    config = {"upstreams": {UPSTREAM: upstream.upstream()}, "default_upstream": UPSTREAM}
    with running(config, tmp_path_factory.mktemp("millpond")) as made:
        yield made
        assert get(f"{made.url}/v2/").status == 200
    assert made.log_lines(event="the request failed") == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
header_values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40
).map(str.strip)
tag_lists = st.fixed_dictionaries(
    {}, optional={"tags": st.lists(st.text(max_size=5) | grammar.tags, max_size=5) | json_values}
)
descriptors = st.fixed_dictionaries(
    {"digest": grammar.digests | json_values, "size": st.integers(0, 9) | json_values},
    optional={"artifactType": st.sampled_from(["a/b", "c/d"]) | json_values, "mediaType": st.text(max_size=9)},
)
referrers = st.fixed_dictionaries(
    {"schemaVersion": st.just(2) | json_values}, optional={"manifests": st.lists(descriptors, max_size=3) | json_values}
)
links = st.sampled_from(["next", "prev"]).flatmap(lambda rel: header_values.map(lambda to: f'<{to}>; rel="{rel}"'))


def served(
    upstream: ScriptedUpstream, millpond: Millpond, path: str, body: bytes, query: str = "", **headers: str
) -> Reply:
    """What a client gets of `path` in a repository of its own, when upstream sends this for it."""
    full = f"/v2/fuzz/n{next(_names)}/{path}"
    named = {name.replace("_", "-"): value for name, value in headers.items() if value}
    upstream.serve(full, Answer(200, body, named, ranged=False))
    reply = get(f"{millpond.url}{full}{query}")
    assert reply.status in (200, 404, 502), (reply.status, reply.text)
    assert reply.status == 200 or reply.error_code
    return reply


def document(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(tag_lists | json_values, header_values | links, st.sampled_from(["", "?n=2", "?n=2&last=a", "?last=b"]))
@EXAMPLES
def test_a_tag_list_is_of_tags_alone(
    upstream: ScriptedUpstream, millpond: Millpond, listed: Any, link: str, query: str
) -> None:
    """Row 40; S."""
    reply = served(upstream, millpond, "tags/list", document(listed), query, Link=link)
    if reply.status == 200:
        tags = reply.json()["tags"]
        assert all(grammar.is_tag(tag) for tag in tags)
        assert all(tag in listed["tags"] for tag in tags)
        assert len(tags) <= 2 or "n=" not in query
        assert ("link" not in reply.headers) or reply.headers["link"].startswith("</v2/fuzz/")


@given(referrers | json_values, header_values | links, st.sampled_from(["", "?artifactType=a%2Fb"]))
@EXAMPLES
def test_referrers_are_an_index(
    upstream: ScriptedUpstream, millpond: Millpond, listed: Any, link: str, query: str
) -> None:
    """Rows 34 and 35; S P."""
    reply = served(upstream, millpond, f"referrers/{SHA.decode()}", document(listed), query, Link=link)
    if reply.status == 200:
        assert reply.headers["content-type"] == OCI_INDEX
        found = reply.json()["manifests"]
        assert all(entry in listed["manifests"] for entry in found)
        assert not query or all(entry["artifactType"] == "a/b" for entry in found)


@given(inputs(TARGETS["manifest"]), st.sampled_from([OCI_MANIFEST, OCI_INDEX, ""]) | header_values)
@EXAMPLES
def test_a_manifest_is_byte_for_byte_or_none(
    upstream: ScriptedUpstream, millpond: Millpond, data: bytes, content_type: str
) -> None:
    """Rows 34 and 35; W P."""
    body = data.partition(b"\n")[2] or data
    reply = served(upstream, millpond, "manifests/one", body, Content_Type=content_type)
    if reply.status == 200:
        assert reply.body == body


@given(inputs(TARGETS["challenge"]))
@EXAMPLES
def test_a_challenge_leads_to_an_answer(upstream: ScriptedUpstream, millpond: Millpond, data: bytes) -> None:
    """Row 12; S H: whatever it says, the client is told soon, in OCI's form, and is not challenged in turn."""
    said = "".join(character for character in data.decode("latin-1") if character.isprintable()).strip()
    path = f"/v2/fuzz/n{next(_names)}/manifests/one"
    upstream.serve(path, Answer(401, b"", {"WWW-Authenticate": said}, ranged=False))
    reply = get(f"{millpond.url}{path}")
    assert (reply.status, reply.error_code) in ((403, "DENIED"), (502, "UNAVAILABLE")), (said, reply.text)
    assert "www-authenticate" not in reply.headers

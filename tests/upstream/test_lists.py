"""Tags and referrers: paged, clamped, capped (faults row 40)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import NameUnknown, UpstreamInvalid
from proxy.oci.manifest import OCI_INDEX
from proxy.upstream.listing import MAX_PAGES, MAX_TAGS, MAX_TAGS_BODY, TagPage
from tests.support.faults import Answer
from tests.support.images import chart, signature
from tests.support.scripted import ScriptedUpstream
from tests.upstream.conftest import REPOSITORY, Connect

pytestmark = pytest.mark.anyio

SUBJECT = Digest.of(b"subject")
TAGS = f"/v2/{REPOSITORY}/tags/list"
REFERRERS = f"/v2/{REPOSITORY}/referrers/{SUBJECT}"


def as_json(document: Any, **headers: str) -> Answer:
    return Answer(200, json.dumps(document).encode(), headers, ranged=False)


def index(*names: str, **fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"digest": name} for name in names], **fields}


async def test_tags_are_one_page_of_upstreams(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add(chart(), REPOSITORY, "a", "b", "c")
    registry = connect(upstream.url)
    assert await registry.tags(REPOSITORY) == TagPage(("a", "b", "c"), more=False)
    assert await registry.tags(REPOSITORY, 2) == TagPage(("a", "b"), more=True)
    assert await registry.tags(REPOSITORY, 2, "b") == TagPage(("c",), more=False)
    assert await registry.tags(REPOSITORY, 0) == TagPage((), more=False)
    with pytest.raises(NameUnknown):
        await registry.tags("library/other")


async def test_a_huge_n_is_clamped(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add(chart(), REPOSITORY, "a")
    await connect(upstream.url).tags(REPOSITORY, 10**12, "x&n=5")
    assert upstream.seen()[0].query == {"n": str(MAX_TAGS), "last": "x&n=5"}


async def test_an_upstream_that_ignores_n_is_cut_to_it(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.serve(TAGS, as_json({"tags": [f"t{number:04}" for number in reversed(range(3000))]}))
    registry = connect(upstream.url)
    page = await registry.tags(REPOSITORY, 3)
    assert page == TagPage(("t0000", "t0001", "t0002"), more=True)
    assert await registry.tags(REPOSITORY, 3, "t0002") == TagPage(("t0003", "t0004", "t0005"), more=True)
    assert await registry.tags(REPOSITORY, 3, "t2997") == TagPage(("t2998", "t2999"), more=False)
    assert len((await registry.tags(REPOSITORY)).tags) == MAX_TAGS


async def test_a_tag_list_beyond_the_cap_is_not_read_to_its_end(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.serve(TAGS, Answer(200, b'{"tags": [' + b" " * (64 << 20), framing="chunked"))
    with pytest.raises(UpstreamInvalid, match=str(MAX_TAGS_BODY)):
        await connect(upstream.url).tags(REPOSITORY)
    assert upstream.sent_of("/tags/") < 32 << 20


@pytest.mark.parametrize(
    ("document", "tags"), [({"tags": None}, ()), ({}, ()), ({"tags": ["ok", "-no", 5, "x" * 200, "a b"]}, ("ok",))]
)
async def test_what_is_no_tag_is_left_out(
    upstream: ScriptedUpstream, connect: Connect, document: Any, tags: tuple[str, ...]
) -> None:
    upstream.serve(TAGS, as_json(document))
    assert (await connect(upstream.url).tags(REPOSITORY)).tags == tags


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"tags": {}}', b"[" * 100_000])
async def test_what_is_no_list_is_refused(upstream: ScriptedUpstream, connect: Connect, body: bytes) -> None:
    upstream.serve(TAGS, Answer(200, body, ranged=False))
    with pytest.raises(UpstreamInvalid, match="no list of tags"):
        await connect(upstream.url).tags(REPOSITORY)


async def test_referrers_on_one_page_stay_as_they_came(upstream: ScriptedUpstream, connect: Connect) -> None:
    image = chart()
    upstream.add(image, REPOSITORY, "x")
    upstream.add(signature(image)[1], REPOSITORY)
    registry = connect(upstream.url)
    found = await registry.referrers(REPOSITORY, Digest.parse(image.digest))
    assert not found.filtered
    assert json.loads(found.body)["schemaVersion"] == 2
    filtered = await registry.referrers(REPOSITORY, Digest.parse(image.digest), "application/x.none+json")
    assert filtered.filtered
    assert json.loads(filtered.body)["manifests"] == []
    assert upstream.seen()[-1].query == {"artifactType": "application/x.none+json"}


async def test_referrers_on_several_pages_are_merged(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.serve(REFERRERS, as_json(index("a", "b", kept=1), Link=f"<{REFERRERS}-2?x=1>; rel=next"))
    upstream.serve(f"{REFERRERS}-2", as_json(index("c"), Link=f'<{upstream.url}{REFERRERS}-3>; title=t; rel="next"'))
    upstream.serve(f"{REFERRERS}-3", as_json(index("d")))
    found = await connect(upstream.url).referrers(REPOSITORY, SUBJECT)
    assert json.loads(found.body) == index("a", "b", "c", "d", kept=1)


async def test_pages_without_end_or_elsewhere_are_refused(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    upstream.serve(REFERRERS, as_json(index("a"), Link=f'<{REFERRERS}>; rel="next"'))
    with pytest.raises(UpstreamInvalid, match=f"more than {MAX_PAGES} pages"):
        await connect(upstream.url).referrers(REPOSITORY, SUBJECT)
    assert len(upstream.seen()) == MAX_PAGES
    upstream.serve(REFERRERS, as_json(index("a"), Link=f'<{elsewhere.url}/x>; rel="next"'))
    with pytest.raises(UpstreamInvalid, match="another host"):
        await connect(upstream.url).referrers(REPOSITORY, SUBJECT)
    assert elsewhere.connections == 0


@pytest.mark.parametrize("document", [[], {}, {"manifests": []}, {"schemaVersion": 2, "manifests": None}])
async def test_referrers_that_are_no_index_are_refused(
    upstream: ScriptedUpstream, connect: Connect, document: Any
) -> None:
    upstream.serve(REFERRERS, as_json(document))
    with pytest.raises(UpstreamInvalid, match="no list of referrers"):
        await connect(upstream.url).referrers(REPOSITORY, SUBJECT)

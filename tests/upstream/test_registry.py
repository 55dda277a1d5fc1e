"""Manifests and blobs of upstreams that behave oddly, and what is said about each refusal."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MillpondError,
    NameUnknown,
    UpstreamInvalid,
    UpstreamLimited,
    UpstreamUnreachable,
)
from proxy.oci.manifest import ACCEPT, MAX_MANIFEST, OCI_MANIFEST
from proxy.oci.names import Tag
from proxy.upstream.breaker import BreakerOpen
from proxy.upstream.limits import RateLimit
from tests.support.faults import Answer, Fault, change, cut, html, refuse
from tests.support.images import chart
from tests.support.scripted import ScriptedUpstream
from tests.upstream.conftest import REPOSITORY, Clock, Connect, Notes

pytestmark = pytest.mark.anyio

TAG = Tag("latest")
CONTENT = b"layer" * 1000
DIGEST = Digest.of(CONTENT)
MISSING = Digest.of(b"missing")


@pytest.fixture
def image(upstream: ScriptedUpstream) -> Digest:
    upstream.add_blob(REPOSITORY, CONTENT)
    return Digest.parse(upstream.add(chart(), REPOSITORY, TAG))


async def read(registry: object, start: int = 0) -> tuple[int | None, int, bytes]:
    async with registry.blob(REPOSITORY, DIGEST, start) as stream:  # type: ignore[attr-defined]
        return stream.size, stream.start, b"".join([chunk async for chunk in stream.chunks])


async def test_a_tag_is_resolved_by_head_alone(upstream: ScriptedUpstream, image: Digest, connect: Connect) -> None:
    assert await connect(upstream.url).resolve(REPOSITORY, TAG) == image
    assert [request.method for request in upstream.seen(method="")] == ["HEAD"]


@pytest.mark.parametrize("fault", [change(headers={"Docker-Content-Digest": ""}), refuse(405), refuse(501)])
async def test_a_source_that_does_not_say_resolves_to_none(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, fault: Fault
) -> None:
    upstream.script("/manifests/", then=fault, method="HEAD")
    assert await connect(upstream.url).resolve(REPOSITORY, TAG) is None


async def test_a_digest_header_that_is_none_is_not_trusted(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    upstream.script("/manifests/", then=change(headers={"Docker-Content-Digest": "sha256:no"}), method="HEAD")
    with pytest.raises(UpstreamInvalid, match="Docker-Content-Digest"):
        await connect(upstream.url).resolve(REPOSITORY, TAG)


async def test_upstream_is_asked_for_every_type_but_schema_1_and_anything(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    asked = [
        "application/vnd.example.thing.v1+json;q=0.5, */*",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
        "application/vnd.x\r\nHost: y+json",
    ]
    await connect(upstream.url).manifest(REPOSITORY, TAG, asked)
    accept = upstream.seen("/manifests/")[0].headers["accept"].split(", ")
    assert accept == [*ACCEPT, "application/vnd.example.thing.v1+json"]


@pytest.mark.parametrize(
    "fault",
    [
        html(),
        change(body=b'{"schemaVersion": 2}'),
        change(headers={"Docker-Content-Digest": str(MISSING)}),
        change(body=b"[" * 100_000),
        change(headers={"Content-Type": "application/vnd.oci.image.index.v1+json"}),
    ],
    ids=["html", "another body", "another digest", "deep", "another type"],
)
async def test_a_manifest_that_is_not_what_it_says_is_refused(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, fault: Fault
) -> None:
    upstream.script("/manifests/", then=fault)
    with pytest.raises(UpstreamInvalid):
        await connect(upstream.url).manifest(REPOSITORY, TAG)


async def test_a_manifest_by_digest_is_verified(upstream: ScriptedUpstream, image: Digest, connect: Connect) -> None:
    registry = connect(upstream.url)
    assert (await registry.manifest(REPOSITORY, image)).digest == image
    upstream.script("/manifests/", then=change(body=chart(seed=1).body))
    with pytest.raises(UpstreamInvalid, match=image):
        await registry.manifest(REPOSITORY, image)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_manifest_beyond_the_cap_is_not_read_to_its_end(
    upstream: ScriptedUpstream, connect: Connect, framing: str
) -> None:
    size = 64 * 1024 * 1024
    upstream.serve(f"/v2/{REPOSITORY}/manifests/{TAG}", Answer(200, bytes(size), framing=framing))  # type: ignore[arg-type]
    with pytest.raises(UpstreamInvalid, match=f"more than {MAX_MANIFEST} bytes"):
        await connect(upstream.url).manifest(REPOSITORY, TAG)
    assert upstream.sent_of("/manifests/") < size // 2


async def test_a_manifest_of_four_mebibytes_passes(upstream: ScriptedUpstream, connect: Connect) -> None:
    body = json.dumps({"schemaVersion": 2, "config": chart_config(), "layers": [], "pad": "x" * (4 << 20)}).encode()
    upstream.add_manifest(REPOSITORY, body, OCI_MANIFEST, TAG)
    assert (await connect(upstream.url).manifest(REPOSITORY, TAG)).body == body


async def test_a_blob_is_opened_at_any_byte(upstream: ScriptedUpstream, image: Digest, connect: Connect) -> None:
    registry = connect(upstream.url)
    assert await read(registry) == (5000, 0, CONTENT)
    assert await read(registry, 4999) == (5000, 4999, CONTENT[4999:])
    assert [request.headers.get("range") for request in upstream.seen("/blobs/")] == [None, "bytes=4999-"]


async def test_an_upstream_without_ranges_starts_at_0(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    upstream.script("/blobs/", then=change(ranged=False))
    assert await read(connect(upstream.url), 100) == (5000, 0, CONTENT)


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_blob_without_a_length_has_no_size(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, framing: str
) -> None:
    upstream.script("/blobs/", then=change(framing=framing))
    assert await read(connect(upstream.url)) == (None, 0, CONTENT)


@pytest.mark.parametrize(
    "content_range", ["bytes 0-4999/5000", "bytes 101-4999/5000", "bytes 100-4999/12", "pages 1-2/3", ""]
)
async def test_a_range_that_was_not_asked_for_is_refused(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, content_range: str
) -> None:
    upstream.script("/blobs/", then=change(status=206, ranged=False, headers={"Content-Range": content_range}))
    with pytest.raises(UpstreamInvalid, match="another range"):
        await read(connect(upstream.url), 100)


async def test_a_range_beyond_the_end_is_refused(upstream: ScriptedUpstream, image: Digest, connect: Connect) -> None:
    with pytest.raises(UpstreamInvalid, match="416"):
        await read(connect(upstream.url), 5000)


async def test_the_opening_of_a_blob_is_retried_and_its_body_is_not(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    upstream.script("/blobs/", refuse(503), cut(10))
    with pytest.raises(UpstreamUnreachable):
        await read(connect(upstream.url))
    assert len(upstream.seen("/blobs/")) == 2


async def test_a_size_costs_no_download(upstream: ScriptedUpstream, image: Digest, connect: Connect) -> None:
    assert await connect(upstream.url).blob_size(REPOSITORY, DIGEST) == 5000
    assert upstream.sent_of("/blobs/") == 0


@pytest.mark.parametrize("fault", [refuse(401), refuse(403), refuse(405), refuse(501), change(framing="close")])
@pytest.mark.parametrize("ranged", [True, False])
async def test_a_registry_that_does_not_do_head_is_asked_for_the_first_byte(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, fault: Fault, ranged: bool
) -> None:
    upstream.script("/blobs/", then=fault, method="HEAD")
    upstream.script("/blobs/", then=change(ranged=ranged))
    registry = connect(upstream.url)
    assert await registry.blob_size(REPOSITORY, DIGEST) == 5000
    assert upstream.seen("/blobs/")[0].headers["range"] == "bytes=0-0"
    heads = len(upstream.seen("/blobs/", "HEAD"))
    assert await registry.blob_size(REPOSITORY, DIGEST) == 5000
    assert len(upstream.seen("/blobs/", "HEAD")) == heads + (fault(upstream.requests[0], Answer()).status == 200)


async def test_an_empty_blob_has_size_0(upstream: ScriptedUpstream, connect: Connect) -> None:
    empty = Digest.parse(upstream.add_blob(REPOSITORY, b""))
    registry = connect(upstream.url)
    assert await registry.blob_size(REPOSITORY, empty) == 0
    upstream.script("/blobs/", then=refuse(416, content_range="bytes */0"))
    assert await registry.blob_size(REPOSITORY, empty) == 0


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, ManifestUnknown, "example.test.*library/busybox.*'the registry'"),
        (403, Denied, r"no credentials are configured.*upstreams\.example\.test\.username"),
        (418, UpstreamInvalid, "418"),
        (501, UpstreamUnreachable, "501"),
        (503, UpstreamUnreachable, "503.*'the registry'"),
    ],
)
async def test_each_status_has_its_error_and_its_words(
    upstream: ScriptedUpstream, connect: Connect, status: int, error: type[MillpondError], words: str
) -> None:
    upstream.script("/manifests/", then=refuse(status, "the registry's own\r\nwords".replace("'s", "")))
    words = words.replace("'the registry'", "'the registry own  words'")
    with pytest.raises(error, match=words):
        await connect(upstream.url).manifest(REPOSITORY, TAG)


async def test_each_noun_has_its_own_unknown(upstream: ScriptedUpstream, connect: Connect) -> None:
    registry = connect(upstream.url)
    with pytest.raises(BlobUnknown):
        await registry.blob_size(REPOSITORY, MISSING)
    with pytest.raises(BlobUnknown):
        await read(registry)
    with pytest.raises(NameUnknown):
        await registry.tags(REPOSITORY)
    with pytest.raises(ManifestUnknown):
        await registry.referrers(REPOSITORY, MISSING)
    with pytest.raises(ManifestUnknown):
        await registry.resolve(REPOSITORY, TAG)


async def test_an_endless_error_page_is_not_read(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.script("/manifests/", then=lambda _, __: Answer(404, b"x" * (64 << 20), framing="chunked"))
    with pytest.raises(ManifestUnknown):
        await connect(upstream.url).manifest(REPOSITORY, TAG)
    assert upstream.sent_of("/manifests/") < 32 << 20


async def test_what_can_pass_is_tried_five_times_and_the_rest_once(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    for status, tries in ((503, 5), (502, 5), (504, 5), (500, 2), (404, 1), (400, 1), (429, 1)):
        upstream.requests.clear()
        upstream.script("/manifests/", then=refuse(status))
        with pytest.raises(MillpondError):
            await connect(upstream.url).manifest(REPOSITORY, TAG)
        assert len(upstream.seen()) == tries, status


async def test_a_manifest_that_breaks_in_mid_body_is_fetched_again(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    upstream.script("/manifests/", refuse(503), cut(10))
    assert (await connect(upstream.url).manifest(REPOSITORY, TAG)).digest == image
    assert len(upstream.seen("/manifests/")) == 3


async def test_a_429_is_not_repeated_while_it_is_to_be_waited_for(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, clock: Clock
) -> None:
    upstream.script("/manifests/", refuse(429, "You have reached your pull rate limit", retry_after="30"))
    notes = Notes()
    registry = connect(upstream.url, clock=clock, observer=notes)
    with pytest.raises(UpstreamLimited, match="pull rate limit") as first:
        await registry.manifest(REPOSITORY, TAG)
    clock.now += 10
    with pytest.raises(UpstreamLimited) as second:
        await registry.manifest(REPOSITORY, TAG)
    assert (first.value.retry_after, second.value.retry_after) == (30.0, 20.0)
    assert len(upstream.seen("/manifests/")) == 1
    await read(registry)  # blobs are not what is limited
    clock.now += 20
    await registry.manifest(REPOSITORY, TAG)
    assert notes.requests == [("manifests", 429), ("blobs", 200), ("manifests", 200)]


async def test_a_host_that_fails_is_left_alone_and_then_probed_once(
    upstream: ScriptedUpstream, image: Digest, connect: Connect, clock: Clock
) -> None:
    registry = connect(upstream.url, clock=clock)
    upstream.script("/v2/", then=refuse(503))
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await registry.manifest(REPOSITORY, TAG)
    assert len(upstream.seen()) == 5
    with pytest.raises(BreakerOpen, match="was not asked"):
        await registry.manifest(REPOSITORY, TAG)
    assert len(upstream.seen()) == 5
    clock.now += 1.01
    outcomes = await asyncio.gather(*(registry.manifest(REPOSITORY, TAG) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(outcome, UpstreamUnreachable) for outcome in outcomes)
    assert len(upstream.seen()) == 6, "one probe"
    upstream.behave()
    clock.now += 2.01
    await registry.manifest(REPOSITORY, TAG)
    await registry.manifest(REPOSITORY, TAG)


async def test_a_404_is_an_answer_and_opens_nothing(upstream: ScriptedUpstream, connect: Connect) -> None:
    registry = connect(upstream.url)
    for _ in range(10):
        with pytest.raises(ManifestUnknown):
            await registry.manifest(REPOSITORY, TAG)
    assert len(upstream.seen()) == 10


async def test_the_quota_that_upstream_reports_is_kept(
    upstream: ScriptedUpstream, image: Digest, connect: Connect
) -> None:
    quota = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "20;w=21600", "Docker-RateLimit-Source": "me"}
    upstream.script("/manifests/", change(headers=quota))
    registry = connect(upstream.url)
    assert registry.rate_limit is None
    for _ in range(2):
        await registry.manifest(REPOSITORY, TAG)
    assert registry.rate_limit == RateLimit(100, 20, 21600, "me")


def chart_config() -> dict[str, object]:
    return {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}

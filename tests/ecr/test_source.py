"""What the conformance test of sources does not know of: URLs that expire and are secrets, and ECR's own refusals."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest

from proxy.ecr import calls
from proxy.ecr.source import EcrSource
from proxy.oci.digest import Digest
from proxy.oci.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MillpondError,
    NameUnknown,
    UpstreamFailure,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from proxy.oci.names import Tag
from proxy.upstream.signed import SignedUrls
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.faults import Answer, change, cut, redirect, refuse
from tests.support.reading import TIMEOUTS, credentials, fill, reading, target_of
from tests.support.scripted import ScriptedUpstream

pytestmark = pytest.mark.anyio

NAME = "docker.io/library/app"
CONTENT = b"".join(images.noise(100_000, 1))
BLOB = images.blob(CONTENT)
IMAGE = images.artifact(images.EMPTY_CONFIG, [BLOB])
DIGEST = Digest.parse(BLOB.digest)
SECRET = "X-Amz-Signature=0a1b2c3d"


@pytest.fixture
async def source(cloud: EcrDouble) -> AsyncIterator[EcrSource]:
    """ECR with one image, whose tag is 1."""
    with credentials(cloud):
        fill(cloud, NAME, IMAGE, "1")
        async with reading(target_of(cloud, "docker.io")) as made:
            yield made


@pytest.fixture
async def signed() -> AsyncIterator[SignedUrls]:
    made = SignedUrls(TIMEOUTS)
    yield made
    await made.aclose()


async def read(source: EcrSource, start: int = 0, stop: int | None = None) -> bytes:
    async with source.blob(NAME, DIGEST, start, stop) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


async def test_parts_of_a_layer_share_one_url(cloud: EcrDouble, source: EcrSource) -> None:
    assert await read(source, 0, 1000) + await read(source, 1000) == CONTENT
    assert cloud.count("GetDownloadUrlForLayer") == 1
    assert [call.parameters["range"] for call in cloud.calls if call.operation == "DownloadLayer"] == [
        "bytes=0-999",
        "bytes=1000-",
    ]


async def test_a_url_that_has_expired_is_asked_for_anew(cloud: EcrDouble, source: EcrSource) -> None:
    """Row 14, K H."""
    assert await read(source) == CONTENT
    cloud.expire_urls()
    assert await read(source) == CONTENT
    assert cloud.count("GetDownloadUrlForLayer") == 2


async def test_a_url_whose_session_has_expired_is_asked_for_anew(cloud: EcrDouble, source: EcrSource) -> None:
    """Row 14, K H: S3 calls that a bad request."""
    assert await read(source) == CONTENT
    cloud.fail("DownloadLayer", "ExpiredToken", status=400)
    assert await read(source) == CONTENT
    assert cloud.count("GetDownloadUrlForLayer") == 2


async def test_a_layer_whose_download_is_forbidden_is_denied_after_one_try(cloud: EcrDouble, source: EcrSource) -> None:
    """H: a fresh URL that is refused would be refused again."""
    cloud.fail("DownloadLayer", "AccessDenied", times=math.inf, status=403)
    with pytest.raises(Denied) as caught:
        await read(source)
    assert cloud.count("DownloadLayer") == 1
    assert "X-Amz" not in str(caught.value)


async def test_a_repository_that_is_not_there_is_told_from_one_that_lacks_the_item(source: EcrSource) -> None:
    with pytest.raises(NameUnknown):
        await source.manifest("docker.io/library/none", Tag("1"))
    with pytest.raises(NameUnknown):
        await source.blob_size("docker.io/library/none", DIGEST)
    with pytest.raises(ManifestUnknown):
        await source.manifest(NAME, Tag("2"))


async def test_a_layer_that_no_image_names_is_unknown(cloud: EcrDouble, source: EcrSource) -> None:
    """ECR gives out no layer before its image is there."""
    cloud.registry().repositories[NAME].lose_image(IMAGE.digest)
    cloud.registry().repositories[NAME].layers[DIGEST] = CONTENT
    with pytest.raises(BlobUnknown):
        await read(source)


async def test_sha512_is_unknown_without_a_call(cloud: EcrDouble, source: EcrSource) -> None:
    before = len(cloud.calls)
    digest = Digest.of(b"long", "sha512")
    for question in (source.manifest(NAME, digest), source.blob_size(NAME, digest)):
        with pytest.raises((ManifestUnknown, BlobUnknown)):
            await question
    with pytest.raises(BlobUnknown):
        async with source.blob(NAME, digest):
            pass
    assert len(cloud.calls) == before


@pytest.mark.parametrize(
    ("code", "kind"), [("AccessDeniedException", Denied), ("ServerException", UpstreamUnreachable)]
)
async def test_ecrs_refusals_and_failures_have_a_sources_names(
    cloud: EcrDouble, source: EcrSource, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[MillpondError]
) -> None:
    monkeypatch.setattr(calls, "TRIES", 1)
    cloud.fail("BatchGetImage", code, times=math.inf)
    with pytest.raises(kind, match=source.target.registry):
        await source.manifest(NAME, Tag("1"))
    cloud.fail("GetDownloadUrlForLayer", code, times=math.inf)
    with pytest.raises(kind):
        await read(source)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (redirect("https://elsewhere.test/"), UpstreamInvalid),
        (refuse(400), Denied),
        (refuse(403), Denied),
        (refuse(404), BlobUnknown),
        (refuse(416), UpstreamInvalid),
        (refuse(503), UpstreamUnreachable),
        (cut(100, "close"), UpstreamUnreachable),
        (change(status=206, ranged=False, headers={"Content-Range": "bytes 5-9/100"}), UpstreamInvalid),
    ],
    ids=["redirect", "400", "403", "404", "416", "503", "broken", "another range"],
)
async def test_storage_that_misbehaves_is_told_by_its_host_only(
    signed: SignedUrls, fault: object, kind: type[MillpondError]
) -> None:
    """S: the URL is a secret, and no redirect is followed."""
    with ScriptedUpstream() as storage:
        storage.serve("/layer", Answer(200, CONTENT))
        storage.script("/layer", then=fault)  # type: ignore[arg-type]
        with pytest.raises(kind) as caught:
            async with signed.blob(f"{storage.url}/layer?{SECRET}", 10) as stream:
                assert b"".join([chunk async for chunk in stream.chunks]) is None, "it went well"
        assert storage.host in str(caught.value)
        assert "Signature" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        (request,) = storage.requests
        assert "authorization" not in request.headers
        assert "cookie" not in request.headers


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://[fe80::1]/", "file:///etc/passwd", "no url"])
async def test_a_url_to_where_no_storage_can_be_is_refused(signed: SignedUrls, url: str) -> None:
    """Row 13, S."""
    with pytest.raises(UpstreamInvalid):
        async with signed.blob(url):
            pass


async def test_storage_that_does_not_answer_is_given_up(signed: SignedUrls) -> None:
    """H."""
    with ScriptedUpstream() as storage:
        url = f"{storage.url}/layer?{SECRET}"
    with pytest.raises(UpstreamFailure) as caught:
        async with signed.blob(url):
            pass
    assert "Signature" not in str(caught.value)

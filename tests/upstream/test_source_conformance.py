"""What every source of manifests and blobs must do, by real registries. Another source is another parameter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown, ManifestUnknown, UpstreamInvalid
from proxy.oci.manifest import OCI_INDEX
from proxy.oci.names import Tag
from proxy.oci.secret import Secret
from proxy.oci.source import Source
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.reading import credentials, fill, reading, target_of
from tests.support.registry import PASSWORD, USER
from tests.support.registry import Registry as Program

pytestmark = pytest.mark.anyio

TAG = Tag("v1.0")
MISSING = Digest.of(b"this is nowhere")


@dataclass(frozen=True, slots=True)
class Subject:
    """A source, and an index of two images that it holds as `path`:TAG."""

    source: Source
    path: str
    index: images.Manifest


@pytest.fixture(scope="module")
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as running, credentials(running):
        yield running


@pytest.fixture(params=["plain", "token", "private token", "password", "ecr"])
async def subject(request: pytest.FixtureRequest, images_directory: Path) -> AsyncIterator[Subject]:
    kind: str = request.param
    children = [images.simple_image(images_directory, seed=seed, layers=2, size=300_000) for seed in (1, 2)]
    index = images.index(children)
    if kind == "ecr":
        cloud: EcrDouble = request.getfixturevalue("cloud")
        fill(cloud, "docker.io/library/app", index, TAG)
        async with reading(target_of(cloud, "docker.io")) as source:
            yield Subject(source, "docker.io/library/app", index)
        return
    program: Program = request.getfixturevalue(f"{kind.rpartition(' ')[2]}_registry")
    path = "private/team/app" if kind == "private token" else "library/app"
    program.push(index, path, TAG)
    known = kind in {"private token", "password"}
    endpoint = Endpoint(
        "example.test",
        program.url,
        ca_file=program.authority.ca_file if program.authority else None,
        username=USER if known else None,
        password=Secret(PASSWORD) if known else None,
    )
    registry = Registry(endpoint)
    yield Subject(registry, path, index)
    await registry.aclose()


async def test_its_kind_is_one_that_clients_may_see(subject: Subject) -> None:
    assert subject.source.kind in {"upstream", "ecr"}


async def test_a_tag_resolves_to_the_digest_of_its_manifest(subject: Subject) -> None:
    assert await subject.source.resolve(subject.path, TAG) in {subject.index.digest, None}


async def test_a_manifest_comes_byte_for_byte_by_tag_and_by_digest(subject: Subject) -> None:
    by_tag = await subject.source.manifest(subject.path, TAG)
    assert (by_tag.body, by_tag.media_type, by_tag.digest) == (subject.index.body, OCI_INDEX, subject.index.digest)
    for child in by_tag.children:
        manifest = await subject.source.manifest(subject.path, child.digest)
        assert manifest.digest == child.digest
        assert len(manifest.body) == child.size


async def test_every_blob_comes_whole_and_from_any_byte_with_its_size(subject: Subject) -> None:
    for text, blob in subject.index.all_blobs().items():
        digest, content = Digest.parse(text), blob.read()
        assert await subject.source.blob_size(subject.path, digest) == len(content)
        for start in {0, 1, len(content) // 2, len(content) - 1}:
            async with subject.source.blob(subject.path, digest, start) as stream:
                assert stream.size in {len(content), None}
                assert stream.start in {start, 0}
                assert b"".join([chunk async for chunk in stream.chunks]) == content[stream.start :]


async def test_a_blob_may_be_left_early_and_opened_again(subject: Subject) -> None:
    digest = Digest.parse(next(iter(subject.index.all_blobs())))
    for _ in range(3):
        async with subject.source.blob(subject.path, digest) as stream:
            assert await anext(aiter(stream.chunks))


async def test_what_is_not_there_is_unknown_by_its_noun(subject: Subject) -> None:
    with pytest.raises(ManifestUnknown):
        await subject.source.resolve(subject.path, Tag("none"))
    for reference in (Tag("none"), MISSING):
        with pytest.raises(ManifestUnknown):
            await subject.source.manifest(subject.path, reference)
    with pytest.raises(BlobUnknown):
        await subject.source.blob_size(subject.path, MISSING)
    with pytest.raises(BlobUnknown):
        async with subject.source.blob(subject.path, MISSING):
            pass


async def test_a_start_beyond_the_end_is_not_answered_with_other_bytes(subject: Subject) -> None:
    text, blob = next(iter(subject.index.all_blobs().items()))
    try:
        async with subject.source.blob(subject.path, Digest.parse(text), blob.size) as stream:
            assert stream.start == 0, "the range was ignored"
    except UpstreamInvalid:
        pass

"""One image in all places: what is the same, what differs, and what cannot be said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.ecr import compare as compare_module
from proxy.ecr.api import Api
from proxy.ecr.compare import Places, Row, compare
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Sessions
from proxy.ecr.target import Target
from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest
from proxy.oci.names import Image, Tag
from tests.ecr.office import UPSTREAMS, Shelf, UpstreamOf, repository
from tests.support.ecr import ACCOUNT, REGION, EcrDouble, FakeRepository, StoredImage

pytestmark = pytest.mark.anyio

OTHER = Digest.of(b"other")


class Scene:
    """One target, a disk with upstreams that have the same, and a hand for what the target holds."""

    def __init__(self, cloud: EcrDouble, sessions: Sessions) -> None:
        self.cloud = cloud
        self.shelf = Shelf()
        self.upstreams = {name: UpstreamOf(name, self.shelf) for name in UPSTREAMS}
        self.target = Target("prod", ACCOUNT, REGION, UPSTREAMS, endpoint_url=cloud.url)
        self._sessions = sessions

    def hold(self, name: str, manifest: Manifest, *tags: str) -> None:
        """Put the image into ECR, as if it had been pushed."""
        repositories = self.cloud.registry().repositories
        found = repositories.setdefault(name, FakeRepository(name, ACCOUNT, REGION))
        found.images[manifest.digest] = StoredImage(manifest.body, manifest.media_type)
        found.tags.update(dict.fromkeys(tags, manifest.digest))

    async def rows(self, *images: Image) -> list[Row]:
        client = self._sessions.client("ecr", REGION, None, self.cloud.url)
        api = Api(self.target, client, Quotas(), lambda *_: None)
        places = Places(self.shelf.on_disk, self.shelf.is_index, self.upstreams, [api])
        return [row async for row in compare(images, places)]

    async def row(self, image: Image) -> Row:
        (row,) = await self.rows(image)
        return row


@pytest.fixture
async def scene(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    sessions = Sessions()
    yield Scene(cloud, sessions)
    await sessions.aclose()


def image(name: str, tag: str | None = "latest", digest: Digest | None = None) -> Image:
    return Image(repository(name), Tag(tag) if tag else None, digest)


async def test_an_image_that_is_the_same_everywhere_is_the_same(scene: Scene) -> None:
    manifest = scene.shelf.add("ghcr.io/app")
    scene.hold("ghcr.io/app", manifest, "latest")
    row = await scene.row(image("ghcr.io/app"))
    assert row.verdict == "same"
    assert {row.disk.digest, row.upstream.digest, row.targets["prod"].digest} == {manifest.digest}
    assert row.as_json()["targets"]["prod"] == {"digest": manifest.digest, "note": "", "failed": False}


async def test_a_target_that_lacks_an_image_differs(scene: Scene) -> None:
    manifest = scene.shelf.add("ghcr.io/app")
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.targets["prod"].note) == ("differs", "not there")
    scene.hold("ghcr.io/app", manifest)  # the digest without the tag
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.targets["prod"].note) == ("differs", "not there")


async def test_a_tag_that_has_moved_upstream_differs(scene: Scene) -> None:
    scene.hold("ghcr.io/app", scene.shelf.add("ghcr.io/app"), "latest")
    scene.upstreams["ghcr.io"].moved["app", "latest"] = OTHER
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.upstream.digest) == ("differs", OTHER)


async def test_an_upstream_that_is_down_or_does_not_say_is_shown_and_no_difference(scene: Scene) -> None:
    scene.hold("ghcr.io/app", scene.shelf.add("ghcr.io/app"), "latest")
    scene.upstreams["ghcr.io"].moved["app", "latest"] = None
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.upstream.note) == ("same", "upstream does not say")
    scene.shelf.down = True
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.upstream.note, row.upstream.failed) == ("same", "ghcr.io is down", True)


async def test_a_disk_that_has_made_room_is_no_difference(scene: Scene) -> None:
    manifest = scene.shelf.add("ghcr.io/app")
    scene.hold("ghcr.io/app", manifest, "latest")
    scene.upstreams["ghcr.io"].moved["app", "latest"] = manifest.digest
    scene.shelf.manifests.clear()
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.disk.note) == ("same", "not on disk")


async def test_an_image_by_its_digest_is_looked_for_in_the_targets_only(scene: Scene) -> None:
    manifest = scene.shelf.add("ghcr.io/app", None)
    scene.hold("ghcr.io/app", manifest)
    row = await scene.row(image("ghcr.io/app", None, manifest.digest))
    assert (row.verdict, row.upstream.note) == ("same", "not asked: a digest is the same everywhere")
    row = await scene.row(image("ghcr.io/app", None, OTHER))
    assert row.verdict == "differs"


async def test_a_tag_that_is_not_the_digest_that_was_named_differs(scene: Scene) -> None:
    scene.hold("ghcr.io/app", scene.shelf.add("ghcr.io/app"), "latest")
    assert (await scene.row(image("ghcr.io/app", "latest", OTHER))).verdict == "differs"


async def test_an_image_that_nobody_has_cannot_be_verified(scene: Scene) -> None:
    row = await scene.row(image("ghcr.io/nothing"))
    assert (row.verdict, row.upstream.note) == ("unverified", "not there")


async def test_a_target_that_fails_is_shown_and_not_verified(scene: Scene) -> None:
    scene.shelf.add("ghcr.io/app")
    scene.cloud.deny("BatchGetImage")
    row = await scene.row(image("ghcr.io/app"))
    assert row.verdict == "unverified"
    assert row.targets["prod"].failed
    assert "AccessDenied" in row.targets["prod"].note


async def test_a_target_that_hangs_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.shelf.add("ghcr.io/app")
    monkeypatch.setattr(compare_module, "DEADLINE", 0.3)
    stall = scene.cloud.stall("BatchGetImage")
    row = await scene.row(image("ghcr.io/app"))
    stall.release()
    assert (row.verdict, row.targets["prod"].note) == ("unverified", "no answer within 0.3 s")


async def test_an_upstream_that_is_not_the_target_s_is_not_looked_for(scene: Scene) -> None:
    scene.target = replace(scene.target, upstreams=frozenset({"docker.io"}))
    scene.shelf.add("ghcr.io/app")
    row = await scene.row(image("ghcr.io/app"))
    assert (row.verdict, row.targets["prod"].note) == ("same", "ghcr.io is not one of this target's upstreams")
    assert not scene.cloud.calls


@pytest.mark.parametrize("platforms", ["pulled", ("linux/amd64",)])
async def test_an_index_stays_on_disk_where_platforms_are_chosen(scene: Scene, platforms: Any) -> None:
    child = scene.shelf.add("ghcr.io/app", None)
    scene.shelf.add_index("ghcr.io/app", "latest", [child])
    assert (await scene.row(image("ghcr.io/app"))).verdict == "differs"
    scene.target = replace(scene.target, platforms=platforms)
    row = await scene.row(image("ghcr.io/app"))
    assert row.verdict == "same"
    assert row.targets["prod"].note == "an index, of which this target has the chosen platforms only"
    scene.shelf.add("ghcr.io/single", "v1")
    assert (await scene.row(image("ghcr.io/single", "v1"))).verdict == "differs"


async def test_rows_come_in_order_and_a_few_at_a_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "ROWS_AT_ONCE", 2)
    images = [image(f"ghcr.io/app{number}") for number in range(7)]
    for each in images:
        scene.hold(str(each.repository), scene.shelf.add(str(each.repository)), "latest")
    asked = [row.image for row in await scene.rows(*images)]
    assert asked == images
    spans = [(call.time, call.ended) for call in scene.cloud.calls]
    assert max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans) <= 2

"""ECR as a source of pulls: nearest first, never waited for long, never believed without proof."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from proxy.ecr.source import EcrSource
from proxy.oci.digest import Digest
from proxy.pull import near, tiers
from proxy.pull.freshness import TagPolicy
from tests.pull.house import UPSTREAM, House, house
from tests.support import images
from tests.support.ecr import ACCOUNT, EcrDouble
from tests.support.faults import BEFORE_HEADERS, Gate, change, refuse
from tests.support.images import Manifest
from tests.support.pulls import Reply, pull
from tests.support.reading import credentials, fill, target_of
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import DEADLINE, wait_until_async

pytestmark = pytest.mark.anyio

APP: Final = "library/app"
NAME: Final = f"{UPSTREAM}/{APP}"  # of the same repository in ECR
MIB: Final = 1 << 20
ALWAYS_ASK: Final = TagPolicy(ttl=0.0)

MakeHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as running, credentials(running):
        yield running
        running.behave()


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def make_house(tmp_path: Path, cloud: EcrDouble, upstream: ScriptedUpstream) -> MakeHouse:
    """A house before the scripted upstream, with one target."""
    return partial(house, tmp_path / "cache", {UPSTREAM: upstream.url}, target_of(cloud, UPSTREAM))


def blob_of(content: bytes) -> tuple[Manifest, str]:
    """An artifact of one blob, and the blob's digest."""
    blob = images.blob(content)
    return images.artifact(images.EMPTY_CONFIG, [blob]), blob.digest


def noise(size: int, seed: int = 1) -> bytes:
    return b"".join(images.noise(size, seed))


def origins(replies: list[Reply]) -> set[str]:
    return {reply.headers["x-millpond"] for reply in replies}


async def pull_all(running: House, image: Manifest, reference: str) -> list[Reply]:
    return await asyncio.to_thread(pull, running.base(APP), image, reference)


async def landed(running: House) -> None:
    await wait_until_async(lambda: running.metric("millpond_flights") == 0, "every flight has ended")


async def learnt(running: House, image: Manifest) -> None:
    """A client has pulled the manifest, so that its blobs are known."""
    assert (await running.get(APP, f"manifests/{image.digest}")).status == 200


# Order


async def test_what_ecr_holds_is_read_there_and_upstream_only_says_where_the_tag_points(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, images_directory: Path
) -> None:
    image = images.index([images.simple_image(images_directory, seed=seed, layers=2) for seed in (1, 2)])
    fill(cloud, NAME, image, "1")
    upstream.add(image, APP, "1")
    async with make_house() as running:
        assert origins(await pull_all(running, image, "1")) == {"ecr"}
        assert [(request.method, request.path) for request in upstream.requests] == [("HEAD", f"/v2/{APP}/manifests/1")]
        await landed(running)
        calls = len(cloud.calls)
        assert origins(await pull_all(running, image, "1")) == {"hit"}
        assert len(cloud.calls) == calls
        assert running.metric("millpond_ecr_read_bytes_total", target="prod") > image.total_size
        assert running.metric("millpond_fetched_bytes_total", upstream=UPSTREAM) == 0


async def test_a_defect_of_a_target_is_upstream_s_turn_and_the_target_s_rest(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B: a machine without a thread to spare, say; upstream needs none."""

    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(EcrSource, "_url", no_thread)
    monkeypatch.setattr(EcrSource, "manifest", no_thread)
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    upstream.add(image, APP, "1")
    async with make_house() as running:
        assert origins(await pull_all(running, image, "1")) == {"upstream"}
        assert running.metric("millpond_ecr_reads_total", target="prod", noun="manifests", outcome="failed") == 1


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_with_upstream_down_and_an_empty_disk_all_that_ecr_holds_can_be_pulled(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, images_directory: Path, by: str
) -> None:
    image = images.index([images.simple_image(images_directory, seed=seed) for seed in (1, 2)])
    fill(cloud, NAME, image, "1")
    upstream.stop()
    async with make_house() as running:
        replies = await pull_all(running, image, "1" if by == "tag" else image.digest)
        assert origins(replies) == {"ecr"}


async def test_a_tag_that_ecr_has_told_is_asked_of_upstream_again_as_soon_as_it_is_back(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    old, new = images.chart(1), images.chart(2)
    fill(cloud, NAME, old, "1")
    upstream.add(new, APP, "1")
    async with make_house() as running:
        upstream.script("/manifests/", then=refuse(500))
        upstream.script("/manifests/", then=refuse(500), method="HEAD")
        assert (await running.get(APP, "manifests/1")).body == old.body
        upstream.behave()
        reply = await wait_until_reply(running, new)
        assert reply.headers["x-millpond"] == "upstream"


async def wait_until_reply(running: House, image: Manifest) -> Reply:
    """The answer by tag, once it is `image`: the breaker of upstream opens for a second."""
    async with asyncio.timeout(DEADLINE):
        while (reply := await running.get(APP, "manifests/1")).body != image.body:
            assert reply.headers["x-millpond"] == "ecr"
    return reply


async def test_upstream_decides_where_a_tag_points(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    old, new = images.chart(1), images.chart(2)
    fill(cloud, NAME, old, "1")
    upstream.add(new, APP, "1")
    async with make_house() as running:
        assert origins(await pull_all(running, new, "1")) == {"upstream"}


@pytest.mark.parametrize(("status", "told"), [(404, 404), (401, 403), (403, 403)])
async def test_what_upstream_refuses_by_tag_ecr_does_not_give(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, status: int, told: int
) -> None:
    """Row 11, S."""
    fill(cloud, NAME, images.chart(1), "1")
    upstream.script("/manifests/1", then=refuse(status), method="HEAD")
    async with make_house() as running:
        reply = await running.get(APP, "manifests/1")
        assert (reply.status, reply.headers.get("x-millpond")) == (told, None)


async def test_what_ecr_lacks_comes_from_upstream_and_its_layers_are_not_asked_for_one_by_one(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, images_directory: Path
) -> None:
    image = images.simple_image(images_directory, seed=3, layers=5)
    fill(cloud, NAME, images.chart(1))
    upstream.add(image, APP, "1")
    async with make_house() as running:
        assert origins(await pull_all(running, image, "1")) == {"upstream"}
    assert [
        call.operation for call in cloud.calls if call.operation in {"BatchGetImage", "GetDownloadUrlForLayer"}
    ] == ["BatchGetImage"]


async def test_a_repository_that_ecr_does_not_have_is_asked_for_once(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, images_directory: Path
) -> None:
    image = images.index([images.simple_image(images_directory, seed=seed) for seed in (1, 2)])
    upstream.add(image, APP, "1")
    async with make_house() as running:
        assert origins(await pull_all(running, image, "1")) == {"upstream"}
    assert [call.operation for call in cloud.calls] == ["BatchGetImage"]


async def test_a_target_is_not_asked_for_upstreams_that_it_does_not_have(
    cloud: EcrDouble, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    upstream.add(image, APP, "1")
    calls = len(cloud.calls)
    async with house(tmp_path, {UPSTREAM: upstream.url}, target_of(cloud, "ghcr.io")) as running:
        assert origins(await pull_all(running, image, "1")) == {"upstream"}
        assert [request.method for request in upstream.requests if request.path.endswith("/1")] == ["GET"]
    assert len(cloud.calls) == calls


async def test_the_second_target_gives_what_the_first_one_lacks(
    cloud: EcrDouble, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    other = "444455556666"
    image = images.chart(1)
    fill(cloud, NAME, image, "1", account=other)
    upstream.stop()
    role = f"arn:aws:iam::{other}:role/read"
    targets = [target_of(cloud, UPSTREAM), target_of(cloud, UPSTREAM, name="second", account=other, role_arn=role)]
    async with house(tmp_path, {UPSTREAM: upstream.url}, *targets) as running:
        assert origins(await pull_all(running, image, "1")) == {"ecr"}
        assert running.metric("millpond_ecr_read_bytes_total", target="second") > 0


async def test_an_image_that_is_in_no_target_yet_costs_one_question_to_the_nearest(
    cloud: EcrDouble, upstream: ScriptedUpstream, tmp_path: Path, images_directory: Path
) -> None:
    other = "444455556666"
    for account in (ACCOUNT, other):
        fill(cloud, NAME, images.chart(1), account=account)
    image = images.index([images.simple_image(images_directory, seed=seed) for seed in (1, 2)])
    upstream.add(image, APP, "1")
    role = f"arn:aws:iam::{other}:role/read"
    targets = [target_of(cloud, UPSTREAM), target_of(cloud, UPSTREAM, name="second", account=other, role_arn=role)]
    calls = len(cloud.calls)
    async with house(tmp_path, {UPSTREAM: upstream.url}, *targets) as running:
        assert origins(await pull_all(running, image, "1")) == {"upstream"}
    assert [(call.operation, call.account) for call in cloud.calls[calls:]] == [("BatchGetImage", ACCOUNT)]


# Failures


async def test_an_ecr_that_does_not_answer_is_passed_over_after_the_deadline_and_then_left_alone(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B H."""
    monkeypatch.setattr(near, "ECR_DEADLINE", 0.2)
    stall = cloud.stall("BatchGetImage")
    async with make_house() as running:
        for seed in range(near.FAILURES_TO_REST + 3):
            image = images.chart(seed)
            upstream.add(image, APP, str(seed))
            reply = await running.get(APP, f"manifests/{image.digest}")
            assert (reply.body, reply.headers["x-millpond"]) == (image.body, "upstream")
        failed = running.metric("millpond_ecr_reads_total", target="prod", noun="manifests", outcome="failed")
        assert failed == near.FAILURES_TO_REST
        stall.release()


async def test_a_target_that_rests_is_still_asked_when_upstream_fails(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    image = images.chart(99)
    fill(cloud, NAME, image, "1")
    cloud.fail("BatchGetImage", "AccessDeniedException", times=near.FAILURES_TO_REST)
    async with make_house() as running:
        for seed in range(near.FAILURES_TO_REST):
            upstream.add(images.chart(seed), APP, str(seed))
            assert (await running.get(APP, f"manifests/{images.chart(seed).digest}")).status == 200
        upstream.stop()
        assert origins(await pull_all(running, image, "1")) == {"ecr"}


async def test_a_download_that_breaks_goes_on_at_upstream_where_it_stopped(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """W P H."""
    content, at = noise(4 * MIB), 3 * MIB
    image, digest = blob_of(content)
    fill(cloud, NAME, image)
    upstream.add(image, APP)
    cloud.cut_layer(digest, at)
    async with make_house() as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.complete, reply.digest, reply.headers["x-millpond"]) == (True, digest, "ecr")
        (asked,) = upstream.seen(digest)
        first = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < first <= at
        await landed(running)
        assert running.cache.blobs.size(Digest(digest)) == len(content)


async def test_a_download_that_stalls_goes_on_at_upstream(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """H."""
    image, digest = blob_of(noise(4 * MIB))
    fill(cloud, NAME, image)
    upstream.add(image, APP)
    stall = cloud.stall("DownloadLayer", 2 * MIB)
    async with make_house() as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.complete, reply.digest) == (True, digest)
        assert len(upstream.seen(digest)) == 1
        stall.release()


async def test_a_download_that_breaks_goes_on_at_ecr_itself_while_upstream_is_down(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    image, digest = blob_of(noise(4 * MIB))
    fill(cloud, NAME, image)
    cloud.cut_layer(digest, 2 * MIB)
    upstream.stop()
    async with make_house() as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.complete, reply.digest) == (True, digest)


async def test_a_large_layer_comes_from_ecr_in_ranges_that_share_one_url(
    cloud: EcrDouble, make_house: MakeHouse
) -> None:
    """S: without an Authorization header, or the double would say so."""
    image, digest = blob_of(noise(48 * MIB))
    fill(cloud, NAME, image)
    async with make_house() as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}", keep=False)
        assert (reply.complete, reply.digest, reply.headers["x-millpond"]) == (True, digest, "ecr")
    downloads = [call for call in cloud.calls if call.operation == "DownloadLayer"]
    stretches = {f"bytes={start * 8 * MIB}-{(start + 1) * 8 * MIB - 1}" for start in range(6)}
    assert {call.parameters["range"] for call in downloads} == stretches
    assert len(downloads) == len(stretches)
    assert cloud.count("GetDownloadUrlForLayer", layerDigest=digest) == 1


# Wrong bytes: row 47


async def test_wrong_bytes_from_ecr_are_replaced_by_the_right_ones_within_the_same_request(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 47, W P: the client has been sent nothing of them."""
    image, digest = blob_of(noise(64_000))
    fill(cloud, NAME, image)
    upstream.add(image, APP)
    cloud.corrupt_layer(digest)
    async with make_house() as running:
        await learnt(running, image)
        replies = await asyncio.gather(*(running.get(APP, f"blobs/{digest}") for _ in range(10)))
        assert {(reply.status, reply.complete, reply.digest) for reply in replies} == {(200, True, digest)}
        assert origins(list(replies)) <= {"upstream", "joined", "hit"}
        assert running.metric("millpond_verification_failures_total", where="ecr") == 1
        assert running.metric("millpond_verification_failures_total", where="upstream") == 0
        assert len(upstream.seen(digest)) == 1
        await landed(running)
        assert await running.cache.blobs.verify(Digest(digest))


async def test_wrong_bytes_that_have_begun_to_flow_cost_this_client_its_connection_and_nobody_else(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 47, W P: whoever waits for the end is answered, the next one too, and ECR is not asked again."""
    content = noise(4 * MIB)
    image, digest = blob_of(content)
    fill(cloud, NAME, image)
    upstream.add(image, APP)
    cloud.corrupt_layer(digest)
    async with make_house() as running:
        await learnt(running, image)
        stall = cloud.stall("DownloadLayer", 2 * MIB)
        whole = asyncio.create_task(running.get(APP, f"blobs/{digest}"))
        await asyncio.to_thread(stall.reached.wait, 10)
        tail = asyncio.create_task(running.get(APP, f"blobs/{digest}", {"Range": f"bytes={3 * MIB}-"}))
        await wait_until_async(lambda: running.metric("millpond_flight_joins_total") == 1, "the other has joined")
        stall.release()
        reply = await whole
        assert not reply.complete
        reply = await tail
        assert (reply.status, reply.complete, reply.body) == (206, True, content[3 * MIB :])
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.complete, reply.digest) == (True, digest)
        assert cloud.count("DownloadLayer", layerDigest=digest) == 1


async def test_wrong_bytes_are_refused_where_nobody_has_others(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 47, W P H."""
    image, digest = blob_of(noise(64_000))
    fill(cloud, NAME, image)
    cloud.corrupt_layer(digest)
    upstream.stop()
    async with make_house() as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.status, reply.complete) == (502, True)
        assert Digest(digest) not in running.cache.blobs


async def test_wrong_bytes_past_a_full_disk_are_replaced_too(
    cloud: EcrDouble, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Row 47, W."""
    image, digest = blob_of(noise(64_000))
    fill(cloud, NAME, image)
    upstream.add(image, APP)
    cloud.corrupt_layer(digest)
    async with house(tmp_path, {UPSTREAM: upstream.url}, target_of(cloud, UPSTREAM), max_size=10_000) as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.status, reply.complete, reply.digest) == (200, True, digest)


async def test_a_layer_of_another_size_is_not_taken(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 47, W."""
    image, digest = blob_of(noise(64_000))
    fill(cloud, NAME, image)
    cloud.registry().repositories[NAME].layers[digest] = b"much too little"
    upstream.add(image, APP)
    async with make_house() as running:
        await learnt(running, image)
        reply = await running.get(APP, f"blobs/{digest}")
        assert (reply.status, reply.digest, reply.headers["x-millpond"]) == (200, digest, "upstream")


async def test_a_manifest_that_is_not_what_its_digest_says_comes_from_upstream(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 47, W P."""
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    upstream.add(image, APP, "1")
    cloud.corrupt_image(image.digest)
    async with make_house() as running:
        reply = await running.get(APP, "manifests/1")
        assert (reply.body, reply.headers["x-millpond"]) == (image.body, "upstream")


# Who may have what: row 38


async def test_ecr_is_no_permission_while_upstream_can_be_asked(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 38, S: the blob is on disk and in ECR; upstream says that this repository does not have it."""
    image, digest = blob_of(noise(64_000))
    upstream.add(image, "team/private")
    upstream.add(images.chart(1), APP)
    fill(cloud, NAME, image)
    async with make_house() as running:
        for what in (f"manifests/{image.digest}", f"blobs/{digest}"):
            assert (await running.get("team/private", what)).status == 200
        await landed(running)
        assert (await running.get(APP, f"blobs/{digest}")).status == 404


async def test_an_answer_of_upstream_that_is_no_use_is_no_permission_either(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 38, S: it could be asked, and did not say yes."""
    image, digest = blob_of(noise(64_000))
    fill(cloud, NAME, image)
    for method in ("HEAD", "GET"):
        upstream.script(digest, then=refuse(451), method=method)
    async with make_house() as running:
        assert (await running.get(APP, f"blobs/{digest}")).status == 502


async def test_what_ecr_holds_for_the_repository_counts_while_upstream_cannot_be_asked_and_no_longer(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    """Row 38, S."""
    image, digest = blob_of(noise(64_000))
    fill(cloud, NAME, image)
    fill(cloud, f"{UPSTREAM}/library/other", images.chart(1))
    upstream.stop()
    async with make_house() as running:
        for origin in ("ecr", "hit"):
            reply = await running.get(APP, f"blobs/{digest}")
            assert (reply.status, reply.digest, reply.headers["x-millpond"]) == (200, digest, origin)
            await landed(running)
        assert (await running.get(APP, f"blobs/{digest}", method="HEAD")).headers["x-millpond"] == "ecr"
        assert (await running.get("library/other", f"blobs/{digest}")).status in {502, 503, 504}
        upstream.start()
        await wait_for_refusal(running, digest)


async def wait_for_refusal(running: House, digest: str) -> None:
    """Upstream is asked again when its breaker lets it be: then its word counts."""
    async with asyncio.timeout(DEADLINE):
        while (reply := await running.get(APP, f"blobs/{digest}")).status != 404:
            assert reply.status == 200


# Tags while upstream fails


async def test_ecr_stands_in_for_upstream_before_an_older_answer_of_the_disk_does(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    old, new = images.chart(1), images.chart(2)
    upstream.add(old, APP, "1")
    async with make_house(policy=ALWAYS_ASK) as running:
        assert (await running.get(APP, "manifests/1")).body == old.body
        fill(cloud, NAME, new, "1")
        upstream.stop()
        reply = await running.get(APP, "manifests/1")
        assert (reply.body, reply.headers["x-millpond"]) == (new.body, "ecr")
        cloud.fail("BatchGetImage", "AccessDeniedException", times=math.inf)
        reply = await running.get(APP, "manifests/1")
        assert (reply.body, reply.headers["x-millpond"]) == (old.body, "stale")


async def pulled(running: House, image: Manifest, reference: str) -> tuple[str, bool]:
    """What is noted of a pull of the image's manifest: where it came from, and whether upstream confirmed the tag."""
    running.served.clear()
    assert (await running.get(APP, f"manifests/{reference}")).body == image.body
    await wait_until_async(lambda: running.served, "the request has ended")
    return running.served[0].origin, running.served[0].confirmed


async def test_a_tag_is_confirmed_by_upstream_only_whoever_gives_the_image(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    upstream.add(image, APP, "1")
    async with make_house(policy=ALWAYS_ASK) as running:
        assert await pulled(running, image, "1") == ("ecr", True)
        assert await pulled(running, image, "1") == ("hit", True)
        upstream.stop()
        assert await pulled(running, image, "1") == ("ecr", False)
        assert await pulled(running, image, image.digest) == ("hit", True)
        cloud.fail("BatchGetImage", "AccessDeniedException", times=math.inf)
        assert await pulled(running, image, "1") == ("stale", False)


async def test_a_tag_that_upstream_neither_tells_nor_gives_is_not_confirmed(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    upstream.script("/manifests/", then=refuse(405), method="HEAD")
    upstream.script("/manifests/", then=refuse(503), method="GET")
    async with make_house() as running:
        assert await pulled(running, image, "1") == ("ecr", False)


async def test_a_tag_that_is_kept_although_upstream_has_deleted_it_is_not_confirmed(
    upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    image = images.chart(1)
    upstream.add(image, APP, "1")
    async with make_house(policy=replace(ALWAYS_ASK, keep_deleted=True)) as running:
        assert await pulled(running, image, "1") == ("upstream", True)
        upstream.script("/manifests/1", then=refuse(404), method="HEAD")
        assert await pulled(running, image, "1") == ("stale", False)


async def test_a_first_tag_that_ecr_alone_tells_is_not_confirmed_for_whoever_asks_at_the_same_time(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse
) -> None:
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    upstream.stop()
    async with make_house() as running:
        replies = await asyncio.gather(*(running.get(APP, "manifests/1") for _ in range(4)))
        assert {reply.body for reply in replies} == {image.body}
        await wait_until_async(lambda: len(running.served) == 4, "all requests have ended")
        assert {served.confirmed for served in running.served} == {False}


async def test_an_upstream_that_hangs_is_given_some_seconds_before_ecr_answers(
    cloud: EcrDouble, upstream: ScriptedUpstream, make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H: containerd would not wait for all of upstream's own deadlines."""
    monkeypatch.setattr(tiers, "PATIENCE", 0.2)
    image = images.chart(1)
    fill(cloud, NAME, image, "1")
    gate = Gate()
    upstream.script("/manifests/1", then=change(gates={BEFORE_HEADERS: gate}), method="HEAD")
    async with make_house() as running:
        reply = asyncio.create_task(running.get(APP, "manifests/1"))
        assert await asyncio.to_thread(gate.reached.wait, DEADLINE)
        assert ((await reply).body, (await reply).headers["x-millpond"]) == (image.body, "ecr")
        gate.open()


async def test_without_ecr_a_cold_pull_asks_upstream_for_each_part_once(
    upstream: ScriptedUpstream, tmp_path: Path, images_directory: Path
) -> None:
    image = images.simple_image(images_directory, seed=5, layers=3)
    upstream.add(image, APP, "1")
    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        assert origins(await pull_all(running, image, "1")) == {"upstream"}
    assert len(upstream.requests) == 1 + len(image.all_blobs())
    assert {request.method for request in upstream.requests} == {"GET"}

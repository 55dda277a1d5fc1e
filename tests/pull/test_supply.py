"""Images for the push: whole, verified, and at nobody's cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from proxy.ecr.supply import Companion, QuotaReserved
from proxy.oci.digest import Digest
from proxy.oci.errors import UpstreamInvalid
from proxy.oci.names import Repository, Tag
from proxy.pull.supply import QUOTA_SECONDS
from tests.cache.disks import fill, small_disk
from tests.pull.house import UPSTREAM, house
from tests.support import images
from tests.support.faults import Gate, change, corrupt, refuse
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

APP: Final = "library/app"
REPOSITORY: Final = Repository(UPSTREAM, APP)
MIB: Final = 1 << 20


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


def blob_at(upstream: ScriptedUpstream, size: int) -> tuple[bytes, Digest, images.Manifest]:
    """A blob, its digest, and the image that names it."""
    content = b"".join(images.noise(size, 1))
    blob = images.blob(content)
    image = images.artifact(images.EMPTY_CONFIG, [blob])
    upstream.add(image, APP, "1")
    return content, Digest.parse(blob.digest), image


async def test_a_blob_is_read_while_it_arrives_and_after_in_any_order(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    content, digest, _ = blob_at(upstream, 6 * MIB)
    gate = Gate()
    upstream.script(digest, change(gates={4 * MIB: gate}))
    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        async with running.supply.blob(REPOSITORY, digest, spare=False) as blob:
            assert blob.size == len(content)
            assert await blob.read(0, 2 * MIB) == content[: 2 * MIB]
            rest = asyncio.create_task(blob.read(2 * MIB, 6 * MIB))
            await asyncio.to_thread(gate.reached.wait, 10)
            assert not rest.done()
            gate.open()
            assert await rest == content[2 * MIB :]
            await wait_until_async(lambda: running.metric("millpond_flights") == 0, "the flight has ended")
            assert await blob.read(MIB, 3 * MIB) == content[MIB : 3 * MIB]
            assert await blob.read(0, 6 * MIB) == content
        async with running.supply.blob(REPOSITORY, digest, spare=True) as blob:
            assert await blob.read(5, 10) == content[5:10]
    assert len(upstream.seen(digest)) == 1


async def test_wrong_bytes_are_never_given_to_their_end(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Row 3, P."""
    content, digest, _ = blob_at(upstream, 2 * MIB)
    upstream.script(digest, then=corrupt(5))
    async with (
        house(tmp_path, {UPSTREAM: upstream.url}) as running,
        running.supply.blob(REPOSITORY, digest, spare=False) as blob,
    ):
        with pytest.raises(UpstreamInvalid):
            await blob.read(MIB, len(content))


async def test_what_no_client_waits_for_takes_one_connection_until_one_does(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    content, digest, image = blob_at(upstream, 64 * MIB)
    gates = {start: Gate() for start in range(0, 64 * MIB, 8 * MIB)}

    def held(request: object, answer: object) -> object:
        start = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])  # type: ignore[attr-defined]
        return change(gates={MIB: gates[start]})(request, answer)  # type: ignore[arg-type]

    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        assert (await running.get(APP, f"manifests/{image.digest}")).status == 200
        upstream.script(digest, then=held)  # type: ignore[arg-type]
        async with running.supply.blob(REPOSITORY, digest, spare=True) as blob:
            part = asyncio.create_task(blob.read(40 * MIB, 41 * MIB))
            gates[0].open()
            assert await part == content[40 * MIB : 41 * MIB]
            assert [request.headers["range"].partition("-")[0] for request in upstream.seen(digest)] == [
                "bytes=0",
                f"bytes={40 * MIB}",
            ]
            client = asyncio.create_task(running.get(APP, f"blobs/{digest}", keep=False))
            await wait_until_async(lambda: len(upstream.seen(digest)) > 2, "more connections have been opened")
            for gate in gates.values():
                gate.open()
            reply = await client
            assert (reply.complete, reply.digest, reply.headers["x-millpond"]) == (True, digest, "joined")


async def test_whoever_waits_for_bytes_to_arrive_does_not_change_their_order(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Clients read from the front, and a push must not make them wait."""
    content, digest, image = blob_at(upstream, 64 * MIB)
    gate = Gate()

    def held(request: object, answer: object) -> object:
        late = request.headers["range"].startswith(f"bytes={40 * MIB}-")  # type: ignore[attr-defined]
        return change(gates={MIB: gate})(request, answer) if late else answer  # type: ignore[arg-type]

    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        assert (await running.get(APP, f"manifests/{image.digest}")).status == 200
        upstream.script(digest, then=held)  # type: ignore[arg-type]
        async with running.supply.blob(REPOSITORY, digest, spare=True) as blob:
            await blob.arrived(40 * MIB)
            part = asyncio.create_task(blob.arrived(48 * MIB))
            assert await asyncio.to_thread(gate.reached.wait, 10)
            assert not part.done()
            gate.open()
            await part
            assert await blob.read(40 * MIB, 48 * MIB) == content[40 * MIB : 48 * MIB]
            await blob.arrived(64 * MIB)
            assert await blob.read(48 * MIB, 64 * MIB) == content[48 * MIB :]
    starts = [int(request.headers["range"].removeprefix("bytes=").split("-")[0]) for request in upstream.seen(digest)]
    assert starts == list(range(0, 64 * MIB, 8 * MIB))


async def test_what_fails_is_not_waited_for_and_reading_it_tells(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    content, digest, _ = blob_at(upstream, 2 * MIB)
    upstream.script(digest, then=corrupt(5))
    async with (
        house(tmp_path, {UPSTREAM: upstream.url}) as running,
        running.supply.blob(REPOSITORY, digest, spare=False) as blob,
        asyncio.timeout(10),
    ):
        await blob.arrived(len(content))
        with pytest.raises(UpstreamInvalid):
            await blob.read(0, len(content))


async def test_a_blob_that_the_disk_has_no_room_for_is_downloaded_once_for_all_its_parts(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    content, digest, image = blob_at(upstream, 4 * MIB + 5)
    async with house(tmp_path, {UPSTREAM: upstream.url}, max_size=MIB) as running:
        assert (await running.get(APP, f"manifests/{image.digest}")).status == 200
        async with running.supply.blob(REPOSITORY, digest, spare=False) as blob:
            for start in range(0, len(content), MIB):
                stop = min(start + MIB, len(content))
                await blob.arrived(stop)
                assert await blob.read(start, stop) == content[start:stop]
            assert len(upstream.seen(digest)) == 1
            assert await blob.read(MIB, 2 * MIB) == content[MIB : 2 * MIB]
            assert await blob.read(2 * MIB, 4 * MIB) == content[2 * MIB : 4 * MIB]
            assert len(upstream.seen(digest)) == 2


async def test_a_disk_that_fills_between_two_parts_costs_one_more_connection(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    content, digest, _ = blob_at(upstream, 8 * MIB)
    gate = Gate()
    upstream.script(digest, change(gates={3 * MIB: gate}))
    with small_disk(tmp_path / "disk", 12 * MIB) as disk:
        async with (
            house(disk / "cache", {UPSTREAM: upstream.url}) as running,
            running.supply.blob(REPOSITORY, digest, spare=False) as blob,
        ):
            assert await blob.read(0, MIB) == content[:MIB]
            assert await asyncio.to_thread(gate.reached.wait, 10)
            fill(disk)
            gate.open()
            for start in range(MIB, 8 * MIB, MIB):
                await blob.arrived(start + MIB)
                assert await blob.read(start, start + MIB) == content[start : start + MIB]
    assert len(upstream.seen(digest)) == 2


async def test_a_part_that_broke_off_is_read_again(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    content, digest, image = blob_at(upstream, 4 * MIB)
    gate = Gate()
    async with house(tmp_path, {UPSTREAM: upstream.url}, max_size=MIB) as running:
        assert (await running.get(APP, f"manifests/{image.digest}")).status == 200
        upstream.script(digest, change(gates={2 * MIB: gate}))
        async with running.supply.blob(REPOSITORY, digest, spare=False) as blob:
            part = asyncio.create_task(blob.read(0, 3 * MIB))
            assert await asyncio.to_thread(gate.reached.wait, 10)
            part.cancel()
            await asyncio.gather(part, return_exceptions=True)
            gate.open()
            assert await blob.read(0, 3 * MIB) == content[: 3 * MIB]
            assert await blob.read(3 * MIB, 4 * MIB) == content[3 * MIB :]


async def test_a_manifest_is_known_once_it_has_been_pulled(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    image = images.chart(1)
    digest = Digest.parse(image.digest)
    upstream.add(image, APP, "1")
    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        assert running.supply.known(REPOSITORY, digest) is None
        pulled = await running.supply.manifest(REPOSITORY, Tag("1"), spare=False)
        assert (pulled.digest, pulled.body) == (digest, image.body)
        assert running.supply.known(REPOSITORY, digest) == pulled
        assert running.supply.known(Repository(UPSTREAM, "library/other"), digest) is None


async def test_what_is_left_of_upstreams_rate_limit_is_for_clients(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    first, second, third = (images.chart(seed) for seed in range(3))
    for image in (first, second, third):
        upstream.add(image, APP)
    quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "24;w=21600"}
    upstream.script("/manifests/", then=change(headers=quota))
    now = [1000.0]
    async with house(tmp_path, {UPSTREAM: upstream.url}, ticks=lambda: now[0]) as running:
        supply = running.supply
        await supply.manifest(REPOSITORY, Digest.parse(first.digest), spare=True)  # nothing is known of a limit yet
        with pytest.raises(QuotaReserved, match="24 of 100"):
            await supply.manifest(REPOSITORY, Digest.parse(second.digest), spare=True)
        await supply.manifest(REPOSITORY, Digest.parse(first.digest), spare=True)  # is at hand
        await supply.manifest(REPOSITORY, Digest.parse(second.digest), spare=False)  # a client has asked for it
        with pytest.raises(QuotaReserved):
            await supply.manifest(REPOSITORY, Digest.parse(third.digest), spare=True)
        now[0] += QUOTA_SECONDS
        await supply.manifest(REPOSITORY, Digest.parse(third.digest), spare=True)


async def test_signatures_and_referrers_belong_to_an_image(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    image = images.chart(1)
    tag, signature = images.signature(image)
    sbom = images.artifact(images.EMPTY_CONFIG, [images.blob(b"{}")], subject=image, artifact_type="application/spdx")
    upstream.add(image, APP, "1")
    upstream.add(signature, APP, tag)
    upstream.add(sbom, APP)
    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        found = await running.supply.companions(REPOSITORY, Digest.parse(image.digest))
    assert found == [Companion(Digest(signature.digest), Tag(tag)), Companion(Digest(sbom.digest))]
    assert upstream.seen(f"/manifests/{tag}") == []  # a GET would cost quota


async def test_where_upstream_has_no_referrers_api_the_fallback_tag_tells(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    image = images.chart(1)
    sbom = images.artifact(images.EMPTY_CONFIG, [images.blob(b"{}")], subject=image)
    index = images.index([sbom])
    fallback = image.digest.replace(":", "-")
    upstream.add(image, APP, "1")
    upstream.add(index, APP, fallback)
    upstream.script("/referrers/", then=refuse(404))
    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        found = await running.supply.companions(REPOSITORY, Digest.parse(image.digest))
    assert found == [Companion(Digest(sbom.digest)), Companion(Digest(index.digest), Tag(fallback))]


async def test_an_image_may_have_no_companions(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    image = images.chart(1)
    upstream.add(image, APP, "1")
    upstream.script("/referrers/", then=refuse(404))
    async with house(tmp_path, {UPSTREAM: upstream.url}) as running:
        assert await running.supply.companions(REPOSITORY, Digest.parse(image.digest)) == []

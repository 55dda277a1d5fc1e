"""One image into one target, over real boto3 against the double."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from proxy.ecr.api import Api
from proxy.ecr.errors import Refused, Rejected
from proxy.ecr.job import Job
from proxy.ecr.push import Pushed, Pusher, RepositoryOff
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Sessions
from proxy.ecr.supply import Companion, QuotaReserved
from proxy.ecr.target import Platforms, RepositoryTemplate
from proxy.ecr.upload import LAYERS_IN_FLIGHT
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown, UpstreamUnreachable
from proxy.oci.names import Tag
from tests.ecr.pond import NAME, MemorySupply, make_api, make_pusher, new_job, small_image, target, three_platforms
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

SMALL_PARTS = pytest.mark.parametrize("cloud", [{"part_size": 1000, "min_part": 500}], indirect=True)


class Bench:
    """A pusher with all around it."""

    def __init__(self, cloud: EcrDouble, sessions: Sessions) -> None:
        self.cloud = cloud
        self.sessions = sessions
        self.supply = MemorySupply()
        self.metrics = Metrics()

    def pusher(self, platforms: Platforms = "all", mutability: str = "MUTABLE") -> Pusher:
        to = target(platforms=platforms, repository=RepositoryTemplate(tag_mutability=mutability))
        return make_pusher(make_api(self.sessions, self.cloud, to), self.supply, self.metrics)

    async def push(self, job: Job, pusher: Pusher | None = None) -> Pushed:
        """Both turns, as the worker gives them."""
        pusher = pusher or self.pusher()
        pushed = await pusher.push(job)
        if pushed.more:
            job.spare = True
            pushed = await pusher.push(job)
            assert not pushed.more
        return pushed

    def missing(self, reference: str) -> list[str]:
        return self.cloud.registry().missing(NAME, reference)

    def stored(self) -> set[str]:
        """Digests of the manifests that are in ECR."""
        return set(self.cloud.registry().repositories[NAME].images)

    def puts(self) -> list[str]:
        """Digests, in the order in which they were put."""
        return [str(call.parameters["imageDigest"]) for call in self.cloud.calls if call.operation == "PutImage"]


@pytest.fixture
async def bench(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    sessions = Sessions()
    yield Bench(cloud, sessions)
    await sessions.aclose()


async def test_an_image_is_complete_under_its_digest_and_its_tags(bench: Bench) -> None:
    image = small_image()

    pushed = await bench.push(new_job(bench.supply.add(image), "v1", "latest"))

    assert pushed.note == ""
    assert bench.missing("v1") == bench.missing("latest") == []
    stored = bench.cloud.registry().image(NAME, "v1")
    assert stored is not None
    assert (stored.digest, stored.body, stored.media_type) == (image.digest, image.body, image.media_type)


async def test_an_image_that_is_there_costs_one_call(bench: Bench) -> None:
    digest = bench.supply.add(small_image())
    await bench.push(new_job(digest, "v1"))
    calls, job = len(bench.cloud.calls), new_job(digest, "v1")

    await bench.push(job)

    assert [call.operation for call in bench.cloud.calls[calls:]] == ["BatchGetImage"]
    assert not job.pushed


async def test_an_image_that_is_there_under_another_tag_gets_the_new_one(bench: Bench) -> None:
    digest = bench.supply.add(small_image())
    await bench.push(new_job(digest, "v1"))
    opened = len(bench.supply.opened)

    await bench.push(new_job(digest, "v2"))

    assert bench.cloud.registry().repositories[NAME].tags == {"v1": digest, "v2": digest}
    assert len(bench.supply.opened) == opened


async def test_a_moved_tag_moves(bench: Bench) -> None:
    old, new = bench.supply.add(small_image()), bench.supply.add(small_image(1))
    await bench.push(new_job(old, "latest"))

    await bench.push(new_job(new, "latest"))

    assert bench.cloud.registry().repositories[NAME].tags == {"latest": new}
    assert bench.missing(old) == []


async def test_a_tag_that_has_moved_to_another_image_meanwhile_is_not_put(bench: Bench) -> None:
    digest = bench.supply.add(small_image())
    job = new_job(digest, "latest")
    bench.supply.arrived.clear()
    push = asyncio.create_task(bench.push(job))
    await wait_until_async(lambda: bench.supply.open_now, "the push reads a layer")

    job.tags.discard(Tag("latest"))  # as the queue does when a newer pull has it
    bench.supply.arrived.set()
    await push

    assert bench.cloud.registry().repositories[NAME].tags == {}
    assert bench.missing(digest) == []


async def test_a_tag_that_moves_away_while_another_one_is_put_is_not_put(bench: Bench) -> None:
    digest = bench.supply.add(small_image())
    job = new_job(digest, "latest", "v1")
    stall = bench.cloud.stall("PutImage")
    push = asyncio.create_task(bench.push(job))
    await wait_until_async(stall.reached.is_set, "the first tag is being put")

    job.tags.discard(Tag("v1"))
    stall.release()
    await push

    assert bench.cloud.registry().repositories[NAME].tags == {"latest": digest}


async def test_what_ecr_lost_is_pushed_again(bench: Bench) -> None:
    digest = bench.supply.add(small_image())
    await bench.push(new_job(digest, "v1"))
    bench.cloud.registry().repositories[NAME].lose_image(digest)

    await bench.push(new_job(digest, "v1"))

    assert bench.missing("v1") == []


async def test_layers_that_are_there_are_neither_read_nor_sent(bench: Bench) -> None:
    shared = images.blob(b"shared" * 200, images.OCI_LAYER)
    first, second = (images.image([shared, images.blob(text * 200, images.OCI_LAYER)]) for text in (b"one", b"two"))
    await bench.push(new_job(bench.supply.add(first)))
    bench.supply.opened.clear()

    await bench.push(new_job(bench.supply.add(second)))

    assert shared.digest not in {digest for digest, _ in bench.supply.opened}
    assert bench.missing(second.digest) == []


async def test_a_layer_that_an_image_names_twice_is_sent_once(bench: Bench) -> None:
    layer = images.blob(b"the same" * 99, images.OCI_LAYER)
    image = images.image([layer, layer])

    await bench.push(new_job(bench.supply.add(image)))

    assert bench.cloud.count("InitiateLayerUpload") == 2  # the config and the layer
    assert bench.missing(image.digest) == []


async def test_foreign_layers_stay_where_they_are(bench: Bench) -> None:
    image = images.image([images.foreign_layer("https://elsewhere.example/x"), images.blob(b"own", images.OCI_LAYER)])

    await bench.push(new_job(bench.supply.add(image), "v1"))

    assert bench.missing("v1") == []
    assert image.blobs[1].digest not in bench.cloud.registry().repositories[NAME].layers


@SMALL_PARTS
async def test_a_layer_goes_part_by_part_and_the_memory_has_few_of_them(bench: Bench) -> None:
    image = images.image([images.blob(b"".join(images.noise(4321, seed)), images.OCI_LAYER) for seed in range(8)])
    job = new_job(bench.supply.add(image), "v1")

    await bench.push(job)

    assert bench.missing("v1") == []
    assert bench.supply.largest_read == 1000
    assert bench.supply.most_open <= LAYERS_IN_FLIGHT
    assert job.bytes_done == job.bytes_total == sum(blob.size for blob in image.blobs)
    assert bench.metrics.ecr_pushed_bytes.labels("prod")._value.get() == job.bytes_total


@SMALL_PARTS
async def test_a_layer_is_read_once_in_order_and_not_before_it_has_arrived(bench: Bench) -> None:
    image = small_image(size=2500)
    bench.supply.arrived.clear()
    push = asyncio.create_task(bench.push(new_job(bench.supply.add(image), "v1")))
    await wait_until_async(lambda: bench.supply.waiting == len(image.blobs), "all layers are waited for")
    assert not any(bench.supply.reads.values())  # whoever reads holds memory that all targets share

    bench.supply.arrived.set()
    await push

    assert bench.supply.reads[image.blobs[1].digest] == [(0, 1000), (1000, 2000), (2000, 2500)]


@SMALL_PARTS
async def test_a_part_that_was_refused_is_sent_again_from_the_last_valid_byte(bench: Bench) -> None:
    image = small_image(size=5000)
    layer = image.blobs[1]
    bench.cloud.fail(
        "UploadLayerPart", "InvalidLayerPartException", fields={"lastValidByteReceived": 1999}, partFirstByte=3000
    )

    job = new_job(bench.supply.add(image), "v1")
    await bench.push(job)

    starts = [c.parameters["partFirstByte"] for c in bench.cloud.calls if c.operation == "UploadLayerPart"]
    assert bench.missing("v1") == []
    assert starts.index(2000, starts.index(3000)) == starts.index(3000) + 1  # went back, as it was told to
    assert job.bytes_done == job.bytes_total > layer.size
    assert bench.cloud.count("InitiateLayerUpload") == 2


@SMALL_PARTS
async def test_a_part_whose_answer_got_lost_is_not_there_twice(bench: Bench) -> None:
    bench.cloud.break_off("UploadLayerPart", done=True, partFirstByte=1000)
    image = small_image(size=5000)

    await bench.push(new_job(bench.supply.add(image), "v1"))

    assert bench.missing("v1") == []
    assert bench.cloud.count("UploadLayerPart", partFirstByte=2000, outcome="ok") == 1


@SMALL_PARTS
async def test_an_upload_that_ecr_has_lost_is_begun_anew(bench: Bench) -> None:
    bench.cloud.fail("UploadLayerPart", "UploadNotFoundException", partFirstByte=2000)
    job = new_job(bench.supply.add(small_image(size=5000)), "v1")

    await bench.push(job)

    assert bench.missing("v1") == []
    assert bench.cloud.count("UploadLayerPart", partFirstByte=1000, outcome="ok") == 2
    assert job.bytes_done == job.bytes_total


@SMALL_PARTS
async def test_an_upload_that_never_gets_further_is_given_up_for_now(bench: Bench) -> None:
    bench.cloud.fail(
        "UploadLayerPart", "InvalidLayerPartException", 1000, fields={"lastValidByteReceived": 0}, partFirstByte=1000
    )
    bench.cloud.fail("UploadLayerPart", "InvalidLayerPartException", 1000, fields={"lastValidByteReceived": 0})

    with pytest.raises(Exception, match="ECR lost 3 uploads of the layer"):
        await bench.push(new_job(bench.supply.add(small_image(size=5000)), "v1"))

    assert bench.cloud.count("PutImage") == 0


async def test_a_push_that_was_killed_goes_on_where_it_was_and_no_manifest_precedes_its_blobs(bench: Bench) -> None:
    image = images.image([images.blob(b"".join(images.noise(999, seed)), images.OCI_LAYER) for seed in range(5)])
    digest = bench.supply.add(image)
    bench.cloud.fail("InitiateLayerUpload", "AccessDeniedException", 1000, after=4)
    with pytest.raises(Refused):
        await bench.push(new_job(digest, "v1"))
    assert bench.cloud.count("PutImage") == 0
    bench.cloud.behave()
    there = set(bench.cloud.registry().repositories[NAME].layers)
    assert there
    bench.supply.opened.clear()

    await bench.push(new_job(digest, "v1"))

    assert bench.missing("v1") == []
    assert there.isdisjoint(opened for opened, _ in bench.supply.opened)


async def test_layers_that_vanish_before_the_manifest_are_pushed_again(bench: Bench) -> None:
    image = small_image()
    stall = bench.cloud.stall("PutImage")
    push = asyncio.create_task(bench.push(new_job(bench.supply.add(image), "v1")))
    await wait_until_async(stall.reached.is_set, "the manifest is being put")

    del bench.cloud.registry().repositories[NAME].layers[image.blobs[1].digest]
    stall.release()
    await push

    assert bench.missing("v1") == []


async def test_an_index_comes_after_its_images_and_they_after_their_blobs(bench: Bench) -> None:
    index = three_platforms(attested=True)

    await bench.push(new_job(bench.supply.add(index), "v1"))

    assert bench.missing("v1") == []
    assert bench.puts()[-1] == index.digest
    assert set(bench.puts()) == {part.digest for part in index.walk()}


async def test_an_index_of_indexes_is_pushed_from_the_leaves_up(bench: Bench) -> None:
    index = images.index([three_platforms(), small_image()])

    await bench.push(new_job(bench.supply.add(index), "v1"))

    assert bench.missing("v1") == []


async def test_images_that_vanish_before_their_index_are_pushed_again(bench: Bench) -> None:
    index = three_platforms()
    for child in index.children:
        bench.cloud.registry().add(child, NAME)
    stall = bench.cloud.stall("PutImage")
    push = asyncio.create_task(bench.push(new_job(bench.supply.add(index), "v1")))
    await wait_until_async(stall.reached.is_set, "the index is being put")

    bench.cloud.registry().repositories[NAME].lose_image(index.children[0].digest)
    stall.release()
    await push

    assert bench.missing("v1") == []


async def test_what_clients_have_pulled_comes_first_and_the_rest_is_spare(bench: Bench) -> None:
    index = three_platforms()
    digest = bench.supply.add(index)
    arm64 = index.children[1]
    job, pusher = new_job(digest, "v1", children=[arm64.digest]), bench.pusher()

    assert (await pusher.push(job)).more
    assert bench.stored() == {arm64.digest}
    assert {spare for _, spare in bench.supply.opened} == {False}

    bench.supply.opened.clear()
    job.spare = True
    assert not (await pusher.push(job)).more
    assert bench.missing("v1") == []
    assert {spare for _, spare in bench.supply.opened} == {True}


async def test_spare_images_leave_upstream_s_rate_limit_to_clients(bench: Bench) -> None:
    index = three_platforms()
    job = new_job(bench.supply.add(index), "v1", children=[index.children[0].digest])
    bench.supply.reserved = True

    with pytest.raises(QuotaReserved):
        await bench.push(job)
    assert bench.stored() == {index.children[0].digest}

    bench.supply.reserved = False
    await bench.push(job)
    assert bench.missing("v1") == []


async def test_only_pulled_platforms_are_pushed_until_the_last_one_brings_the_index(bench: Bench) -> None:
    index = three_platforms()
    digest = bench.supply.add(index)
    pulled: list[str] = []
    for count, child in enumerate(index.children[:2], start=1):
        pulled.append(child.digest)
        pushed = await bench.push(new_job(digest, "v1", children=pulled), bench.pusher("pulled"))
        assert pushed.note == f"the index stays on disk only: {count} of 3 platforms are pushed"
        assert bench.stored() == set(pulled)

    pulled.append(index.children[2].digest)
    pushed = await bench.push(new_job(digest, "v1", children=pulled), bench.pusher("pulled"))

    assert pushed.note == ""
    assert bench.missing("v1") == []


async def test_listed_platforms_are_pushed_and_the_index_where_the_others_are_there(bench: Bench) -> None:
    index = three_platforms(attested=True)
    digest = bench.supply.add(index)
    amd64, arm64, s390x, *attestations = index.children

    pushed = await bench.push(new_job(digest, "v1"), bench.pusher(("linux/amd64", "linux/arm64")))
    assert pushed.note == "the index stays on disk only: 2 of 3 platforms are pushed"
    assert bench.stored() == {image.digest for image in (amd64, arm64, *attestations[:2])}

    for other in (s390x, attestations[2]):
        bench.cloud.registry().add(other, NAME)
    assert (await bench.push(new_job(digest, "v1"), bench.pusher(("linux/amd64", "linux/arm64")))).note == ""
    assert bench.missing("v1") == []


async def test_a_tag_that_an_immutable_repository_has_stays_and_the_image_is_kept_by_its_digest(bench: Bench) -> None:
    old, new = bench.supply.add(small_image()), bench.supply.add(small_image(1))
    pusher = bench.pusher(mutability="IMMUTABLE")
    await bench.push(new_job(old, "v1"), pusher)
    job = new_job(new, "v1", "v2")

    pushed = await bench.push(job, pusher)

    assert bench.cloud.registry().repositories[NAME].tags == {"v1": old, "v2": new}
    assert bench.missing(old) == bench.missing(new) == []
    assert (job.tags, job.clashed) == ({"v2"}, {"v1"})
    assert "not under the tag v1" in pushed.note
    assert bench.metrics.ecr_tag_clashes.labels("prod")._value.get() == 1

    puts = len(bench.puts())
    assert "not under the tag v1" in (await bench.push(job, pusher)).note
    assert len(bench.puts()) == puts  # it is not tried again


async def test_an_image_whose_only_tag_clashes_is_kept_by_its_digest(bench: Bench) -> None:
    old, new = bench.supply.add(small_image()), bench.supply.add(small_image(1))
    pusher = bench.pusher(mutability="IMMUTABLE")
    await bench.push(new_job(old, "v1"), pusher)

    await bench.push(new_job(new, "v1"), pusher)

    assert bench.missing(new) == []


async def test_an_immutable_tag_whose_answer_got_lost_is_no_clash(bench: Bench) -> None:
    digest = bench.supply.add(small_image())
    bench.cloud.break_off("PutImage", done=True)
    job = new_job(digest, "v1")

    pushed = await bench.push(job, bench.pusher(mutability="IMMUTABLE"))

    assert bench.cloud.count("PutImage", outcome="ImageTagAlreadyExistsException") == 1
    assert (pushed.note, job.tags, job.clashed) == ("", {"v1"}, set())


async def test_signatures_and_referrers_of_an_index_and_its_images_go_along(bench: Bench) -> None:
    index = three_platforms()
    digest = bench.supply.add(index)
    child = index.children[2]
    for signed in (index, child):
        tag, signature = images.signature(signed)
        bench.supply.belong(signature, Digest.parse(signed.digest), tag)
    bom = images.artifact("application/spdx+json", [images.blob(b"bom")], subject=index)
    referrer = bench.supply.belong(bom, digest)

    pushed = await bench.push(new_job(digest, "v1"))

    assert pushed.note == ""
    for signed in (index, child):
        assert bench.missing(images.signature(signed)[0]) == []
    assert bench.missing(referrer) == []


async def test_a_signature_that_was_made_later_is_pushed_when_the_image_is_looked_at_again(bench: Bench) -> None:
    image = small_image()
    digest = bench.supply.add(image)
    await bench.push(new_job(digest, "v1"))
    tag, signature = images.signature(image)
    bench.supply.belong(signature, digest, tag)

    await bench.push(new_job(digest, "v1"))

    assert bench.missing(tag) == []


async def test_a_companion_that_fails_fails_nothing_else(bench: Bench) -> None:
    image = small_image()
    digest = bench.supply.add(image)
    lost = Digest.of(b"lost")
    bench.supply.belonging[digest] = [Companion(lost, Tag("lost.sig"))]
    tag, signature = images.signature(image)
    bench.supply.belong(signature, digest, tag)

    pushed = await bench.push(new_job(digest, "v1"))

    assert bench.missing("v1") == bench.missing(tag) == []
    assert f"upstream does not have the manifest {lost}" in pushed.note


async def test_a_companion_that_may_come_later_is_tried_again_some_times(bench: Bench) -> None:
    image = small_image()
    digest = bench.supply.add(image)
    tag, signature = images.signature(image)
    bench.supply.belong(signature, digest, tag)
    job = new_job(digest, "v1")
    bench.supply.unreachable.add(signature.digest)

    with pytest.raises(UpstreamUnreachable):
        await bench.push(job)
    assert bench.missing("v1") == []

    job.attempts = 3
    assert "a signature, attestation or referrer" in (await bench.push(job)).note


async def test_what_belongs_to_an_image_of_an_index_is_tried_again_although_the_index_is_there(bench: Bench) -> None:
    index = three_platforms()
    job = new_job(bench.supply.add(index), "v1", children=[index.children[0].digest])
    child = index.children[2]
    tag, signature = images.signature(child)
    bench.supply.belong(signature, Digest.parse(child.digest), tag)
    bench.supply.unreachable.add(signature.digest)

    with pytest.raises(UpstreamUnreachable):
        await bench.push(job)
    assert bench.missing("v1") == []
    assert bench.supply.asked.count((signature.digest, True)) == 1  # in one attempt

    bench.supply.unreachable.clear()
    assert (await bench.push(job)).note == ""
    assert bench.missing(tag) == []


async def test_a_missing_repository_is_created_as_the_target_says(bench: Bench) -> None:
    await bench.push(new_job(bench.supply.add(small_image())), bench.pusher(mutability="IMMUTABLE"))

    assert bench.cloud.count("CreateRepository", imageTagMutability="IMMUTABLE") == 1


async def test_a_repository_that_may_not_be_created_is_off(bench: Bench) -> None:
    bench.cloud.deny("CreateRepository")

    with pytest.raises(RepositoryOff, match=f"{NAME} does not exist, and cannot be created"):
        await bench.push(new_job(bench.supply.add(small_image())))


async def test_a_repository_that_vanishes_during_a_push_is_made_again(bench: Bench) -> None:
    image = small_image()
    stall = bench.cloud.stall("PutImage")
    push = asyncio.create_task(bench.push(new_job(bench.supply.add(image), "v1")))
    await wait_until_async(stall.reached.is_set, "the manifest is being put")

    del bench.cloud.registry().repositories[NAME]
    stall.release()
    await push

    assert bench.missing("v1") == []


async def test_a_type_that_ecr_does_not_take_is_rejected(bench: Bench) -> None:
    chart = images.chart()
    bench.cloud.refuse_media_type("application/vnd.cncf.helm.config.v1+json")

    with pytest.raises(Rejected):
        await bench.push(new_job(bench.supply.add(chart)))


async def test_an_empty_blob_is_rejected_with_the_reason(bench: Bench) -> None:
    image = images.image([images.blob(b"", images.OCI_LAYER)])

    with pytest.raises(Rejected, match="empty blob"):
        await bench.push(new_job(bench.supply.add(image)))


async def test_a_name_that_ecr_does_not_have_is_rejected_without_a_call(bench: Bench) -> None:
    pusher = make_pusher(
        make_api(bench.sessions, bench.cloud, target(repository_prefix="host:5000/")), bench.supply, bench.metrics
    )

    with pytest.raises(Rejected, match="repository_prefix"):
        await pusher.push(new_job(bench.supply.add(small_image())))

    assert bench.cloud.calls == []


async def test_what_upstream_does_not_give_is_said_as_it_is(bench: Bench) -> None:
    image = small_image()
    job = new_job(bench.supply.add(image))
    bench.supply.gone.add(image.blobs[1].digest)
    with pytest.raises(BlobUnknown):
        await bench.push(job)

    bench.supply.down = True
    with pytest.raises(UpstreamUnreachable):
        await bench.push(job)
    assert bench.cloud.count("PutImage") == 0


async def test_an_index_that_names_strange_digests_is_rejected(bench: Bench) -> None:
    entry = {"mediaType": images.OCI_MANIFEST, "digest": f"sha512:{'a' * 128}", "size": 9}
    document = {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [entry]}
    index = images.Manifest(images.OCI_INDEX, json.dumps(document).encode())

    with pytest.raises(Rejected, match="sha256"):
        await bench.push(new_job(bench.supply.add(index)))


async def test_moto_has_the_same_after_the_same_push(bench: Bench, moto: str) -> None:
    index = three_platforms(attested=True)
    digest = bench.supply.add(index)
    tag, signature = images.signature(index)
    bench.supply.belong(signature, digest, tag)
    to = target(account="123456789012", endpoint_url=moto)  # the account that moto is
    api = Api(to, bench.sessions.client("ecr", to.region, None, moto), Quotas(), lambda *_: None)
    pusher = make_pusher(api, bench.supply, bench.metrics)

    await bench.push(new_job(digest, "v1"), pusher)

    wanted = {Digest.parse(part.digest) for part in index.walk()}
    found = await api.images(NAME, [*wanted, Tag("v1"), Tag(tag)])
    assert set(found) == wanted | {"v1", tag}
    assert found[Tag("v1")].digest == digest
    assert await api.missing_layers(NAME, [Digest.parse(blob) for blob in index.all_blobs()]) == set()
    again = new_job(digest, "v1")
    await bench.push(again, pusher)
    assert not again.pushed

"""The whole tier at work: from what was served to complete images in every target, over real boto3."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from proxy.ecr import courtesy as courtesy_module
from proxy.ecr import worker as worker_module
from proxy.ecr.courtesy import Courtesy
from proxy.ecr.former import retire
from proxy.ecr.queue import Queue
from proxy.ecr.recall import Recall
from proxy.ecr.session import Sessions
from proxy.ecr.supply import Pulled
from proxy.ecr.target import RepositoryTemplate, Target
from proxy.ecr.tier import EcrTier, JobStatus
from proxy.ecr.unfinished import Unfinished
from proxy.ecr.worker import Worker
from proxy.observe import surviving as surviving_module
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest
from proxy.oci.names import Reference, Repository, Tag
from tests.ecr.pond import (
    APP,
    NAME,
    MemorySupply,
    Notebook,
    make_api,
    make_pusher,
    served,
    small_image,
    target,
    three_platforms,
)
from tests.support import images
from tests.support.ecr import ACCOUNT, EcrDouble
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

DEV: Final = target("dev", region="eu-central-1")
PROD: Final = target("prod")


class Site:
    """A tier with all around it. What is `down` may be `up` again, with the same notebook."""

    def __init__(self, cloud: EcrDouble, sessions: Sessions) -> None:
        self.cloud = cloud
        self.sessions = sessions
        self.supply = MemorySupply()
        self.book = Notebook()
        self.serving = False
        self.cached: list[Pulled] = []

    @asynccontextmanager
    async def up(self, *targets: Target) -> AsyncIterator[EcrTier]:
        """A process, from its start to its end."""
        self.metrics = Metrics()
        held = self.book.read()
        self.queue = Queue(
            retire(held, {to.name for to in targets}, self.book, time.time()), self.book, time.time, settle=0
        )
        unfinished, recall = Unfinished(held, self.book), Recall(held, self.book, lambda: self.cached, time.time)
        apis = [make_api(self.sessions, self.cloud, to) for to in targets]
        tier = EcrTier(
            apis,
            self.supply,
            self.queue,
            unfinished,
            recall,
            busy=lambda: self.serving,
            metrics=self.metrics,
            clock=time.time,
        )
        run = asyncio.create_task(tier.run())
        try:
            yield tier
            assert not run.done()
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    def serve(self, tier: EcrTier, image: images.Manifest, tag: str = "v1", repository: Repository = APP) -> None:
        """A client pulls the image by its tag."""
        self.supply.add(image, repository)
        tier.observe(served(tag, image.digest, upstream=repository.upstream, repository=repository.path))

    def missing(self, reference: str, to: Target = PROD, name: str = NAME) -> list[str]:
        return self.cloud.registry(to.account, to.region).missing(name, reference)


@pytest.fixture
async def site(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    sessions = Sessions()
    yield Site(cloud, sessions)
    await sessions.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed jobs are tried again within hundredths of a second."""
    monkeypatch.setattr(worker_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(worker_module, "FIRST_MISS_PAUSE", 0.01)
    monkeypatch.setattr(worker_module, "LAST_PAUSE", 0.05)


async def settled(tier: EcrTier, what: Callable[[JobStatus], object], deadline: float = 20.0) -> list[JobStatus]:
    """The jobs, once this is true of all of them, and there are some."""

    def look() -> list[JobStatus]:
        jobs = tier.status().jobs
        return jobs if all(what(job) for job in jobs) else []

    return await wait_until_async(look, f"all jobs are as expected: {tier.status().jobs}", deadline)


async def done(tier: EcrTier, deadline: float = 20.0) -> list[JobStatus]:
    return await settled(tier, lambda job: job.state == "done", deadline)


async def test_what_is_pulled_stands_in_every_target_complete(site: Site) -> None:
    index = three_platforms(attested=True)
    async with site.up(DEV, PROD) as tier:
        site.serve(tier, index)
        jobs = await done(tier)

    assert site.missing("v1", DEV) == site.missing("v1", PROD) == []
    assert {(job.target, job.digest) for job in jobs} == {("dev", index.digest), ("prod", index.digest)}


async def test_the_status_is_json_and_counts(site: Site) -> None:
    async with site.up(PROD) as tier:
        site.serve(tier, small_image())
        await done(tier)
        status = json.loads(json.dumps(dataclasses.asdict(tier.status())))

    assert status["targets"] == [
        {
            "name": "prod",
            "registry": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com",
            "state": "ok",
            "queued": 0,
            "pushing": 0,
            "done": 1,
            "rejected": 0,
            "repositories_off": {},
        }
    ]
    (job,) = status["jobs"]
    assert (job["repository"], job["tags"], job["state"], job["next_try"]) == (str(APP), ["v1"], "done", None)
    text = site.metrics.render().decode()
    assert 'millpond_ecr_queue{state="done",target="prod"} 1.0' in text
    assert 'millpond_ecr_images_total{outcome="pushed",target="prod"} 1.0' in text


async def test_throttling_and_failures_of_a_tenth_of_the_calls_lose_nothing(site: Site) -> None:
    site.cloud.flaky(0.1, seed=7)
    made = [small_image(seed) for seed in range(12)]
    async with site.up(DEV, PROD) as tier:
        for number, image in enumerate(made):
            site.serve(tier, image, f"v{number}")
        await done(tier, 60)

    for number in range(len(made)):
        assert site.missing(f"v{number}", DEV) == site.missing(f"v{number}", PROD) == []


async def test_killed_at_any_moment_it_goes_on_until_all_is_complete(site: Site, impatient: None) -> None:
    chance = random.Random(4)
    made = [three_platforms(seed=seed) for seed in range(6)]
    async with site.up(DEV, PROD) as tier:
        for number, image in enumerate(made):
            site.serve(tier, image, f"v{number}")
    for _ in range(8):
        calls = len(site.cloud.calls) + chance.randrange(1, 30)
        async with site.up(DEV, PROD) as tier:
            await wait_until_async(
                lambda tier=tier, calls=calls: (  # type: ignore[misc]
                    len(site.cloud.calls) >= calls or not any(t.queued + t.pushing for t in tier.status().targets)
                ),
                "some calls are made",
            )
    async with site.up(DEV, PROD) as tier:
        jobs = await done(tier, 60)

    assert len(jobs) == 2 * len(made)
    for number in range(len(made)):
        assert site.missing(f"v{number}", DEV) == site.missing(f"v{number}", PROD) == []
    assert site.cloud.violations == []


async def test_layers_that_two_images_share_are_sent_once(site: Site) -> None:
    shared = images.blob(b"shared" * 200, images.OCI_LAYER)
    made = [images.image([shared, images.blob(text * 200, images.OCI_LAYER)]) for text in (b"one", b"two", b"three")]
    async with site.up(PROD) as tier:
        for number, image in enumerate(made):
            site.serve(tier, image, f"v{number}")
        await done(tier)

    assert [digest for digest, _ in site.supply.opened].count(shared.digest) == 1


async def test_a_target_that_refuses_everything_is_asked_seldom_and_the_others_go_on(site: Site) -> None:
    site.cloud.fail("*", "AccessDeniedException", 10_000, region=PROD.region)
    async with site.up(DEV, PROD) as tier:
        for seed in range(12):
            site.serve(tier, small_image(seed), f"v{seed}", Repository("docker.io", f"library/app{seed}"))
        await wait_until_async(lambda: tier.status().targets[0].done == 12, "dev has all")
        await wait_until_async(lambda: tier.status().targets[1].pushing == 0, "prod waits")
        calls = site.cloud.count("BatchGetImage", region=PROD.region)
        prod = tier.status().targets[1]

        site.cloud.behave()
        assert tier.retry("prod") == 12
        await done(tier)
        healed = tier.status().targets[1]

    assert calls <= worker_module.JOBS
    assert "millpond ecr plan" in prod.state
    assert prod.queued == 12
    assert healed.state == "ok"


async def test_a_repository_that_may_not_be_created_is_shown_and_holds_up_nothing_else(site: Site) -> None:
    site.cloud.deny("CreateRepository", resource=NAME)
    async with site.up(PROD) as tier:
        site.serve(tier, small_image(1))
        site.serve(tier, small_image(2), repository=Repository("docker.io", "library/other"))
        await wait_until_async(lambda: tier.status().targets[0].repositories_off, "it is shown")
        await wait_until_async(lambda: tier.status().targets[0].done == 1, "the other one is there")
        status = tier.status()

        site.cloud.behave()
        assert tier.retry() == 1
        await done(tier)

    assert status.targets[0].state == "ok"
    assert list(status.targets[0].repositories_off) == [NAME]
    assert "cannot be created" in status.jobs[0].reason
    assert (status.jobs[0].next_try or 0) > 60
    assert site.missing("v1") == []


async def test_a_key_that_cannot_be_used_is_shown_and_holds_up_its_repository_alone(site: Site) -> None:
    async with site.up(PROD) as tier:
        site.cloud.fail("InitiateLayerUpload", "KmsException", fields={"kmsError": "DisabledException"})
        site.serve(tier, small_image(1))
        await wait_until_async(lambda: any(job.reason for job in tier.status().jobs), "the key is refused")
        site.serve(tier, small_image(2), repository=Repository("docker.io", "library/other"))
        await wait_until_async(lambda: tier.status().targets[0].done == 1, "the other one is there")
        status = tier.status()
        assert tier.retry() == 1
        await done(tier)

    assert status.targets[0].state == "ok", "the target as a whole is not to blame"
    assert "check that the repository's KMS key exists" in status.jobs[0].reason
    assert (status.jobs[0].next_try or 0) > 60
    assert site.missing("v1") == []


async def test_what_ecr_rejects_is_shown_with_its_reason_and_tried_again_on_demand_only(site: Site) -> None:
    chart = images.chart()
    site.cloud.refuse_media_type("application/vnd.cncf.helm.config.v1+json")
    async with site.up(PROD) as tier:
        site.serve(tier, chart)
        (job,) = await settled(tier, lambda job: job.state == "rejected")
        puts = site.cloud.count("PutImage")
    async with site.up(PROD) as tier:
        site.serve(tier, chart)
        site.serve(tier, small_image(), "v2")
        await wait_until_async(lambda: tier.status().targets[0].done == 1, "another image is there")
        assert site.cloud.count("PutImage") == puts + 1

        site.cloud._refused_media_types.clear()  # the double has no word for this
        assert tier.retry(image=f"{APP}:v3") == 0
        assert tier.retry(image=f"{APP}:v1") == 1
        await done(tier)

    assert len(job.reason) > 40
    assert job.next_try is None
    assert site.missing("v1") == []


async def test_a_blob_that_upstream_does_not_have_is_given_up_after_some_tries(site: Site, impatient: None) -> None:
    image = small_image()
    site.supply.gone.add(image.blobs[1].digest)
    async with site.up(PROD) as tier:
        site.serve(tier, image)
        (job,) = await settled(tier, lambda job: job.state == "rejected")

    opened = [digest for digest, _ in site.supply.opened]
    assert opened.count(image.blobs[1].digest) == worker_module.MISSES
    assert "upstream does not have the blob" in job.reason


async def test_while_upstream_is_down_a_job_waits_longer_and_longer_and_never_gives_up(
    site: Site, impatient: None
) -> None:
    site.supply.down = True
    async with site.up(PROD) as tier:
        site.serve(tier, small_image())
        jobs = await settled(tier, lambda job: job.attempts > 2 * worker_module.MISSES)
        site.supply.down = False
        await done(tier)

    assert "upstream is down" in jobs[0].reason
    assert site.missing("v1") == []


async def test_a_job_that_upstream_s_rate_limit_holds_up_says_so_and_goes_on(site: Site) -> None:
    index = three_platforms()
    site.supply.reserved = True
    async with site.up(PROD) as tier:
        site.serve(tier, index)
        tier.observe(served(index.children[0].digest, index.children[0].digest))
        (job,) = await settled(tier, lambda job: "rate limit of docker.io" in job.note)
        there = site.missing(index.children[0].digest)

        site.supply.reserved = False
        tier.retry()
        await done(tier)

    assert there == []
    assert (job.state, job.reason, job.attempts) == ("queued", "", 0)
    assert (job.next_try or 0) > 60
    assert site.missing("v1") == []


async def test_a_tag_that_clashes_is_shown_and_tried_again_on_demand(site: Site) -> None:
    to = target(repository=RepositoryTemplate(tag_mutability="IMMUTABLE"))
    old, new = small_image(), small_image(1)
    async with site.up(to) as tier:
        site.serve(tier, old)
        await done(tier)
        site.serve(tier, new)
        jobs = await done(tier)
        puts = site.cloud.count("PutImage")
        site.serve(tier, new)
        await done(tier)
        assert site.cloud.count("PutImage") == puts

        site.cloud.registry().repositories[NAME].tags.clear()
        assert tier.retry(image=f"{APP}@{new.digest}") == 1
        await done(tier)

    assert [job.digest for job in jobs if "not under the tag v1" in job.note] == [new.digest]
    assert site.missing(old.digest) == site.missing("v1") == []


async def test_a_tag_that_is_pulled_during_the_push_is_pushed_as_well(site: Site) -> None:
    image = small_image()
    stall = site.cloud.stall("PutImage")
    async with site.up(PROD) as tier:
        site.serve(tier, image)
        await wait_until_async(stall.reached.is_set, "the push is at its end")
        site.serve(tier, image, "v2")
        stall.release()
        await wait_until_async(lambda: site.missing("v2") == [], "the other tag is there")
        await done(tier)

    assert site.missing("v1") == []


async def test_a_defect_in_one_push_leaves_the_others_alone(site: Site) -> None:
    broken = small_image(5)

    class Defective(MemorySupply):
        async def manifest(self, repository: Repository, reference: Reference, *, spare: bool) -> Manifest:
            if reference == broken.digest:
                raise KeyError("a defect")
            return await super().manifest(repository, reference, spare=spare)

    site.supply = Defective()
    async with site.up(PROD) as tier:
        site.serve(tier, broken)
        await wait_until_async(lambda: tier.status().jobs[0].attempts, "it has failed")
        site.serve(tier, small_image(), "v2")
        await wait_until_async(lambda: site.missing("v2") == [], "the other one is there")
        failed = tier.status().jobs[0]

    assert failed.reason == "something unexpected happened (KeyError); the log says more"


async def test_a_defect_of_the_loop_itself_is_survived_and_no_job_gets_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B: neither the program nor the other targets end with it."""
    monkeypatch.setattr(surviving_module, "AGAIN_SECONDS", 0.01)
    stall = site.cloud.stall("PutImage")
    async with site.up(DEV, PROD) as tier:
        site.serve(tier, small_image(), "v1")
        await wait_until_async(stall.reached.is_set, "a push is under way")
        with monkeypatch.context() as defect:
            # What the loop trips over; it is between two jobs, with one under way.
            defect.setattr(site.queue.lane(PROD.name), "_take", None)
            site.serve(tier, small_image(1), "v2", Repository("docker.io", "library/other"))
            await wait_until_async(lambda: tier.status().targets[1].pushing == 0, "the loop has ended")
        stall.release()
        jobs = await done(tier)

    assert len(jobs) == 4
    assert site.missing("v1") == site.missing("v1", DEV) == []
    assert site.missing("v2", name="docker.io/library/other") == []


async def test_jobs_that_are_ended_before_they_have_begun_go_back_to_their_lane(site: Site) -> None:
    image = small_image()
    site.supply.add(image)
    api = make_api(site.sessions, site.cloud, PROD)
    queue = Queue({}, site.book, time.time, settle=0)
    worker = Worker(
        make_pusher(api, site.supply, Metrics()),
        queue,
        Courtesy(lambda: True),  # they wait for quiet, where the end meets them
        Metrics(),
        clock=time.time,
        chance=lambda: 0.0,
        pushed=lambda *_: None,
    )
    queue.add("prod", APP, Digest.parse(image.digest), Tag("v1"))
    run = asyncio.create_task(worker.run())
    lane = queue.lane("prod")
    await wait_until_async(lambda: lane._busy, "the job is taken")
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)

    async with asyncio.timeout(5):
        again = await lane.next()
    assert again.digest == image.digest
    assert site.cloud.calls == []


async def test_a_defect_behind_a_response_is_not_the_client_s_affair(site: Site) -> None:
    class Defective(MemorySupply):
        def known(self, repository: Repository, digest: Digest) -> Manifest | None:
            if digest == broken.digest:
                raise KeyError("a defect")
            return super().known(repository, digest)

    broken = small_image(5)
    site.supply = Defective()
    async with site.up(PROD) as tier:
        site.serve(tier, broken)
        site.serve(tier, small_image(), "v2")
        await wait_until_async(lambda: site.missing("v2") == [], "the other one is there")


async def test_a_push_on_demand_goes_to_every_target_and_can_be_followed(site: Site) -> None:
    digest = site.supply.add(small_image())
    async with site.up(DEV, PROD) as tier:
        keys = tier.push(APP, digest, Tag("v1"))
        await wait_until_async(lambda: [_state(tier, key) for key in keys] == ["done", "done"], "both are there")
        assert tier.job("prod nothing") is None

    assert site.missing("v1", DEV) == site.missing("v1", PROD) == []


async def test_a_push_goes_on_slowly_while_clients_are_served(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courtesy_module, "PACE", 10_000)
    image = images.image([images.blob(b"".join(images.noise(5000, seed)), images.OCI_LAYER) for seed in (1, 2)])
    site.serving = True
    async with site.up(PROD) as tier:
        site.serve(tier, image)
        await done(tier)

    times = [call.time for call in site.cloud.calls if call.operation == "UploadLayerPart"]
    assert len(times) == 3  # with the config, whose share is small
    assert max(times) - min(times) > 0.4
    assert site.missing("v1") == []


def _state(tier: EcrTier, key: str) -> Any:
    job = tier.job(key)
    return job and job.state


async def test_what_the_cache_has_without_a_job_is_pushed_after_a_kill_and_not_after_an_orderly_end(site: Site) -> None:
    forgotten, first, second = (small_image(seed) for seed in range(3))
    async with site.up(PROD) as tier:
        site.serve(tier, first)
        await settled(tier, lambda job: job.state == "done")
    site.cached = [Pulled(APP, site.supply.add(forgotten), None, time.time())]
    async with site.up(PROD) as tier:
        site.serve(tier, second, "v2")
        jobs = await settled(tier, lambda job: job.state == "done")
        assert {job.digest for job in jobs} == {first.digest, second.digest}
    site.book.note("!ended", None)  # as if the last process had not come to that
    async with site.up(PROD):
        await wait_until_async(lambda: not site.missing(forgotten.digest), "it has been pushed")

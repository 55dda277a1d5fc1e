"""What a kill has made the queue forget is found again; an orderly end forgets nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.ecr.intake import Intake
from proxy.ecr.job import Job
from proxy.ecr.queue import Queue
from proxy.ecr.recall import LOOK_BACK, Recall
from proxy.ecr.supply import Pulled
from proxy.ecr.target import Target
from proxy.oci.digest import Digest
from proxy.oci.names import Repository, Tag
from tests.ecr.pond import APP, Clock, MemorySupply, Notebook, served, small_image, target, three_platforms
from tests.support import images

pytestmark = pytest.mark.anyio

V1 = Tag("v1")
IMAGE, OTHER, INDEX = small_image(), small_image(1), three_platforms()


class Site:
    """Processes over one notebook, beside a cache."""

    def __init__(self, *targets: Target) -> None:
        self.targets = targets or (target(),)
        self.clock = Clock()
        self.book = Notebook()
        self.supply = MemorySupply()
        self.cached: list[Pulled] = []
        self.begin()

    def begin(self) -> None:
        """A process starts."""
        held = self.book.read()
        self.recall = Recall(held, self.book, lambda: self.cached, self.clock)
        self.queue = Queue(
            {key: record for key, record in held.items() if not key.startswith("!")}, self.book, self.clock, settle=0
        )
        self.intake = Intake(self.targets, self.supply, self.queue, self.clock)

    async def begin_after_a_kill(self) -> None:
        self.begin()
        await self.recall.run(self.intake, self.supply)

    def cache(self, image: images.Manifest, tag: Tag | None = V1, repository: Repository = APP) -> None:
        """Have the image in the cache, as confirmed or used at this moment."""
        digest = self.supply.add(image, repository)
        children = tuple(Digest.parse(child.digest) for child in image.children)
        self.cached = [one for one in self.cached if (one.repository, one.tag) != (repository, tag) or tag is None]
        self.cached.append(Pulled(repository, digest, tag, self.clock(), children))
        if tag is not None:
            self.supply.manifests[repository, tag] = self.supply.manifests[repository, digest]

    def pull(self, image: images.Manifest, item: str = V1) -> None:
        self.cache(image, Tag(item) if ":" not in item else None)
        self.intake.observe(served(item, image.digest))

    def job(self, image: images.Manifest, name: str = "prod") -> Job | None:
        return self.queue.get(name, APP, Digest.parse(image.digest))

    def tags(self, image: images.Manifest, name: str = "prod") -> set[Tag]:
        job = self.job(image, name)
        assert job is not None
        return job.tags


@pytest.mark.parametrize("tag", [V1, None])
async def test_an_image_that_was_pulled_and_not_noted_becomes_a_job_of_each_target(tag: Tag | None) -> None:
    site = Site(target("dev"), target("prod"), target("else", upstreams=frozenset({"ghcr.io"})))
    site.cache(IMAGE, tag)
    await site.begin_after_a_kill()
    for name in ("dev", "prod"):
        assert site.tags(IMAGE, name) == ({V1} if tag else set())
    assert site.job(IMAGE, "else") is None


async def test_what_is_noted_is_left_as_it_is() -> None:
    site = Site()
    site.pull(IMAGE)
    site.pull(OTHER, OTHER.digest)
    before = site.book.read()
    site.clock.now += 10
    await site.begin_after_a_kill()
    assert site.book.read() == before


async def test_a_move_of_a_tag_that_was_not_noted_is_one_now() -> None:
    site = Site()
    site.pull(OTHER)
    site.clock.now += 10
    site.cache(IMAGE)
    await site.begin_after_a_kill()
    assert (site.tags(IMAGE), site.tags(OTHER)) == ({V1}, set())


async def test_a_tag_is_not_taken_from_a_newer_pull() -> None:
    """As when the cache has forgotten the tag, and a target has said meanwhile where it used to point."""
    site = Site()
    site.cache(OTHER)
    site.clock.now += 10
    site.intake.observe(served(V1, IMAGE.digest))
    await site.begin_after_a_kill()
    assert site.tags(IMAGE) == {V1}
    assert site.job(OTHER) is None


async def test_only_the_last_hour_of_the_process_that_was_killed_counts_however_long_ago_it_was() -> None:
    site = Site()
    site.cache(OTHER, Tag("old"))
    site.clock.now += LOOK_BACK + 1
    site.cache(IMAGE)
    site.clock.now += 30 * 86_400
    await site.begin_after_a_kill()
    assert site.tags(IMAGE) == {V1}
    assert site.job(OTHER) is None


async def test_a_moment_that_lies_ahead_hides_no_other() -> None:
    site = Site()
    site.cache(IMAGE)
    site.cached.append(Pulled(APP, Digest.parse(OTHER.digest), None, site.clock() + 1e9))
    await site.begin_after_a_kill()
    assert site.tags(IMAGE) == {V1}


async def test_after_an_orderly_end_nothing_is_looked_for() -> None:
    site = Site()
    await site.begin_after_a_kill()
    site.cache(IMAGE)
    site.recall.ended()
    await site.begin_after_a_kill()
    assert site.job(IMAGE) is None
    await site.begin_after_a_kill()
    assert site.tags(IMAGE) == {V1}, "the word of an end is of that end only"


async def test_an_end_before_all_was_found_leaves_it_to_the_next_start() -> None:
    site = Site()
    site.cache(IMAGE)
    site.recall.ended()
    await site.begin_after_a_kill()
    assert site.tags(IMAGE) == {V1}


async def test_a_name_stands_for_what_a_client_would_get_by_it() -> None:
    """A tag that is held back by its cooldown points, in the cache, at what nobody is given yet."""
    site = Site()
    site.cache(IMAGE)
    site.supply.manifests[APP, V1] = site.supply.manifests[APP, site.supply.add(OTHER)]
    await site.begin_after_a_kill()
    assert site.tags(OTHER) == {V1}
    assert site.job(IMAGE) is None


async def test_an_image_that_cannot_be_had_keeps_no_other_from_being_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = Site()
    site.cache(OTHER, Tag("gone"))
    site.cache(IMAGE)
    site.supply.gone.add("gone")
    await site.begin_after_a_kill()
    assert site.tags(IMAGE) == {V1}
    assert site.job(OTHER) is None
    assert "docker.io/library/app:gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("targets", "children"),
    [
        ([target(platforms="pulled")], 3),
        ([target(platforms="pulled"), target("dev")], 0),
        ([target()], 0),
    ],
    ids=["pulled", "pulled beside all", "all"],
)
@pytest.mark.parametrize("noted", [True, False])
async def test_platforms_that_are_cached_count_as_pulled_where_nothing_but_pulls_brings_them(
    targets: Sequence[Target], children: int, noted: bool
) -> None:
    """Where another target gets all of them, they may be there for that."""
    site = Site(*targets)
    if noted:
        site.intake.observe(served(V1, INDEX.digest))
    site.cache(INDEX)
    await site.begin_after_a_kill()
    job = site.job(INDEX)
    assert job is not None
    assert len(job.children) == children

"""What a client was served becomes jobs."""

from __future__ import annotations

import pytest

from proxy.ecr import intake as intake_module
from proxy.ecr.intake import TAG_SECONDS, Intake
from proxy.ecr.job import Job
from proxy.ecr.queue import RECHECK_SECONDS, Queue
from proxy.oci.digest import Digest
from proxy.oci.names import Tag
from tests.ecr.pond import APP, Clock, MemorySupply, Notebook, served, small_image, target, three_platforms
from tests.support import images


class Desk:
    """An intake with all around it, for one target by default."""

    def __init__(self, *targets: object, platforms: object = "all") -> None:
        self.clock = Clock()
        self.supply = MemorySupply()
        self.queue = Queue({}, Notebook(), self.clock, settle=0)
        made = targets or (target(platforms=platforms),)
        self.intake = Intake(made, self.supply, self.queue, self.clock)  # type: ignore[arg-type]

    def serve(self, item: str, image: images.Manifest, **changes: object) -> None:
        self.intake.observe(served(item, image.digest, **changes))

    def jobs(self) -> dict[str, Job]:
        """By the short form of their keys: target and digest."""
        found = (self.queue.find(key) for key in self.queue.everything())
        return {f"{job.target} {job.digest}": job for job in found if job is not None}

    def job(self, image: images.Manifest) -> Job:
        return self.jobs()[f"prod {image.digest}"]

    def finish(self, image: images.Manifest) -> None:
        job = self.job(image)
        self.queue.finish(job, self.queue.begin(job), "")


IMAGE = small_image()
INDEX = three_platforms()


def test_an_image_that_is_pulled_by_its_tag_is_a_job_of_each_target() -> None:
    desk = Desk(target("dev"), target("prod"), target("else", upstreams=frozenset({"ghcr.io"})))

    desk.serve("v1", IMAGE)

    assert set(desk.jobs()) == {f"dev {IMAGE.digest}", f"prod {IMAGE.digest}"}
    assert desk.job(IMAGE).tags == {Tag("v1")}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "blobs"},
        {"kind": "tags"},
        {"status": 404},
        {"status": 304},
        {"method": "HEAD"},
        {"outcome": "client left"},
        {"outcome": "aborted"},
        {"digest": ""},
        {"upstream": "ghcr.io"},
    ],
)
def test_nothing_else_makes_a_job(changes: dict[str, object]) -> None:
    desk = Desk()
    desk.intake.observe(served("v1", IMAGE.digest, **changes))

    assert desk.jobs() == {}


def test_a_head_of_the_tag_gives_the_pull_by_digest_that_follows_its_tag() -> None:
    desk = Desk()

    desk.serve("v1", IMAGE, method="HEAD")
    desk.serve(IMAGE.digest, IMAGE)

    assert desk.job(IMAGE).tags == {Tag("v1")}


def test_a_head_of_long_ago_gives_no_tag() -> None:
    desk = Desk()

    desk.serve("v1", IMAGE, method="HEAD")
    desk.clock.now += TAG_SECONDS + 1
    desk.serve(IMAGE.digest, IMAGE)

    assert desk.job(IMAGE).tags == set()


def test_a_tag_that_has_moved_on_is_not_given_to_its_old_image() -> None:
    desk = Desk()
    newer = small_image(1)

    desk.serve("v1", IMAGE, method="HEAD")
    desk.serve("v1", newer)
    desk.serve(IMAGE.digest, IMAGE)

    assert desk.job(IMAGE).tags == set()
    assert desk.job(newer).tags == {Tag("v1")}


def test_a_moved_tag_moves_even_where_a_client_needs_nothing_but_the_head() -> None:
    desk = Desk()
    older = small_image(1)
    desk.serve("v1", older)
    desk.serve("v2", IMAGE)
    desk.finish(older)
    desk.finish(IMAGE)

    desk.serve("v1", IMAGE, method="HEAD")

    assert (desk.job(IMAGE).state, desk.job(IMAGE).tags) == ("queued", {Tag("v1"), Tag("v2")})
    assert desk.job(older).tags == set()


def test_the_platform_of_an_index_is_no_job_of_its_own() -> None:
    desk = Desk()
    desk.supply.add(INDEX)

    desk.serve("v1", INDEX, method="HEAD")
    desk.serve(INDEX.digest, INDEX)
    desk.serve(INDEX.children[1].digest, INDEX.children[1])

    assert set(desk.jobs()) == {f"prod {INDEX.digest}"}
    assert desk.job(INDEX).children == {INDEX.children[1].digest}
    assert desk.job(INDEX).tags == {Tag("v1")}


def test_a_platform_that_is_pulled_by_a_tag_or_before_any_index_is_an_image_of_its_own() -> None:
    desk = Desk()
    child, other = INDEX.children[:2]
    desk.serve(child.digest, child)
    desk.supply.add(INDEX)
    desk.serve("v1", INDEX)
    desk.serve("v1-arm64", other)

    assert set(desk.jobs()) == {f"prod {image.digest}" for image in (child, INDEX, other)}


def test_a_platform_that_two_indexes_share_is_a_child_of_both() -> None:
    desk = Desk()
    moved = images.index(INDEX.children[:2])
    for item, index in (("v1", INDEX), ("v2", moved)):
        desk.supply.add(index)
        desk.serve(item, index)

    desk.serve(INDEX.children[0].digest, INDEX.children[0])

    assert desk.job(INDEX).children == desk.job(moved).children == {INDEX.children[0].digest}


@pytest.mark.parametrize(("platforms", "state"), [("pulled", "queued"), ("all", "done"), (("linux/arm64",), "done")])
def test_a_further_platform_of_a_done_index_begins_it_again_where_it_matters(platforms: object, state: str) -> None:
    desk = Desk(platforms=platforms)
    desk.supply.add(INDEX)
    desk.serve("v1", INDEX)
    desk.finish(INDEX)

    desk.serve(INDEX.children[0].digest, INDEX.children[0])

    assert desk.job(INDEX).state == state


def test_what_was_done_long_ago_is_looked_at_again_when_it_is_pulled() -> None:
    desk = Desk()
    desk.serve("v1", IMAGE)
    desk.finish(IMAGE)

    desk.serve("v1", IMAGE)
    assert desk.job(IMAGE).state == "done"
    desk.clock.now += RECHECK_SECONDS + 1
    desk.serve("v1", IMAGE)

    assert desk.job(IMAGE).state == "queued"


def test_an_image_by_sha512_is_rejected_with_the_reason() -> None:
    desk = Desk()
    digest = Digest.of(IMAGE.body, "sha512")

    desk.intake.observe(served("v1", digest))

    (job,) = desk.jobs().values()
    assert job.state == "rejected"
    assert "sha256 digests only" in job.reason


def test_a_push_on_demand_begins_at_once_whatever_has_failed() -> None:
    desk = Desk(target("dev"), target("prod"))
    digest = Digest.parse(IMAGE.digest)
    desk.serve("v1", IMAGE)
    desk.queue.reject(desk.job(IMAGE), "too large")

    keys = desk.intake.add(APP, digest, Tag("v2"), at_once=True)

    assert keys == [f"dev {APP} {digest}", f"prod {APP} {digest}"]
    assert (desk.job(IMAGE).state, desk.job(IMAGE).tags) == ("queued", {Tag("v1"), Tag("v2")})


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MAX_TAGS", 3)
    monkeypatch.setattr(intake_module, "MAX_CHILDREN", 4)
    desk = Desk()
    other = three_platforms(seed=1)
    for index in (INDEX, other):
        desk.supply.add(index)
        desk.serve("v1", index)
    for number in range(4):
        desk.serve(f"t{number}", IMAGE, method="HEAD")

    desk.serve(IMAGE.digest, IMAGE)
    desk.serve(INDEX.children[0].digest, INDEX.children[0])
    desk.serve(other.children[0].digest, other.children[0])

    assert desk.job(IMAGE).tags == {Tag("t1"), Tag("t2"), Tag("t3")}
    assert f"prod {INDEX.children[0].digest}" in desk.jobs()
    assert desk.job(other).children == {other.children[0].digest}


@pytest.mark.parametrize("origin", ["ecr", "joined", "stale"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_tag_that_upstream_has_not_confirmed_is_not_taken_off_a_newer_image(method: str, origin: str) -> None:
    """Where it pointed when upstream was last heard of: the image is to be there, the tag stays with the newer one."""
    desk, newer = Desk(), small_image(1)
    desk.serve("v1", IMAGE)
    desk.serve("v1", newer)

    desk.serve("v1", IMAGE, method=method, origin=origin, confirmed=False)

    assert desk.job(newer).tags == {Tag("v1")}
    assert desk.job(IMAGE).tags == set()


def test_a_tag_that_upstream_has_confirmed_moves_whoever_gave_the_bytes() -> None:
    desk, newer = Desk(), small_image(1)
    desk.serve("v1", IMAGE)

    desk.serve("v1", newer, origin="ecr")

    assert desk.job(newer).tags == {Tag("v1")}

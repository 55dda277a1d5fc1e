"""One durable job for each image and target."""

from __future__ import annotations

import asyncio

import pytest

from proxy.ecr import queue as queue_module
from proxy.ecr.job import Job
from proxy.ecr.queue import RECHECK_SECONDS, SETTLE_SECONDS, Queue
from proxy.oci.digest import Digest
from proxy.oci.names import Repository, Tag
from tests.ecr.pond import APP, Clock, Notebook

pytestmark = pytest.mark.anyio

A, B, C = (Digest.of(letter) for letter in (b"a", b"b", b"c"))
LATEST, V1 = Tag("latest"), Tag("v1")
OTHER = Repository("docker.io", "library/other")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book() -> Notebook:
    return Notebook()


@pytest.fixture
def queue(book: Notebook, clock: Clock) -> Queue:
    return Queue({}, book, clock, settle=0)


def added(
    queue: Queue, digest: Digest = A, tag: Tag | None = None, repository: Repository = APP, target: str = "prod"
) -> Job:
    job = queue.add(target, repository, digest, tag)
    assert job is not None
    return job


def everything(_: Job) -> bool:
    return True


async def pushed(queue: Queue, note: str = "", target: str = "prod") -> Job:
    """The next job, done."""
    job = await queue.lane(target).next()
    queue.finish(job, queue.begin(job), note)
    queue.lane(target).free(job.repository)
    return job


def test_however_many_pulls_make_one_job_for_each_target(queue: Queue, book: Notebook) -> None:
    jobs = {added(queue, A, tag, target=name) for tag in (LATEST, V1, None) for name in ("dev", "prod")}

    assert len(jobs) == 2
    assert set(book.written) == {f"dev docker.io/library/app {A}", f"prod docker.io/library/app {A}"}
    assert all(job.tags == {LATEST, V1} for job in jobs)


async def test_a_queue_that_was_killed_goes_on_with_all_that_was_not_done(
    queue: Queue, book: Notebook, clock: Clock
) -> None:
    added(queue, A, LATEST)
    await pushed(queue, "kept by digest")
    under_way = added(queue, B, V1)
    queue.begin(await queue.lane("prod").next())
    waiting = added(queue, C, repository=OTHER)
    queue.hold(waiting, clock() + 60, reason="ECR cannot be reached")
    rejected = added(queue, B, repository=OTHER)
    queue.reject(rejected, "too large")

    again = Queue(book.read(), Notebook(), clock)

    assert [job.key for job in again.of("prod", "queued")] == [under_way.key, waiting.key]
    assert (await again.lane("prod").next()).key == under_way.key
    assert [(job.key, job.reason) for job in again.of("prod", "rejected")] == [(rejected.key, "too large")]
    done = again.find(f"prod {APP} {A}")
    assert done is not None
    assert (done.state, done.tags, done.note) == ("done", {LATEST}, "kept by digest")


def test_all_that_is_written_of_a_job_is_read_again(queue: Queue, book: Notebook, clock: Clock) -> None:
    job = added(queue, A, LATEST)
    queue.add("prod", APP, A, V1, child=C)
    job.clash(V1)
    job.attempts, job.misses = 7, 3
    queue.hold(job, clock() + 9, reason="a reason", note="a note")

    again = Queue(book.read(), Notebook(), clock)

    assert again.everything() == queue.everything() == book.read()
    found = again.find(job.key)
    assert found is not None
    assert (found.attempts, found.misses, found.children, found.clashed) == (7, 3, {C}, {V1})


@pytest.mark.parametrize(
    ("key", "record"),
    [
        ("prod docker.io/x", [1]),
        ("prod docker.io/x sha256:1", []),
        (f"prod docker.io/UP {A}", [1, "queued", 0, 0, 0, 0, 0, "", "", [], [], []]),
        (f"prod docker.io/x {A}", [1, "unheard of", 0, 0, 0, 0, 0, "", "", [], [], []]),
        (f"prod docker.io/x {A}", [0, "queued", 0, 0, 0, 0, 0, "", "", [], [], []]),
        (f"prod docker.io/x {A}", [1, "queued", None, 0, 0, 0, 0, "", "", [], [], []]),
        (f"prod docker.io/x {A}", [1, "queued", 0, 0, 0, 0, 0, "", "", ["no tag!"], [], []]),
        (f"prod docker.io/x {A}", [1, "queued", 0, 0, 0, 0, 0, "", "", 5, [], []]),
    ],
)
def test_a_record_that_makes_no_sense_is_dropped(key: str, record: list[object], clock: Clock) -> None:
    book = Notebook()
    book.note(key, record)

    queue = Queue({key: record}, book, clock)

    assert queue.everything() == {}
    assert book.written == {}


def test_a_tag_belongs_to_its_newest_pull(queue: Queue, book: Notebook) -> None:
    older = added(queue, A, LATEST)
    elsewhere = added(queue, A, LATEST, OTHER)
    newer = added(queue, B, LATEST)

    assert (older.tags, newer.tags, elsewhere.tags) == (set(), {LATEST}, {LATEST})
    assert Queue(book.read(), Notebook(), Clock()).everything() == queue.everything()


async def test_what_was_done_lately_is_not_done_again(queue: Queue, clock: Clock) -> None:
    added(queue, A, LATEST)
    await pushed(queue)

    clock.now += RECHECK_SECONDS - 1
    assert added(queue, A, LATEST).state == "done"

    clock.now += 2
    assert added(queue, A, LATEST).state == "queued"


async def test_a_further_tag_of_a_done_image_is_pushed(queue: Queue) -> None:
    job = added(queue, A, LATEST)
    await pushed(queue)

    added(queue, A, V1)

    assert (job.state, job.tags) == ("queued", {LATEST, V1})


async def test_a_further_platform_is_pushed_only_where_platforms_are_chosen_by_pulls(queue: Queue) -> None:
    job = added(queue, A)
    await pushed(queue)

    queue.add("prod", APP, A, child=B, extends=False)
    assert job.state == "done"
    queue.add("prod", APP, A, child=C, extends=True)
    assert (job.state, job.children) == ("queued", {B, C})


async def test_what_was_wanted_during_a_push_is_pushed_after_it(queue: Queue) -> None:
    job = added(queue, A, LATEST)
    revision = queue.begin(await queue.lane("prod").next())
    added(queue, A, V1)

    queue.finish(job, revision, "")

    assert job.state == "queued"


async def test_what_was_rejected_is_tried_again_on_demand_only(queue: Queue) -> None:
    job = added(queue, A, LATEST)
    queue.reject(job, "too large")

    added(queue, A, V1)
    assert (job.state, job.reason) == ("rejected", "too large")

    assert queue.retry("prod", everything) == 1
    assert (job.state, job.reason) == ("queued", "")
    assert await queue.lane("prod").next() is job


def test_what_upstream_did_not_have_is_tried_again_when_it_is_pulled_later(queue: Queue, clock: Clock) -> None:
    missed, refused = added(queue, A), added(queue, B)
    missed.misses = 5
    for job in (missed, refused):
        queue.reject(job, "for some reason")

    clock.now += RECHECK_SECONDS - 1
    assert added(queue, A).state == "rejected"
    clock.now += 2

    assert (added(queue, A).state, missed.misses) == ("queued", 0)
    assert added(queue, B).state == "rejected"


async def test_a_retry_begins_what_waits_and_what_lacks_a_tag(queue: Queue, clock: Clock) -> None:
    clashing = added(queue, A, LATEST)
    clashing.clash(LATEST)
    await pushed(queue)
    waiting = added(queue, B, V1, OTHER)
    waiting.attempts = 9
    queue.hold(waiting, clock() + 600, reason="unreachable")
    fresh = added(queue, C)

    assert queue.retry("dev", everything) == 0
    assert queue.retry("prod", lambda job: job is waiting) == 1
    assert queue.retry("prod", everything) == 1

    assert (clashing.tags, clashing.clashed, clashing.state) == ({LATEST}, set(), "queued")
    assert (waiting.attempts, waiting.not_before) == (0, 0.0)
    assert fresh.state == "queued"


def test_a_retry_leaves_alone_what_waits_for_its_target_only(queue: Queue, book: Notebook, clock: Clock) -> None:
    """There may be thousands of them, and each that is written holds up the clients a little."""
    waiting, refused = added(queue, A, LATEST), added(queue, B, V1)
    refused.attempts = 1
    queue.hold(refused, clock() + 9, reason="refused")
    queue.lane("prod").pause(clock() + 600)
    before = book.written.pop(waiting.key)

    assert queue.retry("prod", everything) == 2
    assert queue.retry("prod", lambda job: job is waiting) == 1

    assert waiting.key not in book.written
    assert before
    assert refused.attempts == 0


def test_a_tag_that_was_refused_when_another_image_had_it_already_does_not_come_back(queue: Queue) -> None:
    """The answer of a push that is late: a retry must not put the tag on the older image."""
    old = added(queue, A, LATEST)
    queue.begin(old)
    new = added(queue, B, LATEST)
    old.clash(LATEST)
    queue.finish(old, old.revision, "")

    queue.retry("prod", everything)

    assert (old.tags, old.clashed, old.state) == (set(), set(), "done")
    assert new.tags == {LATEST}


def test_a_tag_that_clashed_is_not_wanted_again_by_a_pull(queue: Queue) -> None:
    job = added(queue, A, LATEST)
    job.clash(LATEST)

    added(queue, A, LATEST)
    assert (job.tags, job.clashed) == (set(), {LATEST})

    newer = added(queue, B, LATEST)
    assert (newer.tags, job.clashed) == ({LATEST}, set())


async def test_two_jobs_of_one_repository_never_run_at_once(queue: Queue) -> None:
    lane = queue.lane("prod")
    first, second, other = added(queue, A), added(queue, B), added(queue, A, repository=OTHER)

    taken = [await lane.next(), await lane.next()]
    for job in taken:
        queue.begin(job)
    assert taken == [first, other]
    queue.finish(first, 0, "")
    lane.free(APP)
    assert await lane.next() is second


async def test_spare_work_waits_for_what_was_pulled_but_not_for_ever(queue: Queue) -> None:
    lane = queue.lane("prod")
    spare = added(queue, A, repository=Repository("docker.io", "spare"))
    spare.spare = True
    queue.hold(spare)
    for number in range(8):
        added(queue, A, repository=Repository("docker.io", f"pulled{number}"))

    order = [await lane.next() for _ in range(9)]

    assert 0 < order.index(spare) < 8


async def test_spare_work_that_a_client_pulls_is_spare_no_longer(queue: Queue, clock: Clock) -> None:
    job = added(queue, A)
    job.spare = True
    queue.hold(job, clock() + 300, note="waits for the rate limit")

    queue.add("prod", APP, A, child=B)

    assert not job.spare
    assert await queue.lane("prod").next() is job


async def test_a_job_waits_until_its_time(queue: Queue, clock: Clock) -> None:
    later = added(queue, A)
    queue.hold(later, clock() + 60)
    now = added(queue, B, repository=OTHER)

    assert await queue.lane("prod").next() is now
    clock.now += 61
    assert await queue.lane("prod").next() is later


async def test_a_new_job_gives_its_client_time_to_ask_for_the_layers_first(book: Notebook, clock: Clock) -> None:
    queue = Queue({}, book, clock)

    assert added(queue, A).not_before == clock() + SETTLE_SECONDS
    on_demand = queue.add("prod", APP, B, at_once=True)
    assert on_demand is not None
    assert on_demand.not_before == 0


async def test_a_paused_lane_gives_nothing_until_it_is_resumed(queue: Queue, clock: Clock) -> None:
    job = added(queue, A)
    lane = queue.lane("prod")
    lane.pause(clock() + 600)
    waiting = asyncio.create_task(lane.next())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    lane.pause(0)
    assert await waiting is job


async def test_a_full_queue_takes_no_more_and_says_so_by_giving_none(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_OPEN", 2)
    added(queue, A)
    added(queue, B)

    assert queue.add("prod", APP, C) is None
    assert queue.add("dev", APP, C) is not None
    await pushed(queue)
    assert queue.add("prod", APP, C) is not None


async def test_the_oldest_done_job_is_forgotten_first(
    queue: Queue, book: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_DONE", 2)
    for digest, tag in ((A, V1), (B, LATEST), (C, None)):
        added(queue, digest, tag)
        await pushed(queue)

    assert [job.digest for job in queue.of("prod", "done")] == [B, C]
    assert set(book.written) == set(queue.everything())
    assert added(queue, C, V1).tags == {V1}

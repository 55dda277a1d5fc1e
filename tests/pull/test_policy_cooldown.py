"""Tags that move, and when they are followed: the whole port over real sockets, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from proxy.cache.register import Register
from proxy.oci.digest import Digest
from proxy.oci.names import Repository, Tag
from proxy.pull.freshness import TagPolicy
from proxy.pull.rules import Cooldown, Globs, Rules
from proxy.pull.sightings import MAX_SETTLED, MAX_SIGHTINGS, Sightings
from tests.pull.house import UPSTREAM, House, house
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.faults import refuse
from tests.support.images import Manifest
from tests.support.pulls import Reply, get
from tests.support.reading import credentials, fill, target_of
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

APP: Final = "library/app"
REPOSITORY: Final = Repository(UPSTREAM, APP)
DAY: Final = 86_400.0
WEEK: Final = 7 * DAY
ONE, TWO, THREE, FOUR = (images.chart(seed=seed) for seed in range(1, 5))


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class World:
    """One Millpond before one upstream, whose tag `1` moves while days pass."""

    def __init__(self, running: House, upstream: ScriptedUpstream, clock: Clock) -> None:
        self.running, self.upstream, self.clock = running, upstream, clock

    async def pull(self, reference: str = "1") -> Reply:
        return await self.running.get(APP, f"manifests/{reference}")

    async def gets(self, image: Manifest) -> None:
        """Tag 1 is this image."""
        reply = await self.pull()
        assert (reply.status, reply.headers.get("docker-content-digest")) == (200, image.digest), reply.text

    async def refused(self) -> str:
        """Nobody gets tag 1; the message."""
        reply = await self.pull()
        assert (reply.status, reply.error_code) == (403, "DENIED")
        return str(reply.json()["errors"][0]["message"])

    def move(self, image: Manifest) -> None:
        self.upstream.add(image, APP, "1")

    async def live(self, *moves: tuple[Manifest, float]) -> None:
        """The tag moves to each image in turn, is asked for then, and so many days go by."""
        for image, days in moves:
            self.move(image)
            await self.pull()
            self.clock.pass_by(days * DAY)

    def decisions(self, outcome: str) -> float:
        return self.running.metric("millpond_policy_decisions_total", rule="cooldown", outcome=outcome)


class OpenWorld(Protocol):
    def __call__(self, block: dict[Digest, str] | None = None, **rule: Any) -> AbstractAsyncContextManager[World]: ...


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_world(upstream: ScriptedUpstream, tmp_path: Path, clock: Clock) -> OpenWorld:
    """Opens a world whose tags are compared at each request; `rule` is the cooldown's."""

    @asynccontextmanager
    async def opened(block: dict[Digest, str] | None = None, **rule: Any) -> AsyncIterator[World]:
        cooldown = Cooldown(**{"images": Globs(["*"]), "min_age": WEEK, **rule})
        rules = Rules(cooldown=(cooldown,), block=block or {})
        policy = TagPolicy(ttl=0.0, stale_for=90 * DAY)
        async with house(tmp_path, {UPSTREAM: upstream.url}, policy=policy, clock=clock, rules=rules) as running:
            yield World(running, upstream, clock)

    return opened


async def test_a_new_tag_is_refused_until_it_is_old_enough(open_world: OpenWorld) -> None:
    """To the second, and with the date."""
    async with open_world() as world:
        world.move(ONE)
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(world.clock.now + WEEK))
        told = await world.refused()
        assert f"{UPSTREAM}/{APP}:1 was first seen to be {ONE.digest}" in told
        assert f"policy.cooldown[0] holds back what is newer than 7d: it passes at {until}" in told
        assert f"have {UPSTREAM}/{APP}:1 written into policy.cooldown[0].exempt" in told
        world.clock.pass_by(WEEK - 1)
        await world.refused()
        world.clock.pass_by(1)
        await world.gets(ONE)
        assert (world.decisions("refused"), world.decisions("passed")) == (2, 1)


async def test_a_digest_is_pinned_and_waits_for_nothing(open_world: OpenWorld) -> None:
    """Nor do cosign's tags, which are made of digests; nor the blobs."""
    signature_tag, signature = images.signature(ONE)
    async with open_world() as world:
        world.move(ONE)
        world.upstream.add(signature, APP, signature_tag)
        for reference in (ONE.digest, signature_tag):
            assert (await world.pull(reference)).status == 200
        assert (await world.running.get(APP, f"blobs/{ONE.blobs[1].digest}")).status == 200
        await world.refused()


async def test_a_tag_that_moves_stays_where_it_was_until_the_new_digest_is_old_enough(open_world: OpenWorld) -> None:
    async with open_world() as world:
        await world.live((ONE, 8))
        world.move(TWO)
        await world.gets(ONE)
        assert (await world.running.get(APP, "manifests/1", method="HEAD")).headers[
            "docker-content-digest"
        ] == ONE.digest
        world.clock.pass_by(WEEK - 1)
        await world.gets(ONE)
        world.clock.pass_by(1)
        await world.gets(TWO)
        assert world.decisions("held") == 3


async def test_of_many_moves_the_newest_that_is_old_enough_is_served(open_world: OpenWorld) -> None:
    async with open_world() as world:
        await world.live((ONE, 8), (TWO, 5), (THREE, 3))
        await world.gets(TWO)  # 8 days old, though the tag has moved on
        world.clock.pass_by(4 * DAY)
        await world.gets(THREE)


async def test_what_upstream_has_taken_back_never_stands_in(open_world: OpenWorld) -> None:
    """TWO was published for two days; when the next one comes, it is old enough by its age, but nobody wants it."""
    async with open_world() as world:
        await world.live((ONE, 10), (TWO, 2), (ONE, 10), (THREE, 1))
        await world.gets(ONE)
        world.clock.pass_by(6 * DAY)
        await world.gets(THREE)
        await world.live((TWO, 0))
        await world.gets(TWO)  # published again, and known for weeks


async def test_a_tag_that_goes_back_is_followed_at_once(open_world: OpenWorld) -> None:
    async with open_world() as world:
        await world.live((ONE, 8), (TWO, 8))
        await world.gets(TWO)
        world.move(ONE)
        await world.gets(ONE)


async def test_what_stands_in_may_be_gone_or_blocked_itself(open_world: OpenWorld, upstream: ScriptedUpstream) -> None:
    """The one before it does then; without any, the new one is refused as ever."""
    blocked = {Digest.parse(THREE.digest): "it is bad"}
    async with open_world(block=blocked) as world:
        await world.live((ONE, 8), (TWO, 8), (THREE, 8))
        world.move(FOUR)
        await world.gets(TWO)
        for gone, left in ((TWO, ONE), (ONE, None)):
            await world.running.cache.blobs.evict(Digest.parse(gone.digest))
            upstream.script(f"manifests/{gone.digest}", then=refuse(404))
            if left:
                await world.gets(left)
        assert FOUR.digest in await world.refused()


async def test_while_upstream_fails_the_tag_stays_where_policy_has_it(
    open_world: OpenWorld, upstream: ScriptedUpstream
) -> None:
    """B: stale answers wait like any other, and their time goes on."""
    async with open_world() as world:
        await world.live((ONE, 8), (TWO, 1))
        upstream.stop()
        await world.gets(ONE)
        world.clock.pass_by(6 * DAY)
        await world.gets(TWO)


async def test_an_exemption_is_followed_at_once(open_world: OpenWorld) -> None:
    """By tag or by digest; and what was exempt has its age all the same."""
    async with open_world(exempt=Globs(["*/app:2", f"{UPSTREAM}/{APP}@{TWO.digest}"])) as world:
        world.move(ONE)
        await world.refused()
        world.upstream.add(ONE, APP, "2")
        assert (await world.pull("2")).status == 200
        world.move(TWO)
        await world.gets(TWO)
        assert world.decisions("exempted") == 2


async def test_what_was_there_before_a_date_is_trusted(open_world: OpenWorld, clock: Clock) -> None:
    async with open_world(trusted_until=clock.now + DAY) as world:
        world.move(ONE)
        await world.gets(ONE)
        world.clock.pass_by(DAY + 1)
        world.move(TWO)
        await world.gets(ONE)


async def test_images_of_no_rule_do_not_wait_and_leave_no_trace(open_world: OpenWorld) -> None:
    async with open_world(images=Globs(["ghcr.io/*"])) as world:
        world.move(ONE)
        await world.gets(ONE)
        assert world.running.cache.register("sightings").held == {}
        assert world.decisions("passed") == 0


async def test_the_first_rule_that_is_like_the_name_decides(
    upstream: ScriptedUpstream, tmp_path: Path, clock: Clock
) -> None:
    rules = Rules(
        cooldown=(Cooldown(Globs(["docker.io/library/*"]), DAY), Cooldown(Globs(["*"]), WEEK)),
    )
    upstream.add(ONE, APP, "1")
    upstream.add(ONE, "other/app", "1")
    async with house(tmp_path, {UPSTREAM: upstream.url}, clock=clock, rules=rules) as running:
        for passed, statuses in ((0.0, (403, 403)), (DAY, (200, 403)), (6 * DAY, (200, 200))):
            clock.pass_by(passed)
            found = [(await running.get(name, "manifests/1")).status for name in (APP, "other/app")]
            assert tuple(found) == statuses


async def test_ages_outlive_the_program(open_world: OpenWorld, clock: Clock) -> None:
    """K"""
    for image in (ONE, TWO):
        async with open_world() as world:
            await world.live((image, 8 if image is ONE else 1))
    async with open_world() as world:
        await world.gets(ONE)
        clock.pass_by(6 * DAY)
        await world.gets(TWO)


async def test_a_clock_that_was_wrong_makes_nobody_wait_for_ever(open_world: OpenWorld, clock: Clock) -> None:
    """Row 31: what was seen a year ahead of now begins to wait now."""
    async with open_world() as world:
        clock.pass_by(365 * DAY)
        await world.live((ONE, -365))
        await world.refused()
        clock.pass_by(WEEK)
        await world.gets(ONE)


async def test_where_ecr_has_the_tag_is_no_news_of_it(upstream: ScriptedUpstream, tmp_path: Path, clock: Clock) -> None:
    """While upstream is down and the disk has lost the tag, ECR says where it was: nothing is taken back by that."""
    rules = Rules(cooldown=(Cooldown(Globs(["*"]), WEEK),))
    with EcrDouble() as cloud, credentials(cloud):
        fill(cloud, f"{UPSTREAM}/{APP}", ONE, "1")
        target = target_of(cloud, UPSTREAM)
        urls, policy = {UPSTREAM: upstream.url}, TagPolicy(ttl=0.0)
        async with house(tmp_path, urls, target, policy=policy, clock=clock, rules=rules) as running:
            world = World(running, upstream, clock)
            await world.live((ONE, 8), (TWO, 8))
            await running.cache.blobs.evict(Digest.parse(TWO.digest))
            upstream.stop()
            await world.gets(ONE)
            upstream.start()
            world.move(THREE)
            url = f"{running.base(APP)}/manifests/1"
            await asyncio.to_thread(
                wait_until, lambda: get(url).headers["docker-content-digest"] == TWO.digest, "TWO stands in for THREE"
            )


def sightings(held: dict[str, Any] | None = None, max_tags: int = 10) -> tuple[Sightings, Register]:
    register = Register(None)
    register.held.update(held or {})
    return Sightings(register, max_tags), register


def digest_of(number: int) -> Digest:
    return Digest.of(str(number).encode())


def see(sights: Sightings, number: int, now: float, tag: str = "1", age: float = WEEK) -> list[Digest]:
    found = sights.see(
        REPOSITORY, Tag(tag), digest_of(number), now=now, settled=lambda one: now - one.first >= age, confirmed=True
    )
    return [one.digest for one in found]


def test_a_tag_that_moves_every_hour_is_remembered_within_bounds_and_never_without_one_that_is_old() -> None:
    """A"""
    sights, register = sightings()
    hour, start = 3600.0, 1e9
    for number in range(1000):
        now = start + number * hour
        history = see(sights, number, now)
        assert history[-1] == digest_of(number)
        assert len(history) <= MAX_SIGHTINGS + MAX_SETTLED
        if number >= WEEK / hour:
            (record,) = register.held.values()
            assert any(now - first >= WEEK for _, first, _ in record)


def test_tags_are_remembered_within_bounds_and_the_least_asked_for_goes_first() -> None:
    """A"""
    sights, register = sightings(max_tags=3)
    for tag in ("a", "b", "c", "a", "d"):
        see(sights, 1, 1e9, tag)
    assert sorted(register.held) == [f"{REPOSITORY} {tag}" for tag in ("a", "c", "d")]


@pytest.mark.parametrize("seen", [float("nan"), float("inf"), float("-inf"), -5, 2e9])
def test_a_time_that_makes_no_sense_is_now(seen: float) -> None:
    """K: what was seen then is neither old for ever nor new for ever."""
    sights, register = sightings({f"{REPOSITORY} 1": [[digest_of(1), seen, 0]]})
    see(sights, 1, 1e9)
    assert register.held == {f"{REPOSITORY} 1": [[digest_of(1), 1e9, 0]]}


@pytest.mark.parametrize("record", [None, 5, "x", [[]], [["sha256:x", 1, 0]], [[None, None, None]], [[1, "x", 0]], [7]])
def test_a_record_that_makes_no_sense_counts_for_nothing(record: Any) -> None:
    """K: the digest is new then, so that nobody gets it too early."""
    sights, register = sightings({f"{REPOSITORY} 1": record})
    assert see(sights, 1, 1e9) == [digest_of(1)]
    assert register.held == {f"{REPOSITORY} 1": [[digest_of(1), 1e9, 0]]}

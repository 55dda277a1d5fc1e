"""What is said of an upstream's health, by a clock that is told the time: what an engineer can trust at 3 a.m."""

from __future__ import annotations

import contextlib
import time

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, ManifestUnknown, MillpondError, UpstreamInvalid, UpstreamLimited
from proxy.oci.names import Tag
from proxy.upstream.client import Registry
from proxy.upstream.health import IN_A_ROW, WINDOW, Pulse
from tests.support.faults import cut, html, refuse
from tests.support.images import chart
from tests.support.scripted import ScriptedUpstream
from tests.upstream.conftest import REPOSITORY, Clock, Connect

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry(upstream: ScriptedUpstream, connect: Connect, clock: Clock) -> Registry:
    upstream.add(chart(), REPOSITORY, "good")
    upstream.script("/manifests/page", then=html())
    upstream.script("/manifests/private", then=refuse(403))
    return connect(upstream.url, clock=clock)


async def ask(registry: Registry, tag: str, times: int = 1) -> None:
    """`good` is there, `none` is not, `page` is a captive portal's, `private` is refused."""
    told = {"none": ManifestUnknown, "page": UpstreamInvalid, "private": Denied}
    for _ in range(times):
        with pytest.raises(told[tag]) if tag in told else contextlib.nullcontext():
            await registry.manifest(REPOSITORY, Tag(tag))


def state(registry: Registry) -> str:
    return registry.health.state


async def read(registry: Registry, digest: Digest) -> bytes:
    async with registry.blob(REPOSITORY, digest) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


async def test_one_failure_among_a_hundred_good_answers_is_noise(registry: Registry) -> None:
    await ask(registry, "good", 50)
    await ask(registry, "page")
    assert (registry.health.state, registry.health.why) == ("ok", "")
    await ask(registry, "none", 50)
    await ask(registry, "private")
    assert (registry.health.state, registry.health.why) == ("ok", "")


async def test_one_good_answer_hides_no_outage_of_the_rest(registry: Registry) -> None:
    await ask(registry, "page", 4)
    await ask(registry, "good")
    health = registry.health
    assert health.state == "failing"
    assert health.why.startswith("4 of the last minute's 5 questions have failed: ")
    assert abs((health.since or 0) - time.time()) < 60
    assert health.until is None


async def test_a_fifth_that_fails_is_failing_though_never_two_in_a_row(registry: Registry) -> None:
    for _ in range(IN_A_ROW):
        assert state(registry) != "failing"
        await ask(registry, "good", 3)
        await ask(registry, "page")
    assert state(registry) == "failing"


async def test_the_latest_in_a_row_count_however_many_answers_were_good(registry: Registry) -> None:
    await ask(registry, "good", 40)
    await ask(registry, "page", IN_A_ROW - 1)
    assert state(registry) == "ok"
    await ask(registry, "page")
    assert state(registry) == "failing"


async def test_what_has_just_recovered_says_so_for_a_minute(registry: Registry, clock: Clock) -> None:
    await ask(registry, "good", 40)
    await ask(registry, "page", IN_A_ROW)
    await ask(registry, "good")
    health = registry.health
    assert health.state == "ok"
    assert health.why == "recovering: it answers again, after 3 of the last minute's 44 questions went wrong"
    clock.now += WINDOW
    assert registry.health.why == ""
    assert registry.health.since == health.since


async def test_while_too_many_have_failed_good_answers_are_told_as_a_recovery_under_way(
    registry: Registry, clock: Clock
) -> None:
    await ask(registry, "page", 5)
    clock.now += WINDOW / 2
    await ask(registry, "good", IN_A_ROW)
    assert state(registry) == "failing"
    assert registry.health.why.startswith("recovering, but 5 of the last minute's 8 questions have failed: ")
    clock.now += WINDOW / 2
    await ask(registry, "good")
    assert state(registry) == "ok"
    assert registry.health.why == "recovering: it answers again"


async def test_while_nobody_asks_the_last_state_stays(registry: Registry, clock: Clock) -> None:
    assert state(registry) == "idle"
    await ask(registry, "page")
    before = registry.health
    clock.now += 100 * WINDOW
    assert registry.health == before
    assert before.state == "failing", "nothing else is known of it"
    await ask(registry, "good")
    assert state(registry) == "ok", "what failed an hour ago is no part of it"


async def test_an_open_breaker_is_failing_whatever_was_answered_before(
    upstream: ScriptedUpstream, registry: Registry, clock: Clock
) -> None:
    await ask(registry, "good", 40)
    upstream.script("/manifests/down", then=refuse(503, "we are closed"))
    with pytest.raises(MillpondError, match="503"):
        await registry.manifest(REPOSITORY, Tag("down"))
    health = registry.health
    assert health.state == "failing"
    assert health.why.startswith("1 of the last minute's 41 questions have failed: ")
    assert "we are closed" in health.why
    assert health.until is not None
    assert health.since is not None
    assert 0 < health.until - health.since < 10
    with pytest.raises(MillpondError, match="was not asked"):
        await registry.manifest(REPOSITORY, Tag("good"))
    assert "1 of the last minute's 41" in registry.health.why, "what was not asked has not failed"
    clock.now += 10
    assert (state(registry), registry.health.until) == ("failing", None), "it has answered nobody since"
    await ask(registry, "good")
    assert (state(registry), registry.health.until) == ("ok", None)


async def test_pulls_that_an_open_breaker_turns_away_in_a_row_are_an_outage_until_one_is_answered(
    upstream: ScriptedUpstream, registry: Registry, clock: Clock
) -> None:
    await ask(registry, "good", 40)
    upstream.script("/manifests/down", then=refuse(503))
    for _ in range(IN_A_ROW):
        with pytest.raises(MillpondError):
            await registry.manifest(REPOSITORY, Tag("down"))
    clock.now += 10 * WINDOW
    assert state(registry) == "failing"
    await ask(registry, "good")
    assert state(registry) == "ok"


async def test_a_host_that_nobody_asks_any_more_is_forgotten(
    upstream: ScriptedUpstream, registry: Registry, clock: Clock
) -> None:
    await ask(registry, "good", 40)
    upstream.script("/manifests/down", then=refuse(503))
    with pytest.raises(MillpondError):
        await registry.manifest(REPOSITORY, Tag("down"))
    clock.now += WINDOW
    assert state(registry) == "failing"
    clock.now += 10
    assert state(registry) == "ok", "one question of forty-one"


async def test_a_limit_lasts_as_long_as_it_says_though_other_questions_are_answered(
    upstream: ScriptedUpstream, registry: Registry, clock: Clock
) -> None:
    upstream.script("/manifests/many", then=refuse(429, retry_after="30"))
    digest = Digest.parse(upstream.add_blob(REPOSITORY, b"not limited"))
    with pytest.raises(UpstreamLimited):
        await registry.manifest(REPOSITORY, Tag("many"))
    limited = registry.health
    assert limited.state == "limited"
    assert limited.until is not None
    assert 29 < limited.until - time.time() <= 30
    clock.now += 29
    assert await registry.blob_size(REPOSITORY, digest) == len(b"not limited")
    assert state(registry) == "limited"
    clock.now += 2
    assert registry.health.until is None
    await ask(registry, "good")
    assert (registry.health.state, registry.health.why) == ("ok", "")


@pytest.mark.parametrize(("more", "less", "told"), [("page", "private", "failing"), ("private", "page", "refused")])
async def test_of_two_troubles_the_more_frequent_is_told(registry: Registry, more: str, less: str, told: str) -> None:
    await ask(registry, more, 3)
    await ask(registry, less, 2)
    assert state(registry) == told
    assert registry.health.why.startswith("3 of the last minute's 5 questions ")


async def test_blobs_that_break_off_are_failures_of_their_own(upstream: ScriptedUpstream, registry: Registry) -> None:
    digest = Digest.parse(upstream.add_blob(REPOSITORY, bytes(1000)))
    upstream.script(digest, then=cut(10))
    for _ in range(IN_A_ROW):
        with pytest.raises(MillpondError):
            await read(registry, digest)
    assert state(registry) == "failing", "each was answered, and half of what was asked for is bad"


def test_what_is_counted_stays_small_and_is_right_after_a_long_pause(clock: Clock) -> None:
    pulse = Pulse(clock)
    for second in range(1000):
        clock.now += 1
        pulse.answered() if second % 4 else pulse.failed(UpstreamInvalid("no"))
    assert len(pulse._window._slices) <= WINDOW / 5
    assert 0 < pulse._window.counts(clock.now).total() <= WINDOW
    assert pulse.health(None).state == "failing"
    clock.now += 10 * WINDOW
    assert pulse._window.counts(clock.now).total() == 0

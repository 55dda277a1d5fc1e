"""Repositories created on demand: once at a time, races are fine, a missing permission is remembered (fault row 44);
and whatever ends the program in the middle, the next push to one that was created here finishes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.ecr import unfinished as unfinished_module
from proxy.ecr.api import Api
from proxy.ecr.errors import Refused, Unreachable
from proxy.ecr.quota import Quotas
from proxy.ecr.repositories import OFF_SECONDS, RETRY_SECONDS, Repositories
from proxy.ecr.session import Sessions
from proxy.ecr.target import RepositoryTemplate, Target
from proxy.ecr.unfinished import Unfinished
from tests.ecr.pond import Notebook
from tests.ecr.test_api import ACCESS, POLICY
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.ecr.registry import FakeRepository
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

NAME = "docker.io/library/x"


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def api(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("proxy.ecr.calls.TRIES", 1)
    sessions = Sessions()
    template = RepositoryTemplate(lifecycle_policy=POLICY, policy=ACCESS)
    target = Target("prod", ACCOUNT, REGION, frozenset({"docker.io"}), repository=template)
    yield Api(target, sessions.client("ecr", REGION, None, None), Quotas(), lambda *_: None, tries=1)
    await sessions.aclose()


@pytest.fixture
def book() -> Notebook:
    return Notebook()


@pytest.fixture
def repositories(api: Api, book: Notebook, clock: Clock) -> Repositories:
    return begun_again(api, book, clock)


def begun_again(api: Api, book: Notebook, clock: Clock) -> Repositories:
    """Those of a process that starts now."""
    return Repositories(api, Unfinished(book.read(), book), clock)


def made(cloud: EcrDouble) -> FakeRepository:
    return cloud.registry().repositories[NAME]


async def broken_off(repositories: Repositories, cloud: EcrDouble, operation: str) -> None:
    """Create, and lose the connection, as a process does that ends before this call."""
    cloud.break_off(operation, times=1)
    await repositories.create(NAME)


async def test_callers_at_once_share_one_creation_of_each_name(repositories: Repositories, cloud: EcrDouble) -> None:
    await asyncio.gather(*(repositories.create(f"name/{number % 2}") for number in range(20)))
    assert set(cloud.registry().repositories) == {"name/0", "name/1"}
    assert cloud.count("CreateRepository") == 2


async def test_two_pushers_that_race_are_both_content(
    repositories: Repositories, api: Api, book: Notebook, clock: Clock, cloud: EcrDouble
) -> None:
    other = Notebook()
    await asyncio.gather(repositories.create(NAME), begun_again(api, other, clock).create(NAME))
    outcomes = sorted(call.outcome for call in cloud.calls if call.operation == "CreateRepository")
    assert outcomes == ["RepositoryAlreadyExistsException", "ok"]
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (POLICY, ACCESS)
    assert cloud.count("PutLifecyclePolicy") == 1, "by the one that has created it"
    assert book.read() == other.read() == {}
    assert repositories.trouble == {}


async def test_a_caller_that_leaves_takes_nobodys_creation_along(repositories: Repositories, cloud: EcrDouble) -> None:
    stall = cloud.stall("CreateRepository")
    leaving = asyncio.create_task(repositories.create(NAME))
    await wait_until_async(stall.reached.is_set, "the creation is under way")
    staying = asyncio.create_task(repositories.create(NAME))
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    stall.release()
    await staying
    assert cloud.count("CreateRepository", outcome="ok") == 1


async def test_a_repository_that_may_not_be_created_is_off_for_a_while_and_alone(
    repositories: Repositories, cloud: EcrDouble, clock: Clock
) -> None:
    cloud.deny("CreateRepository", resource=NAME)
    for _ in range(3):
        with pytest.raises(Refused, match="CreateRepository with AccessDenied"):
            await repositories.create(NAME)
    assert cloud.count("CreateRepository") == 1
    assert "AccessDenied" in repositories.trouble[NAME]
    await repositories.create("other")
    cloud.behave()
    clock.now += OFF_SECONDS
    assert repositories.trouble == {}
    await repositories.create(NAME)
    assert NAME in cloud.registry().repositories


async def test_what_is_off_is_tried_at_once_when_asked_for(repositories: Repositories, cloud: EcrDouble) -> None:
    cloud.deny("CreateRepository")
    with pytest.raises(Refused):
        await repositories.create(NAME)
    cloud.behave()
    repositories.forget()
    await repositories.create(NAME)
    assert repositories.trouble == {}


async def test_what_passes_is_not_remembered(repositories: Repositories, cloud: EcrDouble) -> None:
    with cloud.unavailable(), pytest.raises(Unreachable):
        await repositories.create(NAME)
    assert repositories.trouble == {}
    await repositories.create(NAME)
    assert NAME in cloud.registry().repositories


async def test_ecr_hears_of_a_repository_when_its_name_is_on_the_disk(
    repositories: Repositories, book: Notebook, cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, written = asyncio.Event(), asyncio.Event()

    async def slow_disk() -> None:
        asked.set()
        await written.wait()

    monkeypatch.setattr(book, "flush", slow_disk)
    creation = asyncio.create_task(repositories.create(NAME))
    await wait_until_async(lambda: asked.is_set() or creation.done(), "it is being written, or nobody waits for that")
    assert list(book.read()) == [f"!creation prod {NAME}"]
    assert not cloud.calls
    written.set()
    await creation
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (POLICY, ACCESS)
    assert book.read() == {}


@pytest.mark.parametrize("operation", ["PutLifecyclePolicy", "SetRepositoryPolicy"])
async def test_a_creation_that_was_broken_off_is_finished_by_the_next_process(
    api: Api, book: Notebook, clock: Clock, cloud: EcrDouble, operation: str
) -> None:
    await broken_off(begun_again(api, book, clock), cloud, operation)
    assert None in (made(cloud).lifecycle_policy, made(cloud).policy)
    later = begun_again(api, book, clock)
    await later.finish(NAME)
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (POLICY, ACCESS)
    assert book.read() == {}
    calls = len(cloud.calls)
    await later.finish(NAME)
    assert len(cloud.calls) == calls, "what is finished is never looked at again"


async def test_a_creation_whose_answer_got_lost_is_finished_too(
    repositories: Repositories, api: Api, book: Notebook, clock: Clock, cloud: EcrDouble
) -> None:
    cloud.break_off("CreateRepository", done=True)
    with pytest.raises(Unreachable):
        await repositories.create(NAME)
    await begun_again(api, book, clock).finish(NAME)
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (POLICY, ACCESS)


async def test_a_policy_that_was_set_by_hand_meanwhile_stays(
    repositories: Repositories, api: Api, book: Notebook, clock: Clock, cloud: EcrDouble
) -> None:
    cloud.break_off("SetRepositoryPolicy")
    await broken_off(repositories, cloud, "PutLifecyclePolicy")
    made(cloud).lifecycle_policy = by_hand = POLICY.replace("1", "7")
    await begun_again(api, book, clock).finish(NAME)
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (by_hand, ACCESS)
    assert book.read() == {}


async def test_a_repository_of_somebody_else_is_never_altered(
    repositories: Repositories, api: Api, book: Notebook, clock: Clock, cloud: EcrDouble
) -> None:
    cloud.registry().repositories[NAME] = FakeRepository(NAME, ACCOUNT, REGION)
    await repositories.create(NAME)
    await repositories.finish(NAME)
    await begun_again(api, book, clock).finish(NAME)
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (None, None)
    assert book.read() == {}


async def test_a_repository_that_was_not_created_after_all_is_not_held_for_one_of_ours(
    repositories: Repositories, book: Notebook, cloud: EcrDouble
) -> None:
    cloud.deny("CreateRepository")
    with pytest.raises(Refused):
        await repositories.create(NAME)
    assert book.read() == {}


async def test_a_policy_that_cannot_be_set_is_tried_again_after_a_while_or_on_demand(
    repositories: Repositories, clock: Clock, cloud: EcrDouble
) -> None:
    cloud.deny("PutLifecyclePolicy")
    await repositories.create(NAME)
    for _ in range(3):
        await repositories.finish(NAME)
    assert cloud.count("PutLifecyclePolicy") == 1
    clock.now += RETRY_SECONDS
    await repositories.finish(NAME)
    assert cloud.count("PutLifecyclePolicy") == 2
    cloud.behave()
    repositories.forget()
    await repositories.finish(NAME)
    assert made(cloud).lifecycle_policy == POLICY


async def test_an_unfinished_repository_that_is_gone_is_created_anew(
    repositories: Repositories, api: Api, book: Notebook, clock: Clock, cloud: EcrDouble
) -> None:
    await broken_off(repositories, cloud, "PutLifecyclePolicy")
    del cloud.registry().repositories[NAME]
    later = begun_again(api, book, clock)
    await later.finish(NAME)
    assert cloud.registry().repositories == {}
    await later.create(NAME)
    assert (made(cloud).lifecycle_policy, made(cloud).policy) == (POLICY, ACCESS)
    assert book.read() == {}


async def test_a_creation_without_policies_leaves_nothing_to_be_noted(
    api: Api, book: Notebook, cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "note", lambda *_: pytest.fail("noted"))
    api.target = Target("prod", ACCOUNT, REGION, frozenset({"docker.io"}))
    await Repositories(api, Unfinished((), book)).create(NAME)
    assert NAME in cloud.registry().repositories


async def test_names_that_are_never_finished_have_a_bound(book: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_module, "MAX_NAMES", 2)
    unfinished = Unfinished((), book)
    for name in ("one", "two", "three"):
        await unfinished.begin("prod", name)
    assert list(book.read()) == ["!creation prod two", "!creation prod three"]
    assert [unfinished.has("prod", name) for name in ("one", "two", "three")] == [False, True, True]

"""Repositories created on demand: once at a time, races are fine, a missing permission is remembered (fault row 44)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.ecr.api import Api
from proxy.ecr.errors import Refused, Unreachable
from proxy.ecr.quota import Quotas
from proxy.ecr.repositories import OFF_SECONDS, Repositories
from proxy.ecr.session import Sessions
from proxy.ecr.target import Target
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
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
    target = Target("prod", ACCOUNT, REGION, frozenset({"docker.io"}))
    yield Api(target, sessions.client("ecr", REGION, None, None), Quotas(), lambda *_: None, tries=1)
    await sessions.aclose()


@pytest.fixture
def repositories(api: Api, clock: Clock) -> Repositories:
    return Repositories(api, clock)


async def test_callers_at_once_share_one_creation_of_each_name(repositories: Repositories, cloud: EcrDouble) -> None:
    await asyncio.gather(*(repositories.create(f"name/{number % 2}") for number in range(20)))
    assert set(cloud.registry().repositories) == {"name/0", "name/1"}
    assert cloud.count("CreateRepository") == 2


async def test_two_pushers_that_race_are_both_content(repositories: Repositories, api: Api, cloud: EcrDouble) -> None:
    await asyncio.gather(repositories.create(NAME), Repositories(api).create(NAME))
    outcomes = sorted(call.outcome for call in cloud.calls)
    assert outcomes == ["RepositoryAlreadyExistsException", "ok"]
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

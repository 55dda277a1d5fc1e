"""Images whose scan in ECR decides: over the running program and the double, and with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.ecr.api import Api
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Sessions
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import PolicyDenied
from proxy.oci.manifest import Manifest, parse_manifest
from proxy.oci.names import Repository, Tag
from proxy.pull.rules import Globs, ScanRule
from proxy.pull.scan_gate import DONE_SECONDS, KEPT_SECONDS, OPEN_SECONDS, ScanGate
from tests.conftest import StartMillpond
from tests.pull.test_policy import IMAGE, REPOSITORY, UPSTREAM, House
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.pulls import get
from tests.support.reading import credentials, target_of
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

SCAN: Final = "DescribeImageScanFindings"
TARGET: Final = {"name": "prod", "account": ACCOUNT, "region": REGION}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as running:
        yield running


@pytest.fixture
def image(images_directory: Path) -> images.Manifest:
    return images.simple_image(images_directory, seed=70, size=1000)


class OpenHouse:
    """Starts a Millpond with a gate; keywords are the gate's."""

    def __init__(self, start: StartMillpond, upstream: ScriptedUpstream, cloud: EcrDouble) -> None:
        self._start, self._upstream, self._cloud = start, upstream, cloud

    def __call__(self, **gate: Any) -> House:
        millpond = self._start(
            {UPSTREAM: self._upstream.upstream()},
            env=self._cloud.environment,
            ecr={"targets": [{**TARGET, "endpoint_url": self._cloud.url}]},
            policy={"scan_gate": {"target": "prod", **gate}},
        )
        return House(self._upstream, millpond)


@pytest.fixture
def open_house(start_millpond: StartMillpond, upstream: ScriptedUpstream, cloud: EcrDouble) -> OpenHouse:
    return OpenHouse(start_millpond, upstream, cloud)


def test_an_image_with_findings_is_refused_with_their_count_and_one_with_lesser_ones_is_not(
    open_house: OpenHouse, upstream: ScriptedUpstream, cloud: EcrDouble, images_directory: Path
) -> None:
    """By digest as by tag. Of an index, which passes, each image by itself. ECR is asked once of each."""
    bad, good = (images.simple_image(images_directory, seed=seed, size=1000) for seed in (71, 72))
    index = images.index([bad, good])
    upstream.add(index, REPOSITORY, "1")
    upstream.add(bad, REPOSITORY, "bad")
    held = cloud.registry().add(index, IMAGE, "1")
    held.scan(bad.digest, CRITICAL=1, HIGH=2, MEDIUM=30)
    held.scan(good.digest, "ACTIVE", MEDIUM=3)
    house = open_house(severity="HIGH", unscanned="refuse")
    house.gets(index)
    told = f"{IMAGE}@{bad.digest} in prod reports 3 findings (1 CRITICAL, 2 HIGH), and policy.scan_gate allows none"
    for reference in (bad.digest, "bad", bad.digest):
        house.refuses(house.manifest(reference), told)
    assert house.manifest(bad.digest, "HEAD").status == 403
    for _ in range(3):
        house.gets(good, good.digest)
    assert cloud.count(SCAN) == 2
    (first, *_) = house.decisions(decision="refused")
    assert (first["rule"], first["findings"]) == ("policy.scan_gate", {"CRITICAL": 1, "HIGH": 2})
    assert (house.counted("scan_gate", "refused"), house.counted("scan_gate", "passed")) == (4, 3)


def test_what_has_no_file_system_and_images_of_other_patterns_are_not_asked_about(
    open_house: OpenHouse, upstream: ScriptedUpstream, cloud: EcrDouble, image: images.Manifest
) -> None:
    chart = images.chart()
    signature_tag, signature = images.signature(chart)
    upstream.add(chart, REPOSITORY, "1")
    upstream.add(signature, REPOSITORY, signature_tag)
    upstream.add(image, "other/tool", "1")
    house = open_house(unscanned="refuse", images=[f"{UPSTREAM}/library/*"])
    house.gets(chart)
    house.gets(signature, signature_tag)
    assert get(f"{house.millpond.url}/v2/{UPSTREAM}/other/tool/manifests/1").status == 200
    assert cloud.count(SCAN) == 0


def test_what_is_not_scanned_yet_is_served_and_said_by_default(
    open_house: OpenHouse, upstream: ScriptedUpstream, cloud: EcrDouble, image: images.Manifest
) -> None:
    """B: so it is where ECR cannot be asked."""
    upstream.add(image, REPOSITORY, "1")
    cloud.deny(SCAN)
    house = open_house()
    house.gets(image)
    (decision,) = house.decisions(decision="unscanned")
    assert (decision["rule"], decision["status"]) == ("policy.scan_gate", "UNKNOWN")
    (warning,) = house.millpond.log_lines(event="scan not known")
    assert "AccessDenied" in warning["why"]
    wait_until(lambda: not cloud.registry().missing(IMAGE, "1"), "the image is pushed like any other")


@pytest.mark.slow
def test_what_has_to_be_scanned_is_pushed_by_its_first_pull_and_served_once_it_is(
    open_house: OpenHouse, upstream: ScriptedUpstream, cloud: EcrDouble, image: images.Manifest
) -> None:
    upstream.add(image, REPOSITORY, "1")
    house = open_house(unscanned="refuse")
    house.refuses(
        house.manifest(), "(ABSENT)", "policy.scan_gate refuses what is not scanned", "it is being pushed there"
    )
    wait_until(lambda: not cloud.registry().missing(IMAGE, "1"), "the image is in ECR")
    held = cloud.registry().repositories[IMAGE]
    assert held.tags == {"1": image.digest}
    held.scan(image.digest, "IN_PROGRESS")
    wait_until(lambda: "the scan is under way" in house.manifest().text, "ECR has been asked again", 60)
    held.scan(image.digest, LOW=9)
    wait_until(lambda: house.manifest().status == 200, "the image is served", 60)


def test_where_ecr_cannot_be_asked_what_has_to_be_scanned_is_refused(
    open_house: OpenHouse, upstream: ScriptedUpstream, cloud: EcrDouble, image: images.Manifest
) -> None:
    """H: within a deadline of its own."""
    upstream.add(image, REPOSITORY, "1")
    stall = cloud.stall(SCAN)
    house = open_house(unscanned="refuse")
    house.refuses(house.manifest(), "(UNKNOWN)", "ECR cannot be asked at the moment")
    house.millpond.settle_log()
    (warning,) = house.millpond.log_lines(event="scan not known")
    assert warning["why"] == "no answer within 3 s"
    stall.release()


# With a clock of its own


class Ward:
    """A gate of a real Api, whose clock stands still until the test moves it."""

    def __init__(self, cloud: EcrDouble, image: images.Manifest, upstreams: tuple[str, ...] = (UPSTREAM,)) -> None:
        self.now = 1000.0
        self.image: Manifest = parse_manifest(image.body, image.media_type)
        self.pushed: list[tuple[Repository, Digest, Tag | None]] = []
        self.sessions = Sessions(4)
        target = target_of(cloud, *upstreams)
        client = self.sessions.client("ecr", target.region, None, target.endpoint_url)
        self.gate = ScanGate(
            ScanRule("prod", "CRITICAL", Globs(["*"]), refuse_unscanned=True),
            Api(target, client, Quotas(), lambda *_: None, tries=1),
            push=lambda *pushed: self.pushed.append(pushed),
            metrics=Metrics(),
            clock=lambda: self.now,
        )

    async def check(self) -> str:
        """What a client is told; nothing where it gets the image."""
        try:
            await self.gate.check(Repository(UPSTREAM, REPOSITORY), Tag("1"), self.image)
        except PolicyDenied as denied:
            return str(denied)
        return ""


@asynccontextmanager
async def ward(cloud: EcrDouble, image: images.Manifest, *upstreams: str) -> AsyncIterator[Ward]:
    with credentials(cloud):
        made = Ward(cloud, image, upstreams or (UPSTREAM,))
        try:
            yield made
        finally:
            await made.gate.close()
            await made.sessions.aclose()


@pytest.mark.anyio
async def test_a_finding_that_comes_later_is_seen_a_while_later(cloud: EcrDouble, image: images.Manifest) -> None:
    held = cloud.registry().add(image, IMAGE)
    held.scan(image.digest)
    async with ward(cloud, image) as watched:
        assert await watched.check() == ""
        held.scan(image.digest, CRITICAL=1)
        watched.now += DONE_SECONDS - 1
        assert await watched.check() == ""
        watched.now += 1
        assert "1 finding (1 CRITICAL)" in await watched.check()
        assert cloud.count(SCAN) == 2


@pytest.mark.anyio
async def test_what_ecr_said_last_counts_while_it_cannot_be_asked_but_not_for_ever(
    cloud: EcrDouble, image: images.Manifest
) -> None:
    """B"""
    cloud.registry().add(image, IMAGE).scan(image.digest)
    async with ward(cloud, image) as watched:
        assert await watched.check() == ""
        cloud.deny(SCAN)
        for _ in range(3):
            watched.now += DONE_SECONDS
            assert await watched.check() == ""
        assert cloud.count(SCAN) == 4
        assert await watched.check() == ""
        watched.now += OPEN_SECONDS - 1
        assert await watched.check() == ""
        assert cloud.count(SCAN) == 4  # who fails is left in peace for moments
        watched.now += KEPT_SECONDS
        assert "(UNKNOWN)" in await watched.check()


@pytest.mark.anyio
async def test_many_clients_are_one_question_and_one_push(cloud: EcrDouble, image: images.Manifest) -> None:
    async with ward(cloud, image) as watched:
        told = await asyncio.gather(*(watched.check() for _ in range(50)))
        assert all("(ABSENT)" in one for one in told)
        assert cloud.count(SCAN) == 1
        assert watched.pushed == [(Repository(UPSTREAM, REPOSITORY), watched.image.digest, Tag("1"))]


@pytest.mark.anyio
async def test_an_image_that_the_target_does_not_take_is_never_scanned(
    cloud: EcrDouble, image: images.Manifest
) -> None:
    async with ward(cloud, image, "ghcr.io") as watched:
        assert (
            "prod takes no images of this kind; have it taken out of policy.scan_gate.images" in await watched.check()
        )
        assert (cloud.count(SCAN), watched.pushed) == (0, [])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("PENDING", "the scan is under way"),
        ("UNSUPPORTED_IMAGE", "ECR says that it cannot scan it"),
        ("FAILED", "ECR says that it cannot scan it"),
        (None, "turn on scanning for the repository"),
    ],
)
async def test_who_is_refused_is_told_why_there_is_no_scan(
    cloud: EcrDouble, image: images.Manifest, status: str | None, hint: str
) -> None:
    held = cloud.registry().add(image, IMAGE)
    if status:
        held.scan(image.digest, status)
    async with ward(cloud, image) as watched:
        assert hint in await watched.check()
        assert watched.pushed == []

"""Amazon ECR on the page: what is on its way there, what was refused and why, and another try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import StartMillpond
from tests.ecr.fleet import DEV, targets
from tests.page.conftest import OpenDesk
from tests.page.desk import PATIENCE, TOKEN
from tests.page.scene import picture
from tests.support.ecr import EcrDouble
from tests.support.images import OCI_LAYER, Manifest, blob, image, noise
from tests.support.millpond import Millpond
from tests.support.pulls import pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

expect.set_options(timeout=PATIENCE)

_TAGS = ("1", "2", "3")


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as running:
        yield running


@pytest.fixture
def images(hub: ScriptedUpstream) -> dict[str, Manifest]:
    """docker.io/library/tool, by tag."""
    made = {tag: image([blob(b"".join(noise(20_000, int(tag))), OCI_LAYER)]) for tag in _TAGS}
    for tag, each in made.items():
        hub.add(each, "library/tool", tag)
    return made


@pytest.fixture
def pond(start_millpond: StartMillpond, hub: ScriptedUpstream, cloud: EcrDouble, tmp_path: Path) -> Millpond:
    """As everywhere, with the target dev."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    ecr = {"targets": targets(cloud, read=False)["targets"][:1]}
    admin = {"token_file": str(token)}
    return start_millpond({"docker.io": hub.upstream()}, env=cloud.environment, ecr=ecr, admin=admin)


def _pull(pond: Millpond, images: dict[str, Manifest], *tags: str) -> None:
    for tag in tags:
        pull(f"{pond.url}/v2/docker.io/library/tool", images[tag], tag)


def test_the_queue_its_push_and_what_is_done_are_counted_as_they_are(
    desk: OpenDesk, pond: Millpond, cloud: EcrDouble, images: dict[str, Manifest]
) -> None:
    stall = cloud.stall("PutImage")
    _pull(pond, images, *_TAGS)
    assert stall.reached.wait(PATIENCE / 1000)
    page = desk().open()
    section = page.locator("#ecr")
    expect(section).to_contain_text("2 waiting, 1 pushing, 0 done")  # one at a time in one repository
    expect(section.locator(".mark")).to_have_text("takes pushes")
    stall.release()
    expect(section).to_contain_text("0 waiting, 3 done")
    expect(section).not_to_contain_text("Not pushed")
    page.reload()
    expect(page.locator("#images tbody tr").filter(has_text="dev")).to_have_count(3)


def test_what_ecr_rejects_is_told_with_its_reason_and_pushed_after_all_when_that_is_asked_for(
    desk: OpenDesk, pond: Millpond, cloud: EcrDouble, images: dict[str, Manifest]
) -> None:
    cloud.fail("PutImage", "InvalidParameterException", times=2, message="the lifecycle of this repository forbids it")
    _pull(pond, images, "1", "2")
    wait_until(lambda: cloud.count("PutImage") == 2, "both have been rejected")
    seat = desk()
    page = seat.open()
    expect(page.locator("#headline")).to_have_text("ECR dev rejected 2 images")
    section = page.locator("#ecr")
    rows = section.locator("li").filter(has=page.get_by_role("button", name="Retry"))
    expect(rows).to_have_count(2)
    expect(section).to_contain_text("0 waiting, 0 done, 2 rejected")
    expect(rows.first.locator(".why")).to_contain_text("the lifecycle of this repository forbids it")
    registry = cloud.registry(*DEV)
    assert not registry.image("docker.io/library/tool", "1")
    picture(seat, "ecr-rejected")

    section.get_by_role("button", name="Retry docker.io/library/tool:1 to dev").click()
    page.locator("#token").fill(TOKEN)
    page.locator("#session").get_by_role("button", name="Sign in").click()
    expect(page.locator("#said")).to_have_text("1 push begun again.")
    expect(section).to_contain_text("0 waiting, 1 done, 1 rejected")
    assert registry.image("docker.io/library/tool", "1")
    assert not registry.image("docker.io/library/tool", "2")

    section.get_by_role("button", name="Retry all").click()
    expect(section).to_contain_text("0 waiting, 2 done")
    expect(section).not_to_contain_text("Not pushed")
    expect(page.locator("#health")).to_have_attribute("data-level", "well")
    assert registry.image("docker.io/library/tool", "2")

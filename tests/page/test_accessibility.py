"""The page for whoever reads it with other eyes, judged by axe-core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.axe import findings
from tests.page.conftest import OpenDesk
from tests.page.desk import DESK, PHONE
from tests.support.faults import refuse
from tests.support.images import simple_image
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream

_IMAGE = "docker.io/library/alpine:3.20"
_EYES = [
    pytest.param({"color_scheme": "light"}, id="light"),
    pytest.param({"color_scheme": "dark"}, id="dark"),
    pytest.param({"color_scheme": "light", "viewport": PHONE}, id="phone"),
]


@pytest.fixture
def busy(pond: Millpond, hub: ScriptedUpstream, images_directory: Path) -> Millpond:
    """Something in every part of the page, failures among it."""
    image = simple_image(images_directory, seed=72)
    hub.add(image, "library/alpine", "3.20")
    base = f"{pond.url}/v2/docker.io/library"
    pull(f"{base}/alpine", image, "3.20")
    pull(f"{base}/alpine", image, "3.20")
    hub.script("redis", then=refuse(429, retry_after="300"), method="")
    assert get(f"{base}/redis/manifests/7.4").status == 429
    return pond


@pytest.mark.parametrize("eyes", _EYES)
def test_the_page_has_no_serious_findings(busy: Millpond, desk: OpenDesk, eyes: dict[str, Any]) -> None:
    page = desk(**eyes).open()
    expect(page.locator("#images tbody tr")).to_have_count(1)
    expect(page.locator("#pulls tbody tr")).to_have_count(3)
    assert findings(page) == []


@pytest.mark.parametrize("eyes", _EYES)
def test_panels_and_dialogs_have_no_serious_findings(busy: Millpond, desk: OpenDesk, eyes: dict[str, Any]) -> None:
    page = desk(**eyes).open(f"#image={_IMAGE}")
    expect(page.locator("#panel .steps li").first).to_be_visible()
    assert findings(page, "#panel") == []
    page.locator("#panel").get_by_role("button", name="Purge").click()
    assert findings(page, "#panel") == []
    page.keyboard.press("Escape")
    page.locator("#warm-open").click()
    assert findings(page, "#warm") == []
    page.keyboard.press("Escape")
    page.locator("#sign-in").click()
    expect(page.locator("#session")).to_be_visible()
    assert findings(page, "#session") == []


def test_the_colours_follow_the_system(desk: OpenDesk) -> None:
    def brightness(scheme: str) -> int:
        page = desk(color_scheme=scheme, viewport=DESK).open()
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert brightness("light") > 650
    assert brightness("dark") < 120


def test_changes_of_health_are_announced_and_numbers_that_live_are_not(desk: OpenDesk) -> None:
    page = desk().open()
    live = page.evaluate("[...document.querySelectorAll('[role=status], [aria-live]')].map(each => each.id)")
    assert "headline" in live
    assert not {"figures", "flights", "plot", "pulls"} & set(live)

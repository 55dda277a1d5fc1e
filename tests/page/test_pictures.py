"""Pictures of the page at work, kept in build/screenshots for whoever wants to look."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.desk import PATIENCE, PHONE, Desk
from tests.page.scene import picture, scene

_SECONDS = 12.0  # of traffic, before the pictures are taken


@pytest.mark.slow
def test_the_page_stays_calm_on_a_busy_day_and_says_what_is_wrong_on_a_bad_one(
    browser: Browser, tmp_path: Path
) -> None:
    with scene(tmp_path) as day:
        desks = {
            "light": Desk(browser, day.millpond, color_scheme="light"),
            "dark": Desk(browser, day.millpond, color_scheme="dark"),
            "phone": Desk(browser, day.millpond, color_scheme="dark", viewport=PHONE),
        }
        desks["light"].open()
        picture(desks["light"], "first-start")
        with day.playing(_SECONDS):
            for each in desks.values():
                each.open()
            day.wait(_SECONDS)
            for name, each in desks.items():
                expect(each.page.locator("#headline")).to_have_text(re.compile("^Healthy"), timeout=PATIENCE)
                expect(each.page.locator("#flights li").first).to_be_visible(timeout=PATIENCE)
                picture(each, name)
            desks["light"].page.locator("#pulls tbody a").first.click()
            expect(desks["light"].page.locator("#panel .steps li").first).to_be_visible(timeout=PATIENCE)
            picture(desks["light"], "panel", whole=False)
            day.trouble()
            for name in ("dark", "phone"):
                headline = desks[name].page.locator("#headline")
                expect(headline).to_contain_text("quay.io is failing, and", timeout=PATIENCE)
                picture(desks[name], f"trouble-{name}")
        for each in desks.values():
            assert each.complaints == []
            each.close()

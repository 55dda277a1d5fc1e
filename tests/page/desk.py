"""An operator at a browser: a page that is open, and what it has said that no page should say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.support.millpond import Millpond
from tests.support.programs import program

TOKEN: Final = "0123456789abcdef-of-the-operator"
DESK: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}

# Milliseconds that a condition may take on a machine that is busy with other things.
PATIENCE: Final = 20_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, without a window."""
    with sync_playwright() as playwright:
        browser = _launch(playwright)
        try:
            yield browser
        finally:
            browser.close()


def _launch(playwright: Playwright) -> Browser:
    # Chromium refuses to sandbox itself as root; what it opens here is ours.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=program("chromium"), args=[*sandbox, "--disable-dev-shm-usage"])


class Desk:
    """One page of one Millpond. `complaints` are errors and warnings of its console, `strange` requests to others."""

    def __init__(self, browser: Browser, millpond: Millpond, url: str = "", **options: Any) -> None:
        """`url` is where the page is seen, when that is not the admin port itself."""
        self.millpond = millpond
        self.url = url or millpond.admin_url
        self.complaints: list[str] = []
        self.strange: list[str] = []
        self._context = browser.new_context(viewport=options.pop("viewport", DESK), **options)
        self._context.set_default_timeout(PATIENCE)
        self.page: Page = self._context.new_page()
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self._heard("error", str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def open(self, fragment: str = "") -> Page:
        """The page when the stream has come to life."""
        self.page.goto(f"{self.url}/{fragment}")
        self.page.wait_for_selector("#link[data-state=live]")
        self.page.wait_for_selector("#figures dd")
        return self.page

    def close(self) -> None:
        self._context.close()

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.strange.append(url)

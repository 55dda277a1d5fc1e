"""The line between the page and Millpond, when it breaks without a word to either."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import StartMillpond
from tests.page.desk import PATIENCE, Desk
from tests.support.millpond import Millpond
from tests.support.relay import CountingRelay, Rate

expect.set_options(timeout=PATIENCE)

_HEARTBEAT = 0.25  # seconds between two ticks; the page follows what they say


class _Hole(Rate):
    """What it is told to pass is swallowed, and nobody hears of it: a firewall that has forgotten the connection."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self._over = threading.Event()

    def spend(self, count: int) -> None:
        self._over.wait()

    def close(self) -> None:
        self._over.set()


@pytest.fixture
def quick(start_millpond: StartMillpond, tmp_path: Path) -> Millpond:
    """The real program; only its heartbeat is another, which the interpreter sets at start."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import proxy.admin.stream\nproxy.admin.stream.PERIOD = {_HEARTBEAT}\n")
    return start_millpond({}, env={"PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[2]}"})


@pytest.fixture
def relay(quick: Millpond) -> Iterator[CountingRelay]:
    """Stands between the page and Millpond."""
    running = CountingRelay(quick.admin_port).start()
    yield running
    running.stop()


def test_a_line_that_is_dead_without_a_word_is_noticed_by_its_silence_and_laid_anew(
    browser: Browser, quick: Millpond, relay: CountingRelay
) -> None:
    seat, hole = Desk(browser, quick, f"http://127.0.0.1:{relay.port}"), _Hole()
    page = seat.open()
    try:
        expect(page.locator("#headline")).to_have_text(re.compile("^Healthy"))
        before = len(relay.connections)

        relay.rate = hole
        expect(page.locator("#link")).to_have_text(re.compile(r"^No word since \d\d:\d\d:\d\d$"))
        expect(page.locator("#headline")).to_have_text("No answer from Millpond")
        expect(page.locator("#health")).to_have_attribute("data-level", "ill")

        relay.rate = None  # for connections that are made from now on: what is dead stays dead
        expect(page.locator("#link")).to_have_text("Live")
        expect(page.locator("#headline")).to_have_text(re.compile("^Healthy"))
        assert len(relay.connections) > before
    finally:
        hole.close()
        seat.close()

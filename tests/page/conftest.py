"""A browser for each module, a Millpond with scripted upstreams for each test, and pages of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.conftest import StartMillpond
from tests.page.desk import TOKEN, Desk, chromium
from tests.support.millpond import Millpond
from tests.support.programs import require
from tests.support.scripted import ScriptedUpstream

OpenDesk = Callable[..., Desk]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """It keeps an event loop running in this thread, and is gone before other modules want one of their own."""
    require("chromium")
    with chromium() as running:
        yield running


@pytest.fixture
def hub() -> Iterator[ScriptedUpstream]:
    """Stands for Docker Hub."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def pond(start_millpond: StartMillpond, hub: ScriptedUpstream, tmp_path: Path) -> Millpond:
    """A Millpond with that one upstream, whose changes want TOKEN."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    return start_millpond({"docker.io": hub.upstream()}, admin={"token_file": str(token)})


@pytest.fixture
def desk(browser: Browser, pond: Millpond) -> Iterator[OpenDesk]:
    """Sits down at a page of `pond`, with options of a browser's context."""
    open_desks: list[Desk] = []

    def sit(**options: Any) -> Desk:
        open_desks.append(Desk(browser, pond, **options))
        return open_desks[-1]

    yield sit
    for each in open_desks:
        each.close()

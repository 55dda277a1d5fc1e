"""What the tests of the commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.scripted import ScriptedUpstream


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made

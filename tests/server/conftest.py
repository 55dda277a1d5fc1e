"""Files to serve."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

SIZE = 24 * 1024 * 1024 + 12345
"""More than what kernels hold for a client that does not read, several windows, and no round number."""


@pytest.fixture(scope="session")
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture
def blob(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(content)
    return path

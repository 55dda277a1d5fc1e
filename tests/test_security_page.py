"""SECURITY.md says of each invariant and each threat by which tests it is held, and these tests exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
PAGE: Final = TESTS.parent / "SECURITY.md"
INVARIANTS: Final = "WPKSHAB"

_NAMED: Final = re.compile(r"`([\w./-]+\.py)?(?:::(test_\w+))?`")


def named(text: str, base: Path) -> Iterator[tuple[Path, str | None]]:
    """The tests that `text` names: a file, or a function of it; `::name` is one of the file named before."""
    file = base
    for path, function in _NAMED.findall(text):
        if path:
            file = (base / path).resolve()
        if path or function:
            yield file, function or None


@cache
def functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def section(title: str) -> str:
    """The page's part below a heading of the second level."""
    _, _, rest = PAGE.read_text().partition(f"\n## {title}")
    assert rest, f"there is no part {title}"
    return rest.partition("\n## ")[0]


def threats() -> list[str]:
    return re.findall(r"^- (.+(?:\n  .+)*)", section("Threats"), re.MULTILINE)


@pytest.mark.parametrize(("page", "base"), [(PAGE, TESTS), (TESTS / "faults" / "README.md", TESTS / "faults")])
def test_every_test_that_a_page_names_exists(page: Path, base: Path) -> None:
    found = list(named(page.read_text(), base))
    assert len(found) > 40
    missing = [
        f"{file.relative_to(TESTS)}::{function or ''}"
        for file, function in found
        if not file.is_file() or (function and function not in functions(file))
    ]
    assert not missing


def test_every_invariant_has_its_tests() -> None:
    rows = dict(re.findall(r"^\| \*\*(\w)\*\* \| (.+) \|$", section("Invariants"), re.MULTILINE))
    assert "".join(rows) == INVARIANTS
    for letter, row in rows.items():
        assert len([function for _, function in named(row, TESTS) if function]) >= 2, letter


@pytest.mark.parametrize("threat", threats(), ids=lambda threat: re.sub(r"\W+", " ", threat)[:40].strip())
def test_every_threat_has_its_tests(threat: str) -> None:
    assert list(named(threat, TESTS))

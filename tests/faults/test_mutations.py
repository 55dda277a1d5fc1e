"""The table of mutations fits the program, and whoever runs it is told the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import mutate
from tests.faults.mutations import MUTATIONS, Behaviour, Edit, Mutation

_PROGRAM = "LIMIT = 3\nSPARE = 1\n\ndef serve():\n    return 'blob'\n"
_TESTS = f"""
from proxy import program

def {mutate._WORKS}():
    assert program.serve() == 'blob'

def test_the_limit_is_three():
    assert program.LIMIT == 3

def test_there_is_a_limit():
    assert program.LIMIT

def test_nothing_is_right():
    assert not program.LIMIT
"""


def mutation(old: str, new: str, *tests: str, row: int = 1) -> Mutation:
    return Mutation(Behaviour(row, "H", f"{old} is not {new}"), (Edit("program.py", old, new),), tests)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two files, as small as can be mutated."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it needs none, and loading them takes longest
    for name, content in {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "proxy/__init__.py": "",
        "proxy/program.py": _PROGRAM,
        "tests/test_program.py": _TESTS,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_each_mutation_can_be_made_and_each_of_its_tests_is_there() -> None:
    """A table that is out of date would be found out only by whoever runs it."""
    assert mutate.problems(MUTATIONS) == []


def test_the_table_has_all_invariants_and_half_of_the_rows() -> None:
    assert set("".join(entry.behaviour.invariants for entry in MUTATIONS)) == set("WPKSHAB ")
    assert len({entry.behaviour.row for entry in MUTATIONS}) >= 24


def test_what_no_test_notices_survives_and_what_breaks_the_program_is_no_verdict(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [
        mutation("LIMIT = 3", "LIMIT = 4", "test_the_limit_is_three", "test_there_is_a_limit"),
        mutation("LIMIT = 3", "LIMIT = 0", "test_there_is_a_limit"),
        mutation("'blob'", "'nothing'", "test_the_limit_is_three"),
    ]
    assert mutate.main([], table, tree) == 1
    said = capsys.readouterr().out
    assert "test_there_is_a_limit does not notice" in said
    assert "the program does not even serve any more" in said
    assert "1 of 3 mutations were noticed" in said
    assert (tree / "proxy" / "program.py").read_text() == _PROGRAM


def test_the_rows_that_are_asked_for_are_all_that_is_done(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [
        mutation("LIMIT = 3", "LIMIT = 4", "test_there_is_a_limit"),
        mutation("LIMIT = 3", "LIMIT = 4", "test_the_limit_is_three", row=2),
    ]
    assert mutate.main(["2"], table, tree) == 0
    assert "1 of 1 mutations were noticed" in capsys.readouterr().out
    assert mutate.main(["7"], table, tree) == 1
    assert "no mutation belongs to any of the rows [7]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "test", "message"),
    [
        (("LIMIT = 3", "LIMIT = 4"), "test_nothing_is_right", "tests without a mutation: failed"),
        (("LIMIT = 9", "LIMIT = 4"), "test_there_is_a_limit", "has 'LIMIT = 9' 0 times, not once"),
        ((" = ", " == "), "test_there_is_a_limit", "has ' = ' 2 times, not once"),
        (("LIMIT = 3", "LIMIT = "), "test_there_is_a_limit", "proxy/program.py would be no Python"),
        (("LIMIT = 3", "LIMIT = 4"), "test_that_is_not_there", "there are 0 tests that are called test_that_is_not_"),
    ],
)
def test_what_cannot_prove_anything_is_said_beforehand(
    tree: Path, capsys: pytest.CaptureFixture[str], edit: tuple[str, str], test: str, message: str
) -> None:
    assert mutate.main([], [mutation(*edit, test)], tree) == 1
    assert message in capsys.readouterr().out


def test_a_test_without_end_is_no_verdict(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tree / "tests" / "test_program.py").open("a") as file:
        file.write("\ndef test_that_waits():\n    while program.LIMIT == 4:\n        pass\n")
    monkeypatch.setattr(mutate, "_DEADLINE", 15.0)
    assert mutate.main([], [mutation("LIMIT = 3", "LIMIT = 4", "test_that_waits")], tree) == 1
    assert "not finished within 15 s" in capsys.readouterr().out

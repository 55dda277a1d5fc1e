"""Records of targets that are not configured any more: kept for a while, then forgotten."""

from __future__ import annotations

from typing import Any, Final

import pytest

from proxy.ecr import former as former_module
from proxy.ecr.former import KEPT_DAYS, retire
from proxy.ecr.queue import Queue
from proxy.oci.digest import Digest
from tests.ecr.pond import APP, Clock, Notebook

DAY: Final = 86_400.0
A, B = Digest.of(b"a"), Digest.of(b"b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> Notebook:
    """With two jobs of dev, one of which is done, one of prod, and a repository of each that is not finished."""
    book = Notebook()
    queue = Queue({}, book, clock)
    for target, digest in (("dev", A), ("dev", B), ("prod", A)):
        assert queue.add(target, APP, digest)
    done = queue.find(f"dev {APP} {B}")
    assert done
    queue.finish(done, queue.begin(done), "")
    for target in ("dev", "prod"):
        book.note(f"!creation {target} docker.io/library/app", [])
    return book


def start(book: Notebook, clock: Clock, *configured: str) -> dict[str, list[Any]]:
    """What a process that starts now has as jobs."""
    return retire(book.read(), configured, book, clock())


def of(book: Notebook, target: str) -> set[str]:
    return {key for key in book.read() if target in key.split(" ") and not key.startswith("!former")}


def test_only_jobs_of_configured_targets_are_in_the_queue(book: Notebook, clock: Clock) -> None:
    assert set(start(book, clock, "prod")) == {f"prod {APP} {A}"}
    assert set(start(book, clock, "dev", "prod")) == {f"dev {APP} {A}", f"dev {APP} {B}", f"prod {APP} {A}"}


def test_a_target_that_is_not_configured_for_one_start_finds_everything_again(
    book: Notebook, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    before = book.read()
    start(book, clock, "prod")
    said = capsys.readouterr().out
    assert all(word in said for word in ("not configured any more", "target=dev", "unpushed=1", "until=2023-11-28"))
    clock.now += (KEPT_DAYS - 1) * DAY
    start(book, clock, "prod")
    assert len(start(book, clock, "dev", "prod")) == 3
    assert book.read() == before
    clock.now += 2 * DAY
    start(book, clock, "prod")
    assert of(book, "dev") == {key for key in before if "dev" in key.split(" ")}, "the days begin anew"


def test_a_target_that_stays_away_is_forgotten_and_no_other(
    book: Notebook, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    before = book.read()
    start(book, clock, "prod")
    clock.now += KEPT_DAYS * DAY + 1
    capsys.readouterr()
    start(book, clock, "prod")
    assert book.read() == {key: record for key, record in before.items() if "prod" in key.split(" ")}
    said = capsys.readouterr().out
    assert all(word in said for word in ("is forgotten", "target=dev", "records=3", "unpushed=1"))


def test_a_start_forgets_so_many_records_at_most(book: Notebook, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_module, "FORGOTTEN_AT_ONCE", 2)
    start(book, clock, "prod")
    clock.now += KEPT_DAYS * DAY + 1
    start(book, clock, "prod")
    assert len(of(book, "dev")) == 1
    start(book, clock, "prod")
    assert not of(book, "dev")
    assert "!former dev" not in book.read()


@pytest.mark.parametrize("since", [[], ["x"], [None], [float("nan")], [9e12], [1, 2]])
def test_a_day_that_makes_no_sense_begins_anew(book: Notebook, clock: Clock, since: list[Any]) -> None:
    """So does one that lies ahead: the clock was wrong, and nothing stays for ever for that."""
    held = book.read() | {"!former dev": since}
    retire(held, ["prod"], book, clock())
    assert book.read()["!former dev"] == [clock()]
    assert len(of(book, "dev")) == 3

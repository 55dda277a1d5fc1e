"""How requests become pulls where clients look alike, and that the history stays small whatever they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from proxy.cache.register import Register
from proxy.observe.events import Served
from proxy.observe.history import QUIET_SECONDS, History
from proxy.observe.openings import MAX_OPEN, MAX_OPEN_ALIKE
from proxy.observe.pull import Pull
from proxy.observe.sums import DAYS, IMAGES_A_DAY

DAY: Final = 86400.0
NOON: Final = 20_000.5 * DAY
INDEX, IMAGE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
LAYERS: Final = ["sha256:" + digit * 64 for digit in "123"]
NAMES: Final = {INDEX: [IMAGE], IMAGE: LAYERS}


@dataclass
class Day:
    """A history, and what clients ask of the registry port in the course of a day."""

    register: Register = field(default_factory=lambda: Register(None))
    now: float = NOON
    max_pulls: int = 50

    def __post_init__(self) -> None:
        self.done: list[Pull] = []
        self.history = History(
            self.register,
            names=lambda _upstream, _repository, digest: NAMES.get(digest, ()),
            fetched=dict,
            clock=lambda: self.now,
            max_pulls=self.max_pulls,
        )
        self.history.listen(self.done.append)

    def begin(self, item: str, method: str = "GET", **fields: Any) -> Served:
        kind = "blobs" if item in LAYERS else "manifests"
        made = {"kind": kind, "upstream": "docker.io", "repository": "library/app", "item": item, **fields}
        served = Served("id", made.pop("client", "10.0.0.1"), method, "/v2/", **made)
        self.history.began(served)
        return served

    def end(self, served: Served, status: int = 200, origin: str = "hit", size: int = 100) -> None:
        served.status, served.origin, served.bytes = status, origin, size
        served.digest = served.item if ":" in served.item else INDEX
        self.history.observe(served)

    def ask(self, item: str, method: str = "GET", **fields: Any) -> None:
        self.end(self.begin(item, method, **fields))

    def requests(self) -> list[int]:
        """Of each pull, oldest first."""
        return [pull.requests for pull in reversed(self.history.pulls())]


@pytest.fixture
def day() -> Day:
    return Day()


def test_behind_one_address_each_part_goes_to_the_pull_that_lacks_it(day: Day) -> None:
    """Three nodes behind one gateway pull the same image, side by side."""
    for item in ("1", IMAGE, *LAYERS):
        for _ in range(3):
            day.ask(item)
    assert day.requests() == [5, 5, 5]


def test_the_next_pull_of_the_same_tag_is_another_pull_at_once(day: Day) -> None:
    for _ in range(2):
        day.ask("1", "HEAD")
        for item in (INDEX, IMAGE, *LAYERS):
            day.ask(item)
    assert day.requests() == [6, 6]


def test_two_tags_at_a_time_are_two_pulls_and_each_has_its_own_parts(day: Day) -> None:
    other, layer = "sha256:" + "c" * 64, "sha256:" + "9" * 64
    day.ask("1")
    served = day.begin("2")
    served.item = other  # as the answer has it: a tag of another image
    day.end(served)
    day.ask(IMAGE)
    for item in LAYERS:
        day.ask(item)
    assert day.requests() == [5, 1]
    day.ask(layer, kind="blobs")  # nothing says whose it is: the latest one's
    assert day.requests() == [5, 2]


def test_a_pull_lasts_as_long_as_anything_of_it_arrives(day: Day) -> None:
    day.ask("1")
    slow = day.begin(LAYERS[0])
    day.now += 600
    day.history.settle()
    assert not day.done
    day.end(slow)
    day.now += QUIET_SECONDS - 1
    day.history.settle()
    assert not day.done
    day.now += 1
    day.history.settle()
    [pull] = day.done
    assert (pull.requests, pull.seconds, pull.done) == (2, 600, True)
    day.ask(LAYERS[1])
    assert day.requests() == [2, 1]


def test_parts_without_a_manifest_are_told_but_count_as_no_pull(day: Day) -> None:
    """Behind a balancer an instance sees the layers of images whose manifests are at others."""
    day.ask(LAYERS[0])
    [pull] = day.history.pulls()
    assert pull.image == "docker.io/library/app"
    total = day.history.total()
    assert (total.pulls, total.served_bytes, total.saved_bytes) == (0, 100, 100)


def test_a_hit_that_turns_out_to_be_none_is_taken_back_from_the_sums(day: Day) -> None:
    day.ask("1")
    assert (day.history.total().pulls, day.history.total().hits) == (1, 1)
    day.end(day.begin(LAYERS[0]), origin="upstream")
    total = day.history.total()
    assert (total.pulls, total.hits, total.saved_pulls, total.saved_bytes) == (1, 0, 1, 100)


def test_neither_clients_nor_names_nor_time_make_it_grow(day: Day) -> None:
    """Ten thousand clients, each with an image of its own, on every second day of half a year."""
    for number in range(10_000):
        day.ask("1", client=f"10.0.{number >> 8}.{number & 255}", repository=f"team/app{number}", user="u" * 10)
    assert len(day.history.pulls(1)) == 1  # all that was told has been put together
    assert len(day.history._open) == MAX_OPEN
    assert len(day.done) == 10_000 - MAX_OPEN
    for _ in range(90):
        day.now += 2 * DAY
        day.history.settle()
        for number in range(IMAGES_A_DAY + 10):
            day.ask("1", repository=f"team/app{number}", client=str(number % 7))
        day.history.write()
    kinds = [key[0] for key in day.register.held]
    assert kinds.count("p") == day.max_pulls
    assert kinds.count("u") == DAYS / 2 + 1
    assert kinds.count("i") == (DAYS / 2 + 1) * IMAGES_A_DAY
    assert len(day.history.savings(1000)["images"]) == 100
    day.history.settle()
    assert [len(left) for left in (day.history._of, day.history._begun, day.history._ended)] == [0, 0, 0]


def test_one_client_does_not_fill_it_alone(day: Day) -> None:
    for _ in range(100):
        day.ask("1")
    assert day.history.total().pulls == 100
    assert len(day.history._open) == MAX_OPEN_ALIKE


def test_a_pull_began_when_its_first_request_did_however_late_it_is_put_together(day: Day) -> None:
    served = day.begin("1")
    day.now += 8
    served.seconds = 8
    day.end(served)
    day.now += 2
    [pull] = day.history.pulls()
    assert (pull.at, pull.seconds) == (NOON, 8)


def test_a_request_in_progress_is_told_while_it_lasts(day: Day) -> None:
    day.ask("1")
    slow = day.begin(LAYERS[0])
    assert [pull.outcome for pull in day.history.pulls()] == ["pulling"]
    day.end(slow)
    assert [pull.outcome for pull in day.history.pulls()] == ["complete"]
    assert day.requests() == [2]


def test_a_challenge_leaves_nothing_behind(day: Day) -> None:
    """Whether somebody looked meanwhile or not."""
    for look in (list, day.history.settle):
        served = day.begin("1")
        look()
        day.end(served, 401, origin="")
    assert day.history.pulls() == []
    day.now += QUIET_SECONDS + 1
    day.history.settle()
    assert day.done == []
    assert len(day.history._open) == 0


def test_what_ends_after_its_pull_was_closed_is_counted_all_the_same(day: Day) -> None:
    waiting = [day.begin("1") for _ in range(MAX_OPEN_ALIKE + 1)]
    day.history.settle()  # somebody looks at them while they are in progress
    for served in waiting:
        day.end(served)
    assert day.history.total().pulls == len(waiting)
    assert day.requests() == [1] * len(waiting)


def test_a_register_that_makes_no_sense_is_taken_for_what_does(day: Day) -> None:
    day.ask("1")
    day.history.write()
    held = day.register.held
    held |= {"p 2": [1, 2], "p 3": held["p 1"], "u then docker.io": [1], "u 2026-01-01 docker.io": ["x"], "z": []}
    again = Day(Register(None))
    for key, record in held.items():
        again.register.note(key, record)
    again = Day(again.register)
    assert [pull.row() for pull in again.history.pulls()] == [{**day.history.pulls()[0].row(), "done": True}]
    assert again.history.total() == day.history.total()
    assert "p 2" not in again.register.held
    assert "p 3" not in again.register.held


def test_what_a_client_writes_into_it_is_cut_short(day: Day) -> None:
    served = day.begin("x" * 100_000)
    served.why = "y" * 100_000
    day.end(served, 404)
    [pull] = day.history.pulls()
    assert len(str(pull.record())) < 1000

"""Daily sums by upstream and by image: a bounded number of rows that outlive the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from typing import Any, Final

# Of each kind of row: a quarter, for whoever compares months.
DAYS: Final = 90
# Images that have rows of their own in one day. Those that come later on that day count for their upstream only, so
# that pulling a great many names costs some megabytes, and no more.
IMAGES_A_DAY: Final = 500
# Images in one answer, those that saved most.
IMAGES_TOLD: Final = 100


@dataclass(slots=True)
class Sum:
    """Of one upstream or image, in one day. Bytes are of bodies.

    `requests` are those that were answered from somewhere, `answered` those for which nothing was fetched. `pulls` are
    manifests with what they name, `hits` those that needed nothing of upstream, `saved_pulls` those that Docker Hub
    would have counted. `saved_bytes` were sent without being fetched for that. `fetched_bytes` are all that came from
    upstream, also for nobody; an image has none.
    """

    requests: int = 0
    answered: int = 0
    pulls: int = 0
    hits: int = 0
    served_bytes: int = 0
    saved_bytes: int = 0
    saved_pulls: int = 0
    fetched_bytes: int = 0
    changed: bool = field(default=False, init=False, repr=False)  # since it was written

    def answer(self, size: int, saved: int, answered: int, counts: tuple[int, int, int]) -> None:
        """One more request, for `size` bytes of which `saved` were not fetched. By `counts` there are more pulls, hits
        and saved pulls, or fewer."""
        pulls, hits, saved_pulls = counts
        self.requests += 1
        self.answered += answered
        self.pulls += pulls
        self.hits += hits
        self.served_bytes += size
        self.saved_bytes += saved
        self.saved_pulls += saved_pulls
        self.changed = True

    def fetch(self, size: int) -> None:
        """Bytes that came from upstream."""
        self.fetched_bytes += size
        self.changed = True

    def add(self, other: Sum) -> None:
        self.requests += other.requests
        self.answered += other.answered
        self.pulls += other.pulls
        self.hits += other.hits
        self.served_bytes += other.served_bytes
        self.saved_bytes += other.saved_bytes
        self.saved_pulls += other.saved_pulls
        self.fetched_bytes += other.fetched_bytes
        self.changed = True


_FIELDS: Final = tuple(one.name for one in fields(Sum) if one.name != "changed")
_Rows = dict[str, dict[str, Sum]]  # by day, then by upstream or image


class Sums:
    """Keys of the register are `u <day> <upstream>` and `i <day> <image>`."""

    def __init__(self, records: Mapping[str, list[Any]]) -> None:
        self._upstreams: _Rows = {}
        self._images: _Rows = {}
        self._kinds: Final = {"u": self._upstreams, "i": self._images}
        self._changed: set[str] = set()  # days
        for key, record in records.items():
            kind, _, rest = key.partition(" ")
            day, _, name = rest.partition(" ")
            if kind in self._kinds and name:
                try:
                    date.fromisoformat(day)
                    self._kinds[kind].setdefault(day, {})[name] = _sum(record)
                except (TypeError, ValueError, OverflowError):
                    continue

    def rows(self, day: str, upstream: str, image: str) -> tuple[Sum, ...]:
        """Those to which something is about to be added. `image` is a repository with its upstream, without tag; empty:
        it counts for the upstream only."""
        self._changed.add(day)
        upstreams = self._upstreams.setdefault(day, {})
        whole = upstreams.get(upstream)
        if whole is None:
            whole = upstreams[upstream] = Sum()
        if not image:
            return (whole,)
        images = self._images.setdefault(day, {})
        row = images.get(image)
        if row is None:
            if len(images) >= IMAGES_A_DAY:
                return (whole,)
            row = images[image] = Sum()
        return whole, row

    def write(self, note: Callable[[str, list[Any] | None], None], today: str) -> None:
        """Note the days that have changed since the last time, and drop those that are too old."""
        for kind, days in self._kinds.items():
            for day in self._changed:
                for name, row in days.get(day, {}).items():
                    if row.changed:
                        note(f"{kind} {day} {name}", [getattr(row, key) for key in _FIELDS])
                        row.changed = False
        self._changed.clear()
        oldest = _before(today, DAYS)
        for kind, days in self._kinds.items():
            for day in [day for day in days if day < oldest]:
                for name in days.pop(day):
                    note(f"{kind} {day} {name}", None)

    def total(self) -> Sum:
        """Over all days that are kept, and all upstreams."""
        return _added(row for rows in self._upstreams.values() for row in rows.values())

    def since(self, today: str) -> str:
        """The first day of which anything is kept."""
        return min(self._upstreams, default=today)

    def savings(self, days: int, today: str) -> dict[str, Any]:
        """`days` with a row for each upstream, oldest first, and the `images` that saved most in them."""
        first = _before(today, max(1, min(days, DAYS)) - 1)
        told = [
            {"day": day, "upstream": name, **{key: getattr(row, key) for key in _FIELDS}}
            for day, rows in sorted(self._upstreams.items())
            if day >= first
            for name, row in sorted(rows.items())
        ]
        images: dict[str, list[int]] = {}
        for day, rows in self._images.items():
            if day >= first:
                for name, row in rows.items():
                    sums = images.setdefault(name, [0, 0, 0])
                    sums[0] += row.pulls
                    sums[1] += row.served_bytes
                    sums[2] += row.saved_bytes
        best = sorted(images.items(), key=lambda item: (-item[1][2], -item[1][0], item[0]))[:IMAGES_TOLD]
        return {
            "days": told,
            "images": [
                {"name": name, "pulls": pulls, "served_bytes": served, "saved_bytes": saved}
                for name, (pulls, served, saved) in best
            ],
            "since": self.since(today),
        }


def _sum(record: list[Any]) -> Sum:
    return Sum(*(int(number) for number in record))


def _added(rows: Iterable[Sum]) -> Sum:
    total = Sum()
    for row in rows:
        total.add(row)
    return total


def _before(day: str, days: int) -> str:
    return (date.fromisoformat(day) - timedelta(days=days)).isoformat()

"""The history: the last pulls, and what they come to by day. Requests of one client are put together as pulls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

from proxy.observe.events import Served
from proxy.observe.openings import Names, OpenPulls
from proxy.observe.pull import Pull, day_of, restored
from proxy.observe.rates import HITS
from proxy.observe.sums import Sum, Sums
from proxy.observe.surviving import surviving

# The last pulls that are kept: an evening of a busy cluster, in two megabytes.
MAX_PULLS: Final = 2000
# A pull is done when nothing more has been asked for so long: clients ask for the next part within milliseconds, and
# while one arrives the pull goes on.
QUIET_SECONDS: Final = 5.0
# Pulls are looked through for those that are done so often; all is written down after so many such looks.
_TICK_SECONDS: Final = 1.0
_TICKS_TO_WRITE: Final = 10
# Pulls that are told or noted before the event loop has its turn: a few milliseconds.
_STEPS: Final = 50
# Requests that are put together at a time: a quarter of a millisecond.
_TOGETHER: Final = 64

_KINDS: Final = frozenset({"manifests", "blobs"})
Listener = Callable[[Pull], None]


class Register(Protocol):
    """Where the history is kept over a restart: records by key."""

    @property
    def held(self) -> Mapping[str, list[Any]]: ...
    def note(self, key: str, record: list[Any] | None) -> None: ...


class History:
    """`began` and `observe` are told of each request on the registry port, before and after it.

    Which pull a request belongs to is found out a moment after its end, for some at a time, or when somebody looks. Of
    those that are answered out of memory there may be ten thousand a second, and one at a time they would cost more.

    A pull is what one client (address and user) asks for in one repository, from a manifest on, until it has asked for
    nothing more for `QUIET_SECONDS`. Parts without a manifest, as an instance behind a balancer sees them, are entries
    too, but count as no pull in the sums.
    """

    def __init__(
        self,
        register: Register,
        *,
        names: Names,
        fetched: Callable[[], Mapping[str, float]],
        clock: Callable[[], float],
        max_pulls: int = MAX_PULLS,
    ) -> None:
        """`fetched` gives the bytes that came from each upstream since the start; `clock` is wall time that never
        jumps, in seconds."""
        self._register = register
        self._fetched = fetched
        self._fetched_before: dict[str, float] = {}
        self._clock = clock
        self._max_pulls = max_pulls
        self._sums = Sums(register.held)
        self._pulls = deque(_restored(register, max_pulls), max_pulls)  # in the order of their numbers
        self._number = self._pulls[-1].number if self._pulls else 0
        self._open = OpenPulls(names, self._finished)
        self._begun: dict[int, Served] = {}  # requests in progress that nobody has looked at, by their identity
        self._of: dict[int, Pull] = {}  # the pulls of those that somebody has
        self._ended: list[tuple[Served, float]] = []  # requests that are to be put together, and when they ended
        self._listeners: list[Listener] = []

    # What is told

    def began(self, served: Served) -> None:
        """A request has been understood, and will be answered."""
        if served.kind in _KINDS:
            self._begun[id(served)] = served

    def observe(self, served: Served) -> None:
        """A request has ended. An `Observer`."""
        if served.kind in _KINDS:
            self._ended.append((served, self._clock()))
            if len(self._ended) == _TOGETHER:
                self._put_together()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have each pull told once, when it is done; until the answer is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        """Find out which pulls are done, and write down what has changed; until cancelled."""
        await surviving(self._run, "history")

    async def _run(self) -> None:
        while True:
            for _ in range(_TICKS_TO_WRITE):
                await asyncio.sleep(_TICK_SECONDS)
                await _in_turns(self._settling())
            await _in_turns(self._writing())

    def settle(self) -> None:
        """Have those be done of which nothing has been heard for a while."""
        deque(self._settling(), 0)

    def write(self) -> None:
        """Note all that has changed in the register."""
        deque(self._writing(), 0)

    def _settling(self) -> Iterator[None]:
        self._look()
        due = self._clock() - QUIET_SECONDS
        for pull in list(self._open):
            # It may be done by now: others have their turn meanwhile.
            if pull in self._open and not pull.active and pull.at + pull.seconds <= due:
                self._open.finish(pull)
                yield

    def _writing(self) -> Iterator[None]:
        self._put_together()
        self._count_fetched()
        self._sums.write(self._register.note, self._today())
        yield
        for pull in list(self._pulls):
            if not pull.written:
                self._register.note(f"p {pull.number % self._max_pulls}", pull.record())
                pull.written = True
                yield

    async def aclose(self) -> None:
        """Nothing more will be heard of any pull: note what the last requests have changed."""
        self._look()
        for pull in list(self._open):
            self._open.finish(pull)
        self.write()

    # What is asked

    def pulls(self, limit: int = 100, q: str = "", before: int | None = None) -> list[Pull]:
        """The last pulls, newest first: those whose image, digest, client, user, source, outcome or reason has `q` in
        it, or one of which is like `q` where it has `*` or `?`; those that are older than the one with the number
        `before`."""
        self._look()
        wanted = q.strip().lower()
        found: list[Pull] = []
        for pull in reversed(self._pulls):
            if len(found) == limit:
                break
            if (before is None or pull.number < before) and (not wanted or _matches(pull, wanted)):
                found.append(pull)
        return found

    def last(self, upstream: str, repository: str, reference: str) -> Pull | None:
        """The last pull of this tag or digest."""
        self._look()
        return next(
            (
                pull
                for pull in reversed(self._pulls)
                if pull.repository == repository and pull.upstream == upstream and reference in (pull.tag, pull.digest)
            ),
            None,
        )

    def savings(self, days: int = 30) -> dict[str, Any]:
        """`days` with a row a day and upstream, oldest first; the `images` that saved most in these days; `since`, the
        first day of which anything is known. Days are in UTC."""
        self._put_together()
        self._count_fetched()
        return self._sums.savings(days, self._today())

    def total(self) -> Sum:
        """Of all upstreams, since the first day of which anything is known."""
        self._put_together()
        self._count_fetched()
        return self._sums.total()

    # Requests are put together

    def _look(self) -> None:
        """Find out of what pulls all requests are, those in progress as well."""
        self._put_together()
        now = self._clock()
        begun, self._begun = self._begun, {}
        for key, served in begun.items():
            self._of[key] = pull = self._open.place(served, now)
            pull.active += 1

    def _put_together(self) -> None:
        """Add what has ended to its pulls."""
        ended, self._ended = self._ended, []
        for served, now in ended:
            looked = self._begun.pop(id(served), None) is None
            pull = self._of.pop(id(served), None) if looked else None
            if pull is not None:
                pull.active -= 1
            if served.status == 401 or (looked and pull is None):
                continue  # a challenge: the client comes again, with a name; or it was refused before it had begun
            if pull is None:
                pull = self._open.place(served, now - served.seconds)
            pull.add(served, now)
            if not pull.number:
                self._number += 1
                pull.number = self._number
                self._pulls.append(pull)
            if served.origin:
                self._count(pull, served)

    def _finished(self, pull: Pull) -> None:
        pull.done, pull.written = True, False
        if pull.number:
            for listener in list(self._listeners):
                listener(pull)

    # Sums

    def _count(self, pull: Pull, served: Served) -> None:
        """Bring into the sums what the request has brought to its pull."""
        image = f"{pull.upstream}/{pull.repository}" if pull.manifests else ""
        saved = 0 if served.origin == "upstream" else served.bytes
        answered, changes = served.origin in HITS, pull.uncounted()
        for row in self._sums.rows(day_of(pull.at), pull.upstream, image):
            row.answer(served.bytes, saved, answered, changes)

    def _count_fetched(self) -> None:
        today = self._today()
        for upstream, total in self._fetched().items():
            more = int(total - self._fetched_before.get(upstream, 0.0))
            if more:
                for row in self._sums.rows(today, upstream, ""):
                    row.fetch(more)
            self._fetched_before[upstream] = total

    def _today(self) -> str:
        return day_of(self._clock())


async def _in_turns(steps: Iterator[None]) -> None:
    """Take the steps, some at a time: a storm's pulls are done all at once, and each is a line in the log."""
    for number, _ in enumerate(steps, 1):
        if number % _STEPS == 0:
            await asyncio.sleep(0)


def _matches(pull: Pull, wanted: str) -> bool:
    texts = (pull.image, pull.digest, pull.client, pull.user, pull.source, pull.outcome, pull.why)
    if "*" in wanted or "?" in wanted:
        return any(fnmatchcase(text.lower(), wanted) for text in texts)
    return any(wanted in text.lower() for text in texts)


def _restored(register: Register, max_pulls: int) -> list[Pull]:
    """What earlier runs have noted. Records that make no sense are dropped."""
    found = []
    for key, record in list(register.held.items()):
        if key.startswith("p "):
            pull = _read(record)
            if pull is not None and key == f"p {pull.number % max_pulls}":
                found.append(pull)
            else:
                register.note(key, None)
    return sorted(found, key=lambda pull: pull.number)


def _read(record: list[Any]) -> Pull | None:
    try:
        return restored(record)
    except (TypeError, ValueError, OverflowError):
        return None

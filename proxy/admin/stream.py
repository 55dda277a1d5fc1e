"""What happens, as it happens: server-sent events for the page and `millpond top`.

GET /api/v1/events     event: tick     every second: rates, flights, cache; `period` is how soon the next one comes
                       event: pull     a pull has ended
                       event: state    an upstream, a target, the cache or the configuration is not what it was

Everything is counted and encoded once a second, for all readers together, and not at all without one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy.admin.answers import BadRequest, Row, answered
from proxy.admin.status import Status, rate_row
from proxy.observe.rates import Look, between
from proxy.observe.surviving import surviving

PERIOD: Final = 1.0  # seconds
# People with the page open; each costs a connection of the admin port's.
MAX_READERS: Final = 32
# Events that may wait for one reader, a minute's worth of ticks: who is further behind is not looking.
MAX_WAITING: Final = 128
# Flights in a tick, and pulls between two of them: more than that nobody can read as they go by.
MAX_FLIGHTS: Final = 50
MAX_PULLS: Final = 20

_MEDIA_TYPE: Final = "text/event-stream"
# nginx before the page would gather events for minutes.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_Reader = asyncio.Queue[bytes | None]
_States = dict[tuple[str, str], tuple[str, str]]


class Stream:
    """Any number of pages look at one `status`."""

    def __init__(self, status: Status, draining: Callable[[], bool]) -> None:
        self._status = status
        self._draining = draining
        self._readers: set[_Reader] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._pulls = 0  # told since the last tick

    def pull(self, row: Callable[[], Row]) -> None:
        """A pull has ended; `row` makes what is told of it, where anybody is there to be told."""
        if self._readers and self._pulls < MAX_PULLS:
            self._pulls += 1
            self._tell("pull", row())

    def enter(self) -> _Reader:
        """One reader more. Raises BadRequest where there are too many."""
        if len(self._readers) >= MAX_READERS:
            raise BadRequest(f"{MAX_READERS} others are watching already; close a page, or ask status instead", 503)
        reader: _Reader = asyncio.Queue()
        self._readers.add(reader)
        if self._ticking is None:
            self._ticking = asyncio.create_task(surviving(self._tick, "events for the page"), name="events")
        return reader

    def leave(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self._readers and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    async def _tick(self) -> None:
        before = self._status.look()
        states = self._states(await self._status.cache())
        while True:
            await asyncio.sleep(PERIOD)
            now, cache = self._status.look(), await self._status.cache()
            self._pulls = 0
            self._tell("tick", self._row(before, now, cache))
            changed = self._states(cache)
            for row in _changes(states, changed):
                self._tell("state", row)
            before, states = now, changed
            if self._draining():
                self._end()

    def _row(self, before: Look, now: Look, cache: Row) -> Row:
        return {
            **rate_row(time.time(), between(before, now)),
            "period": PERIOD,
            "active": self._status.active,
            "flights": self._status.flights(MAX_FLIGHTS),
            "flights_total": self._status.flying,
            "cache_bytes": cache["bytes"],
            "free": cache["free"],
            "lag": self._status.lag(),
        }

    def _states(self, cache: Row) -> _States:
        """The state of everything that has one, and what there is to say about it."""
        error = self._status.config()["error"]
        found = {("cache", "cache"): (str(cache["state"]), str(cache["state"]))}
        found["config", "configuration"] = ("refused" if error else "ok", error or "")
        found["program", "millpond"] = ("draining", "no new pulls are taken") if self._draining() else ("ok", "")
        found |= {("upstream", each["name"]): (each["state"], each["why"]) for each in self._status.upstreams()}
        found |= {("ecr", each["name"]): (each["state"], each["state"]) for each in self._status.ecr()}
        return found

    def _tell(self, event: str, row: Row) -> None:
        data = f"event: {event}\ndata: {json.dumps(row)}\n\n".encode()
        for reader in list(self._readers):
            if reader.qsize() < MAX_WAITING:
                reader.put_nowait(data)
            else:
                self._let_go(reader)

    def _end(self) -> None:
        for reader in list(self._readers):
            self._let_go(reader)

    def _let_go(self, reader: _Reader) -> None:
        """It is told no more, and its connection ends behind what waits for it."""
        self._readers.discard(reader)
        reader.put_nowait(None)


def stream_routes(stream: Stream) -> list[Route]:
    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=_MEDIA_TYPE)
        return _Following(stream, stream.enter())

    return [Route("/api/v1/events", answered(events))]


class _Following(StreamingResponse):
    """Whoever asked is a reader until the connection ends, however that comes."""

    def __init__(self, stream: Stream, reader: _Reader) -> None:
        super().__init__(_told(reader), media_type=_MEDIA_TYPE, headers=_HEADERS)
        self._leave = partial(stream.leave, reader)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


async def _told(reader: _Reader) -> AsyncGenerator[bytes, None]:
    yield b"retry: 2000\n\n"  # so that the page learns at once that it is connected
    while (event := await reader.get()) is not None:
        yield event


def _changes(before: _States, now: _States) -> Iterator[dict[str, Any]]:
    for (what, name), (state, why) in now.items():
        was = before.get((what, name), ("", ""))[0]
        if state == was or (was, state) == ("idle", "ok"):
            continue
        sentence = f"{name} is ok again" if state == "ok" else f"{name}: {why or state}"
        yield {"what": what, "name": name, "state": state, "sentence": sentence}

"""A Millpond as its operator sees it: asked and changed over the admin port, each answer held against its document."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlencode

from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.openapi import Document
from tests.support.pulls import Reply, get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
_JSON: Final = {"Content-Type": "application/json"}
_PATIENCE: Final = 30.0  # seconds for the next event


@dataclass
class Watched:
    """`millpond` before `upstream`, which is called UPSTREAM there."""

    millpond: Millpond
    upstream: ScriptedUpstream

    @cached_property
    def document(self) -> Document:
        return Document.of(self.millpond.admin_url)

    def read(self, noun: str, status: int = 200, **query: Any) -> Any:
        """What a GET answers."""
        path = f"{self.millpond.admin_url}/api/v1/{noun}"
        reply = get(f"{path}?{urlencode(query)}" if query else path)
        return self._checked("GET", path, reply, status).json()

    def change(self, noun: str, status: int = 200, **body: Any) -> Any:
        """What a POST answers."""
        return self.changed(noun, status, **body).json()

    def rows(self, noun: str, **body: Any) -> list[dict[str, Any]]:
        """The lines that a POST answers, its summary the last."""
        return [json.loads(line) for line in self.changed(noun, **body).text.splitlines() if line]

    def changed(self, noun: str, status: int = 200, **body: Any) -> Reply:
        path = f"{self.millpond.admin_url}/api/v1/{noun}"
        reply = get(path, _JSON, method="POST", content=json.dumps(body).encode())
        return self._checked("POST", path, reply, status)

    def pull(self, image: Manifest, repository: str, tag: str = "latest") -> None:
        """As a client does, all of it; return when it is kept."""
        pull(self.base(repository), image, tag)
        wait_until(lambda: self.millpond.metric("millpond_flights") == 0, "all of it is kept")

    def recover(self) -> None:
        """Have upstream behave, and wait until Millpond asks it again."""
        self.upstream.behave()
        url = f"{self.base('library/none')}/manifests/recovered"
        wait_until(lambda: get(url).status == 404, "its breaker lets one through")

    def base(self, repository: str) -> str:
        return f"{self.millpond.url}/v2/{UPSTREAM}/{repository}"

    def upstream_state(self) -> dict[str, Any]:
        """Of the one upstream, in the status."""
        (found,) = [each for each in self.read("status")["upstreams"] if each["name"] == UPSTREAM]
        assert isinstance(found, dict)
        return found

    @contextmanager
    def events(self) -> Iterator[Events]:
        """Follow the events as a page does; connected once the block begins."""
        connection = http.client.HTTPConnection("127.0.0.1", self.millpond.admin_port, timeout=_PATIENCE)
        connection.request("GET", "/api/v1/events")
        response = connection.getresponse()
        try:
            assert (response.status, response.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
            yield Events(response)
        finally:
            response.close()
            connection.close()

    def _checked(self, method: str, path: str, reply: Reply, status: int) -> Reply:
        assert reply.status == status, reply.text
        self.document.check(method, path, reply)
        return reply


class Events:
    """What comes, one event after the other."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def next(self, event: str) -> Any:
        """The data of the next event of this name; others are passed over. Raises where none comes in time."""
        named = None
        while line := self._response.readline():
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                named = text.removeprefix("event: ")
            elif text.startswith("data: ") and named == event:
                return json.loads(text.removeprefix("data: "))
        raise AssertionError(f"the stream ended before another {event}")

    def ends(self) -> bool:
        """Whether the server ends it, before its patience does."""
        try:
            while self._response.readline():
                pass
        except TimeoutError:
            return False
        return True

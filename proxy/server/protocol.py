"""One client connection: uvicorn's HTTP/1.1, whose requests have bounds and deadlines, and errors in OCI's form."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.server.asgi import App
from proxy.server.certificate import client_names
from proxy.server.joined import JoinedWrites
from proxy.server.listener import Limits
from proxy.server.problems import Refusal
from proxy.server.pump import hang_up
from proxy.server.response import Response

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config

    from proxy.server.state import State

# uvicorn reports through a logger; what is worth a line is logged by the response instead, with the request's path.
_silent = logging.getLogger("proxy.server.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)
_silent.disabled = True

MAX_PIPELINED: Final = 64
"""Requests that may queue behind a running one: no client pipelines, and one read could hold ten thousand of them."""

_NOT_HTTP: Final = Refusal(400, "UNSUPPORTED", "this is not an HTTP/1.1 request")


class Refused(Exception):
    """Raised in the parser's callbacks, so that it stops; `_refusal` says why."""


class Connection(HttpToolsProtocol):
    """Made by the door for each client. Requests come in here; each has a `Response`."""

    def __init__(
        self,
        config: Config,
        server_state: State,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _silent
        self.access_log = False
        self.state = server_state
        self.limits: Limits = server_state.limits
        self.last_progress = (self.loop.time(), 0)
        self.stalled = False
        self.surplus = False
        """Whether there were too many connections when this one came."""
        self.counted_as = ""
        """The client's address, by which the census knows this connection."""
        self._current: RequestResponseCycle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_message = False
        self._head_received = 0
        self._head_parsed = 0
        self._refusal = _NOT_HTTP
        self._refused = False

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # kept, because a TLS transport forgets it when it closes
        self.sock: socket.socket = transport.get_extra_info("socket")
        self.pump = self.state.pump if self.scheme == "http" else None
        self.joined = JoinedWrites(transport)
        self.client_names = client_names(transport.get_extra_info("peercert"))
        self._arm_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_deadline()
        self._unset_keepalive_if_required()  # uvicorn leaves the timer, and so this object, when the client resets
        self.pipeline.clear()
        if self._current is not None and not self._current.response_complete:
            # uvicorn tells the newest request, which may be one that still queues behind this one
            self._current.disconnected = True
            self._current.message_event.set()
        if self.scheme == "http":
            hang_up(self.sock)  # a thread may hold a duplicate
        super().connection_lost(exc)
        self.state.connection_lost(self.counted_as)

    @property
    def responding(self) -> bool:
        newest: RequestResponseCycle | None = self.cycle
        return newest is not None and not newest.response_complete

    # A request, within bounds

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._in_head:
            self._head_received += len(data)
        super().data_received(data)
        if self._deaf:
            return
        if self._in_head and self._head_received > self.limits.max_header_bytes:
            self._refusal = self._head_too_large()
            self.send_400_response("")
        elif self._current is not None and not self.responding:
            self._between_responses()

    @property
    def _deaf(self) -> bool:
        return self._refused or self.transport.is_closing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_received = self._head_parsed = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.max_url_bytes:
            message = f"the request's path and query are longer than {self.limits.max_url_bytes} bytes"
            self._refuse(Refusal(414, "UNSUPPORTED", message))
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + len(b": \r\n"))
        # What trails a body is no header (RFC 9110, 6.5.1): it would add to those that a forwarder has set.
        if self._in_head:
            super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._head_parsed += size
        if self._head_parsed > self.limits.max_header_bytes:
            self._refuse(self._head_too_large())

    def _head_too_large(self) -> Refusal:
        message = f"the request's head is larger than {self.limits.max_header_bytes} bytes"
        return Refusal(431, "UNSUPPORTED", message)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm_deadline()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(Refusal(400, "UNSUPPORTED", f"more than {MAX_PIPELINED} requests at once"))
        if self.surplus:
            self._refuse_surplus()
        super().on_headers_complete()

    def _refuse_surplus(self) -> None:
        """Only now: a client that is answered before it has asked takes that for noise, and not for an answer."""
        why = self.state.census.why_not(self.counted_as)
        if why is not None:
            self.state.census.refuse(self.counted_as)
            self._refuse(Refusal(503, "UNAVAILABLE", why))
        self.surplus = False

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    # A request that is refused

    def _refuse(self, refusal: Refusal) -> NoReturn:
        """Out of a callback: the parser stops, and uvicorn calls `send_400_response`."""
        self._refusal = refusal
        raise Refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not in OCI's form
        """What uvicorn calls when the parser gives up."""
        if self.responding:
            # An earlier request is still being answered: its response must not be broken into.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        self.transport.write(self._refusal.response(self.server_state.default_headers))
        if self.transport.can_write_eof():
            # Closing over bytes that were not read would reset the connection, and the client lose the answer:
            # it may send on for a deadline, and nobody listens.
            self._refused = True
            self.transport.write_eof()
            self._disarm_deadline()
            self._arm_deadline()
        else:
            self.transport.close()

    # Its response

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        response = Response(self, cycle, cast("App", app))
        super()._start_asgi_task(cycle, cast("ASGI3Application", response.run))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and not self.responding:
            self._between_responses()

    # Deadlines

    def _between_responses(self) -> None:
        """A request that has begun, or a body that nobody reads, has a deadline; silence has the keep-alive timer."""
        if self._in_message:
            self._unset_keepalive_if_required()
            self._arm_deadline()
        else:
            self._disarm_deadline()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _arm_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.header_timeout, self._deadline_passed)

    def _disarm_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _deadline_passed(self) -> None:
        self._deadline = None
        self.transport.close()

"""One client connection: uvicorn's HTTP/1.1 with deadlines, bounds, errors in OCI's form, and zero-copy bodies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from proxy.oci.errors import MillpondError
from proxy.server import pump, sendfile
from proxy.server.certificate import client_names
from proxy.server.joined import JoinedWrites
from proxy.server.listener import Limits

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent
    from uvicorn.config import Config

    from proxy.server.state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

ZERO_COPY = "http.response.zerocopysend"

# uvicorn reports through a logger; what is worth a line is logged here instead, with the request's path.
_silent = logging.getLogger("proxy.server.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)
_silent.disabled = True


MAX_PIPELINED = 64
"""Requests that may queue behind a running one: no client pipelines, and one read could hold ten thousand of them."""
RETRY_AFTER = 5
"""Seconds after which a client that was one too many may come again: most pulls of a storm take about as long."""


class Refused(Exception):
    """Raised in the parser's callbacks, so that it stops; `_refusal` says why."""


class Connection(HttpToolsProtocol):
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
        self._current: RequestResponseCycle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_message = False
        self._head_received = 0
        self._head_parsed = 0
        self.surplus = False
        """Whether there were too many connections when this one came."""
        self.counted_as = ""
        """The client's address, by which the census knows this connection."""
        self._refused = False
        self._refusal = (400, "UNSUPPORTED", "this is not an HTTP/1.1 request")

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # kept, because a TLS transport forgets it when it closes
        self.sock: socket.socket = transport.get_extra_info("socket")
        self._joined = JoinedWrites(transport)
        self._client_names = client_names(transport.get_extra_info("peercert"))
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
            pump.hang_up(self.sock)  # a thread may hold a duplicate
        super().connection_lost(exc)
        self.state.connection_lost(self.counted_as)

    @property
    def responding(self) -> bool:
        newest: RequestResponseCycle | None = self.cycle
        return newest is not None and not newest.response_complete

    @property
    def _deaf(self) -> bool:
        return self._refused or self.transport.is_closing()

    # The request: its deadline and its bounds

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._in_head:
            self._head_received += len(data)
        super().data_received(data)
        if self._deaf:
            return
        if self._in_head and self._head_received > self.limits.max_header_bytes:
            self._head_too_large()
            self.send_400_response("")
        elif self._current is not None and not self.responding:
            self._between_responses()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_received = self._head_parsed = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.max_url_bytes:
            message = f"the request's path and query are longer than {self.limits.max_url_bytes} bytes"
            self._refusal = (414, "UNSUPPORTED", message)
            raise Refused
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + len(b": \r\n"))
        # What trails a body is no header (RFC 9110, 6.5.1): it would add to those that a forwarder has set.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm_deadline()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = (400, "UNSUPPORTED", f"more than {MAX_PIPELINED} requests at once")
            raise Refused
        if self.surplus:
            self._refuse_surplus()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and not self.responding:
            self._between_responses()

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

    def _refuse_surplus(self) -> None:
        """Only now: a client that is answered before it has asked takes that for noise, and not for an answer."""
        why = self.state.census.why_not(self.counted_as)
        if why is not None:
            self.state.census.refuse(self.counted_as)
            self._refusal = (503, "UNAVAILABLE", why)
            raise Refused
        self.surplus = False

    def _count_head(self, size: int) -> None:
        self._head_parsed += size
        if self._head_parsed > self.limits.max_header_bytes:
            self._head_too_large()
            raise Refused

    def _head_too_large(self) -> None:
        message = f"the request's head is larger than {self.limits.max_header_bytes} bytes"
        self._refusal = (431, "UNSUPPORTED", message)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not in OCI's form
        """What uvicorn calls when the parser gives up."""
        if self.responding:
            # An earlier request is still being answered: its response must not be broken into.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        status, code, message = self._refusal
        body = problem(code, message)
        head = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            head += [name, b": ", value, b"\r\n"]
        if status == 503:
            head.append(b"retry-after: %d\r\n" % RETRY_AFTER)
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join(head) + body)
        if self.transport.can_write_eof():
            # Closing over bytes that were not read would reset the connection, and the client lose the answer:
            # it may send on for a deadline, and nobody listens.
            self._refused = True
            self.transport.write_eof()
            self._disarm_deadline()
            self._arm_deadline()
        else:
            self.transport.close()

    # The response

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        cycle.transport = cast("asyncio.Transport", self._joined)
        super()._start_asgi_task(cycle, cast("ASGI3Application", partial(self._respond, cycle, cast("App", app))))

    async def _respond(self, cycle: RequestResponseCycle, app: App, scope: Any, receive: Receive, _: Send) -> None:
        """Run the app. Nothing but a cancellation leaves here, so uvicorn has nothing to report."""
        scope["extensions"] = {ZERO_COPY: {}}
        if self._client_names:
            scope["extensions"]["tls"] = {"client_names": self._client_names}
        try:
            await app(scope, receive, partial(self._send, cycle))
        except asyncio.CancelledError:
            self._abort(cycle)
            raise
        except Exception as error:  # noqa: BLE001 - the one place where an app's failure becomes a response
            if cycle.response_started:
                if not isinstance(error, (MillpondError, ConnectionError)):
                    _log(scope, "the response was broken off", error)
                self._abort(cycle)
            elif not cycle.disconnected:
                _log(scope, "the request failed", error)
                await self._fail(cycle)
        else:
            if cycle.disconnected:
                return
            if not cycle.response_started:
                _log(scope, "the app gave no response", None)
                await self._fail(cycle)
            elif not cycle.response_complete:
                _log(scope, "the app did not complete its response", None)
                self._abort(cycle)

    async def _send(self, cycle: RequestResponseCycle, message: Message) -> None:
        """ASGI's `send`: raises ConnectionResetError once the client has gone, ConnectionAbortedError once it has been
        let go."""
        try:
            await self._send_on(cycle, message)
        except ConnectionError:
            if self.stalled:
                seconds = self.limits.write_timeout
                raise ConnectionAbortedError(
                    f"the client was too slow: it took nothing for {seconds:g} s (registry.write_timeout), so it was "
                    "let go"
                ) from None
            raise

    async def _send_on(self, cycle: RequestResponseCycle, message: Message) -> None:
        if not cycle.response_complete and (cycle.disconnected or self.transport.is_closing()):
            raise ConnectionResetError("the client has gone")
        if message["type"] == ZERO_COPY:
            self._joined.release()
            await self._send_file(cycle, message)
        elif message["type"] == "http.response.start":
            self._joined.hold()
            await cycle.send(cast("ASGISendEvent", message))
        else:
            await cycle.send(cast("ASGISendEvent", message))
            self._joined.release()
            if cycle.scope["method"] != "HEAD":
                self.state.copied += len(message.get("body", b""))
        if cycle.disconnected and not cycle.response_complete:
            raise ConnectionResetError("the client has gone")

    async def _send_file(self, cycle: RequestResponseCycle, message: Message) -> None:
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError(f"{ZERO_COPY} belongs between the start of a response and its end")
        count: int = message["count"]
        if cycle.scope["method"] != "HEAD" and count > 0:
            if cycle.chunked_encoding:
                raise RuntimeError(f"{ZERO_COPY} needs a Content-Length")
            if count > cycle.expected_content_length:
                raise RuntimeError("Response content longer than Content-Length")
            await self._send_range(message["file"], message["offset"], count)
            cycle.expected_content_length -= count
        if not message.get("more_body", False):
            await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_range(self, file: sendfile.File, offset: int, count: int) -> None:
        if self.state.pump is not None and self.scheme == "http":
            await self._flush()
            with contextlib.suppress(sendfile.SendfileUnsupported):
                await self.state.pump.send(self.sock, file, offset, count)
                return
        disk = self.state.read_ahead
        await sendfile.copy(file, offset, count, write=self._write_copy, drain=self._drain, disk=disk)

    def _write_copy(self, data: memoryview) -> None:
        self.transport.write(data)
        self.state.copied += len(data)

    async def _flush(self) -> None:
        """Until the transport's own buffer is empty: what is sent past it must not overtake."""
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(0)
            try:
                await self.flow.drain()
            finally:
                self.transport.set_write_buffer_limits()
        if self.transport.is_closing():
            raise ConnectionResetError("the client has gone")

    async def _drain(self) -> None:
        if self.flow.write_paused:
            await self.flow.drain()
        if self.transport.is_closing():
            raise ConnectionResetError("the client has gone")

    async def _fail(self, cycle: RequestResponseCycle) -> None:
        body = problem("UNKNOWN", "Millpond failed on this request; its log says why")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await cycle.send({"type": "http.response.start", "status": 500, "headers": headers})
        await cycle.send({"type": "http.response.body", "body": body, "more_body": False})

    def _abort(self, cycle: RequestResponseCycle) -> None:
        """The client sees an incomplete body. Marked as gone, so that uvicorn says nothing of it."""
        cycle.disconnected = True
        self.transport.abort()


def problem(code: str, message: str) -> bytes:
    """An error in the form of the distribution spec."""
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def _log(scope: Any, event: str, error: Exception | None) -> None:
    structlog.get_logger().error(
        event, method=scope["method"], path=scope["raw_path"].decode("latin-1"), exc_info=error
    )

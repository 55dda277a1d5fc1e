"""One response, from the app's messages to the socket: a head and its body as one write, files without copying."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from proxy.oci.errors import MillpondError
from proxy.server import sendfile
from proxy.server.asgi import ZERO_COPY, App, Message, Receive, Send
from proxy.server.problems import problem

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

    from proxy.server.protocol import Connection


class Response:
    """Stands between uvicorn's cycle, which writes the head and small bodies, and the app."""

    __slots__ = ("_app", "_connection", "_cycle", "_joined", "_state", "_transport")

    def __init__(self, connection: Connection, cycle: RequestResponseCycle, app: App) -> None:
        self._connection = connection
        self._cycle = cycle
        self._app = app
        self._transport = connection.transport
        self._joined = connection.joined
        self._state = connection.state
        cycle.transport = cast("asyncio.Transport", self._joined)

    async def run(self, scope: Any, receive: Receive, _: Send) -> None:
        """Run the app. Nothing but a cancellation leaves here, so uvicorn has nothing to report."""
        cycle = self._cycle
        scope["extensions"] = {ZERO_COPY: {}}
        if self._connection.client_names:
            scope["extensions"]["tls"] = {"client_names": self._connection.client_names}
        try:
            await self._app(scope, receive, self.send)
        except asyncio.CancelledError:
            self._abort()
            raise
        except Exception as error:  # noqa: BLE001 - the one place where an app's failure becomes a response
            if cycle.response_started:
                if not isinstance(error, (MillpondError, ConnectionError)):
                    _log(scope, "the response was broken off", error)
                self._abort()
            elif not cycle.disconnected:
                _log(scope, "the request failed", error)
                await self._fail()
        else:
            if cycle.disconnected:
                return
            if not cycle.response_started:
                _log(scope, "the app gave no response", None)
                await self._fail()
            elif not cycle.response_complete:
                _log(scope, "the app did not complete its response", None)
                self._abort()

    async def send(self, message: Message) -> None:
        """ASGI's `send`: raises ConnectionResetError once the client has gone, ConnectionAbortedError once it has been
        let go."""
        try:
            await self._send(message)
        except ConnectionError:
            if self._connection.stalled:
                seconds = self._connection.limits.write_timeout
                raise ConnectionAbortedError(
                    f"the client was too slow: it took nothing for {seconds:g} s (registry.write_timeout), so it was "
                    "let go"
                ) from None
            raise

    async def _send(self, message: Message) -> None:
        cycle = self._cycle
        if not cycle.response_complete and (cycle.disconnected or self._transport.is_closing()):
            raise ConnectionResetError("the client has gone")
        if message["type"] == ZERO_COPY:
            self._joined.release()
            await self._send_file(message)
        elif message["type"] == "http.response.start":
            self._joined.hold()
            await cycle.send(cast("ASGISendEvent", message))
        else:
            await cycle.send(cast("ASGISendEvent", message))
            self._joined.release()
            if cycle.scope["method"] != "HEAD":
                self._state.copied += len(message.get("body", b""))
        if cycle.disconnected and not cycle.response_complete:
            raise ConnectionResetError("the client has gone")

    async def _send_file(self, message: Message) -> None:
        cycle = self._cycle
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
            if cycle.disconnected and cycle.expected_content_length == 0 and not cycle.chunked_encoding:
                cycle.response_complete = True  # it has all of it, and went before we came to say so

    async def _send_range(self, file: sendfile.File, offset: int, count: int) -> None:
        connection = self._connection
        if connection.pump is not None:
            await self._flush()
            with contextlib.suppress(sendfile.SendfileUnsupported):
                await connection.pump.send(connection.sock, file, offset, count)
                return
        disk = self._state.read_ahead
        await sendfile.copy(file, offset, count, write=self._write_copy, drain=self._drain, disk=disk)

    async def _flush(self) -> None:
        """Until the transport's own buffer is empty: what is sent past it must not overtake."""
        transport = self._transport
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(0)
            try:
                await self._connection.flow.drain()
            finally:
                transport.set_write_buffer_limits()
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")

    def _write_copy(self, data: memoryview) -> None:
        self._transport.write(data)
        self._state.copied += len(data)

    async def _drain(self) -> None:
        flow = self._connection.flow
        if flow.write_paused:
            await flow.drain()
        if self._transport.is_closing():
            raise ConnectionResetError("the client has gone")

    async def _fail(self) -> None:
        body = problem("UNKNOWN", "Millpond failed on this request; its log says why")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._cycle.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self._cycle.send({"type": "http.response.body", "body": body, "more_body": False})

    def _abort(self) -> None:
        """The client sees an incomplete body. Marked as gone, so that uvicorn says nothing of it."""
        self._cycle.disconnected = True
        self._transport.abort()


def _log(scope: Any, event: str, error: Exception | None) -> None:
    structlog.get_logger().error(
        event, method=scope["method"], path=scope["raw_path"].decode("latin-1"), exc_info=error
    )

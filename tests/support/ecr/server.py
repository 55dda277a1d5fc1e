"""An HTTP server on a port of its own, whose connections and threads end with it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_BACKLOG: Final = 512  # a thousand parts at once is what the tests of load ask for at most
_END_DEADLINE: Final = 10.0  # seconds for a thread to see that its connection has gone
_PIECE: Final = 256 * 1024  # bytes a write, so that a download can be held or cut between two


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; header names in lower case. `target` is the path with its query, as it was sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out. `cut_at`: the connection breaks after so many bytes of the body. `hold` is called before byte
    `hold_at` of the body is sent."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    hold_at: int = 0
    hold: Callable[[], None] | None = None


class Server:
    """Answers each request by `answer`; None from it closes the connection without a word.

    It keeps its port over `stop` and `start`. `failed` hears of exceptions that the double itself has raised.
    """

    def __init__(self, port: int, answer: Callable[[Request], Answer | None], failed: Callable[[str], None]) -> None:
        self.port = port
        self._handler = type("Handler", (_Handler,), {"reply": staticmethod(answer), "failed": staticmethod(failed)})
        self._server: _Threads | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = _Threads(("127.0.0.1", self.port), self._handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and break what is open: from outside, it has gone."""
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(_END_DEADLINE)
            self._server.end()
            self._server = None


class _Threads(ThreadingHTTPServer):
    """Knows its connections, because closing the listening socket ends none of them."""

    daemon_threads = True
    request_queue_size = _BACKLOG

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._connection, args=(request, client_address), daemon=True)
        with self._lock:
            self._open[thread] = request
        thread.start()

    def _connection(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def end(self) -> None:
        with self._lock:
            still = dict(self._open)
        for connection in still.values():
            with contextlib.suppress(OSError):  # it has closed meanwhile
                connection.shutdown(socket.SHUT_RDWR)
        for thread in still:
            thread.join(_END_DEADLINE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    reply: Callable[[Request], Answer | None]
    failed: Callable[[str], None]

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client has gone, which is its right
        except Exception as error:  # noqa: BLE001 - a defect of the double must fail the test, not only a thread
            self.failed(f"the double failed: {type(error).__name__}: {error}")

    def log_message(self, *_: Any) -> None:
        """Nothing: the calls are recorded elsewhere."""

    def _any_method(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # the client broke off in mid-request
            return
        answer = self.reply(Request(self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any_method  # noqa: N815 - the names that http.server looks for

    def _send(self, answer: Answer) -> None:
        reason = http.client.responses.get(answer.status, "Unknown")
        lines = [f"HTTP/1.1 {answer.status} {reason}", f"Content-Length: {len(answer.body)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        body = memoryview(b"" if self.command == "HEAD" else answer.body)
        end = len(body) if answer.cut_at is None else min(answer.cut_at, len(body))
        if answer.hold is None:
            self._write(head, body[:end])
        else:
            held = min(answer.hold_at, end)
            self._write(head, body[:held])
            answer.hold()
            self._write(b"", body[held:end])
        if answer.cut_at is not None:
            self.close_connection = True

    def _write(self, head: bytes, body: memoryview) -> None:
        # The head goes with the first piece: two small packets would wait for each other's acknowledgement.
        self.wfile.write(head + bytes(body[:_PIECE]))
        for start in range(_PIECE, len(body), _PIECE):
            self.wfile.write(body[start : start + _PIECE])

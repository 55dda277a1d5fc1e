"""A server: one listener, one ASGI app, and an end that breaks no running response."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from functools import partial
from typing import cast

import structlog
from uvicorn.config import Config

from proxy.server import watchdog
from proxy.server.asgi import App
from proxy.server.census import Census
from proxy.server.door import Door, room_for_connections
from proxy.server.listener import DEFAULT_LIMITS, MAX_CONNECTIONS, Limits, Listener, open_socket, tls_context
from proxy.server.protocol import Connection
from proxy.server.state import State

LAST_WORDS = 5.0
"""Seconds for tasks to end once they have been cancelled: a task that ignores it must not hold the exit."""


class Server:
    """Serve an app on a listener. Several run in one loop; none touches signals or ends the process.

    `bind()` opens the port (raises ListenError), `serve()` answers until `stop()` and returns when drained.
    """

    def __init__(
        self,
        app: App,
        listener: Listener,
        limits: Limits = DEFAULT_LIMITS,
        *,
        name: str = "registry",
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`refused` is called for each connection that is one too many."""
        self.name = name
        self.listener = listener
        self.limits = limits
        self._refused = refused
        self._app = app
        self._port = listener.port
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._state: State | None = None
        self._stopping = asyncio.Event()

    def bind(self) -> None:
        """Read the certificate and open the port, so that both can refuse before anything else starts."""
        if self._socket is None:
            self._tls = tls_context(self.listener)
            self._socket = open_socket(self.listener)
            self._port = int(self._socket.getsockname()[1])

    @property
    def port(self) -> int:
        """The port in use, once bound: the kernel's choice when the listener says 0."""
        return self._port

    @property
    def active(self) -> int:
        """Responses in progress."""
        return 0 if self._state is None else sum(connection.responding for connection in self._state.open())

    @property
    def connections(self) -> int:
        """Open connections, those in a TLS handshake included."""
        return 0 if self._state is None else self._state.census.connections

    @property
    def sent(self) -> int:
        """Bytes of bodies that have been sent so far, those of responses in progress included."""
        return 0 if self._state is None else self._state.sent

    def certify(self, tls: ssl.SSLContext) -> None:
        """Connections that come from now on use this; it has TLS already, and stays where it is."""
        assert self._tls is not None
        self._tls = tls

    def stop(self) -> None:
        """Begin the drain: no new connections, idle ones close, running responses get the grace period."""
        self._stopping.set()

    def abort_now(self) -> None:
        """End every connection and response at once; with `stop()`, for whoever cannot wait for the grace."""
        self.stop()
        if self._state is not None:
            for connection in self._state.open():
                connection.transport.abort()
            for task in self._state.tasks:
                task.cancel()

    async def serve(self) -> None:
        """Returns after `stop()`, when every response has ended or its grace is over."""
        self.bind()
        assert self._socket is not None
        limits = self.limits
        census = Census(
            self._max_connections(), limits.max_connections_per_address, name=self.name, refused=self._refused
        )
        self._state = State(limits, census)
        try:
            async with self._housekeeping(self._state):
                listening = self._listen(self._socket, self._state)
                try:
                    await self._stopping.wait()
                finally:
                    listening.close()
                await self._drain(self._state)
        finally:
            self._socket.close()
            self.abort_now()
            if self._state.tasks:
                await asyncio.wait(self._state.tasks, timeout=LAST_WORDS)
            if self._state.connections:
                self._state.empty.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._state.empty.wait(), LAST_WORDS)
            self._state.close()

    def _max_connections(self) -> int:
        room, wanted = room_for_connections(), self.limits.max_connections
        if wanted is not None and wanted > room:
            structlog.get_logger().warning(
                "fewer connections than configured: too few files may be open; raise that (ulimit -n, LimitNOFILE)",
                server=self.name,
                configured=wanted,
                max_connections=room,
            )
        return min(room, MAX_CONNECTIONS if wanted is None else wanted)

    def _listen(self, sock: socket.socket, state: State) -> Door:
        config = Config(
            self._app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=cast("int", self.limits.keep_alive),
        )
        config.load()
        loop = asyncio.get_running_loop()
        return Door(
            sock,
            partial(Connection, config, state, {}, loop),
            state.census,
            tls=lambda: self._tls,
            handshake_timeout=None if self._tls is None else self.limits.header_timeout,
        )

    async def _drain(self, state: State) -> None:
        state.empty.clear()
        for connection in state.open():
            connection.shutdown()
        try:
            async with asyncio.timeout(self.limits.grace):
                if state.connections:
                    await state.empty.wait()
                if state.tasks:
                    await asyncio.wait(state.tasks)
        except TimeoutError:
            structlog.get_logger().warning(
                "responses are cut off: the grace period is over",
                server=self.name,
                active=self.active,
                grace_seconds=self.limits.grace,
            )

    @contextlib.asynccontextmanager
    async def _housekeeping(self, state: State) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_keep_date(state)),
            asyncio.create_task(watchdog.watch(state.open, self.limits.write_timeout, self._stalled)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _stalled(self, connection: watchdog.Connection) -> None:
        structlog.get_logger().info(
            "a client that takes nothing is let go",
            server=self.name,
            client=connection.client[0] if connection.client else None,
            write_timeout_seconds=self.limits.write_timeout,
        )


async def _keep_date(state: State) -> None:
    while True:
        now = time.time()
        state.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]
        await asyncio.sleep(1 - now % 1)

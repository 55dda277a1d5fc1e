"""Clients that cost next to nothing: they discard in the kernel (MSG_TRUNC), so that the server is what is measured."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeVar

Result = TypeVar("Result")

READ = 4 * 1024 * 1024
"""Bytes that one recv may discard."""
CONNECT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """What to GET: `http://host:port` + path."""

    host: str
    port: int
    path: str

    def request(self, method: str = "GET", headers: str = "") -> bytes:
        return f"{method} {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{headers}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Pull:
    """One download: seconds to the response's head, seconds in all, bytes of the body."""

    first_byte: float
    seconds: float
    size: int


class _Client:
    """One keep-alive connection that asks for the same thing again and again."""

    def __init__(self, target: Target) -> None:
        self.sock = socket.create_connection((target.host, target.port), CONNECT_TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = target.request()
        self.left = 0
        self.scratch = bytearray(READ)

    def ask(self) -> None:
        self.sock.sendall(self.request)

    def head(self) -> None:
        """Read the response's head (its body's first bytes stay in the kernel) and note the length."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen = self.sock.recv(16384, socket.MSG_PEEK)
            if not seen:
                raise ConnectionError("the server closed the connection before its answer")
        head = seen[: seen.index(b"\r\n\r\n") + 4]
        self.sock.recv(len(head))
        lines = head.decode("latin-1").split("\r\n")
        if lines[0].split()[1] != "200":
            raise ConnectionError(f"the server answered {lines[0]}")
        self.left = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))

    def discard(self) -> int:
        got = self.sock.recv_into(self.scratch, min(READ, self.left), socket.MSG_TRUNC)
        if not got:
            raise ConnectionError(f"the body ended {self.left} bytes too soon")
        self.left -= got
        return got


def throughput(target: Target, clients: int, seconds: float) -> float:
    """Bytes a second over all clients, each pulling without pause; in as many processes as there are processors."""
    return sum(_in_processes(_hammer, target, clients, seconds))


def pulls(target: Target, clients: int) -> list[Pull]:
    """All clients begin at once, each pulls once."""
    groups = _in_processes(_once, target, clients, 0)
    return [pull for group in groups for pull in group]


def _hammer(target: Target, clients: int, seconds: float, go: Pipe) -> float:
    """The rate between a fifth of the time and its end: connections have warmed up, none has finished."""
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            client = _Client(target)
            selector.register(client.sock, selectors.EVENT_READ, client)
        _wait_for_start(go)
        for key in list(selector.get_map().values()):
            key.data.ask()
        begin = time.monotonic() + seconds / 5
        end = begin + seconds * 4 / 5
        count, started = 0, 0.0
        while (now := time.monotonic()) < end:
            if not started and now >= begin:
                count, started = 0, now
            for key, _ in selector.select(1):
                client = key.data
                if client.left == 0:
                    client.head()
                count += client.discard()
                if client.left == 0:
                    client.ask()
        return count / (now - started)


def _once(target: Target, clients: int, _: float, go: Pipe) -> list[Pull]:
    done: list[Pull] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            client = _Client(target)
            selector.register(client.sock, selectors.EVENT_READ, client)
        _wait_for_start(go)
        began = time.monotonic()
        first: dict[int, tuple[float, int]] = {}
        for key in list(selector.get_map().values()):
            key.data.ask()
        while len(done) < clients:
            for key, _ in selector.select(1):
                client = key.data
                if key.fd not in first:
                    client.head()
                    first[key.fd] = (time.monotonic() - began, client.left)
                if client.left:
                    client.discard()
                if client.left == 0:
                    done.append(Pull(first[key.fd][0], time.monotonic() - began, first[key.fd][1]))
                    selector.unregister(client.sock)
                    client.sock.close()
    return done


def _wait_for_start(go: Pipe) -> None:
    go.send("ready")
    go.recv()


def _in_processes(
    work: Callable[[Target, int, float, Pipe], Result], target: Target, clients: int, seconds: float
) -> list[Result]:
    """Share the clients out over the processors; all begin together, once every one is connected."""
    context = multiprocessing.get_context("fork")
    workers = min(clients, os.cpu_count() or 1)
    running = []
    for index in range(workers):
        ours, theirs = context.Pipe()
        share = clients // workers + (index < clients % workers)
        process = context.Process(target=_report, args=(work, target, share, seconds, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    for _, pipe in running:
        _answer(pipe)
    for _, pipe in running:
        pipe.send("go")
    results = [_answer(pipe) for _, pipe in running]
    for process, _ in running:
        process.join()
    return results


def _answer(pipe: Pipe) -> Any:
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _report(
    work: Callable[[Target, int, float, Pipe], object], target: Target, share: int, seconds: float, pipe: Pipe
) -> None:
    try:
        pipe.send(work(target, share, seconds, pipe))
    except Exception as error:  # noqa: BLE001 - it is raised again in the parent
        pipe.send(error)

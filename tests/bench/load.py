"""Many clients at once, in as many processes as there are processors."""

from __future__ import annotations

import multiprocessing
import os
import re
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final, TypeVar

from tests.bench.client import Client, Target, connect
from tests.support.programs import find, run
from tests.support.pulls import ACCEPT

Result = TypeVar("Result")
Work = Callable[[int, Callable[[], None]], Result]
"""What a process does: (its share of the clients, wait for the common start) -> its result."""

LIMIT: Final = 600.0
"""Seconds that any measurement may take: distribution's storm takes a minute or two."""


@dataclass(frozen=True, slots=True)
class Pull:
    """One download: seconds to the body's first byte, seconds in all, bytes of the body."""

    first_byte: float
    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes a second while all connections ran, and bytes in all."""

    rate: float
    size: int


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests a second and in all, and how long one takes, in milliseconds."""

    rate: float
    count: int
    p50: float
    p99: float


def throughput(target: Target, clients: int, seconds: float) -> Flow:
    """All clients together, each pulling without pause."""
    flows = in_processes(lambda share, start: _hammer(target, share, seconds, start), clients)
    return Flow(sum(flow.rate for flow in flows), sum(flow.size for flow in flows))


def pulls(target: Target, clients: int) -> list[Pull]:
    """All clients begin at once, each pulls once."""
    groups = in_processes(lambda share, start: _once(target, share, start), clients)
    return [pull for group in groups for pull in group]


def requests(target: Target, clients: int, seconds: float) -> Requests | None:
    """Small answers, as fast as `clients` keep-alive connections get them; None without the program `wrk`."""
    wrk = find("wrk")
    if wrk is None:
        return None
    url = f"http://{target.host}:{target.port}{target.path}"
    # Whole seconds are all that wrk knows.
    duration = f"{max(1, round(seconds))}s"
    threads = min(clients, os.cpu_count() or 1)
    text = run([str(wrk), f"-t{threads}", f"-c{clients}", f"-d{duration}", "--latency", "-H", f"Accept: {ACCEPT}", url])
    if "Non-2xx" in text or "Socket errors" in text:
        raise ConnectionError(text)
    return Requests(
        float(_find(r"Requests/sec:\s+([\d.]+)", text)[1]),
        int(_find(r"(\d+) requests in", text)[1]),
        _milliseconds(_find(r"50%\s+([\d.]+)(us|ms|s)", text)),
        _milliseconds(_find(r"99%\s+([\d.]+)(us|ms|s)", text)),
    )


def in_processes(work: Work[Result], clients: int) -> list[Result]:
    """Share the clients out over the processors; all begin together, once every one is connected."""
    context = multiprocessing.get_context("fork")
    workers = min(clients, os.cpu_count() or 1)
    running = []
    for index in range(workers):
        ours, theirs = context.Pipe()
        share = clients // workers + (index < clients % workers)
        process = context.Process(target=_report, args=(work, share, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    try:
        for _, pipe in running:
            _answer(pipe)
        for _, pipe in running:
            pipe.send("go")
        return [_answer(pipe) for _, pipe in running]
    finally:
        for process, _ in running:
            process.join(1)
            process.kill()


def _hammer(target: Target, clients: int, seconds: float, start: Callable[[], None]) -> Flow:
    """The rate between a fifth of the time and its end: connections have warmed up, none has finished."""
    with selectors.DefaultSelector() as selector:
        for client in [connect(target) for _ in range(clients)]:
            selector.register(client.sock, selectors.EVENT_READ, client)
        start()
        for key in list(selector.get_map().values()):
            key.data.ask()
        begin = time.monotonic() + seconds / 5
        end = begin + seconds * 4 / 5
        count, before, started = 0, 0, 0.0
        while (now := time.monotonic()) < end:
            if not started and now >= begin:
                before, started = count, now
            for key, _ in selector.select(1):
                client = key.data
                if client.left == 0:
                    client.head()
                count += client.discard()
                if client.left == 0:
                    client.ask()
        return Flow((count - before) / (now - started), count)


def _once(target: Target, clients: int, start: Callable[[], None]) -> list[Pull]:
    done: list[Pull] = []
    with selectors.DefaultSelector() as selector:
        for new in [connect(target) for _ in range(clients)]:
            selector.register(new.sock, selectors.EVENT_READ, new)
        start()
        began = time.monotonic()
        first: dict[Client, tuple[float, int]] = {}
        for key in list(selector.get_map().values()):
            key.data.ask()
        while len(done) < clients:
            expire(began)
            for key, _ in selector.select(1):
                client: Client = key.data
                if client.left == 0:
                    client.head()
                    size = client.left
                    client.discard()
                    first[client] = (time.monotonic() - began, size)
                else:
                    client.discard()
                if client.left == 0:
                    begun, size = first[client]
                    done.append(Pull(begun, time.monotonic() - began, size))
                    selector.unregister(client.sock)
                    client.sock.close()
    return done


def expire(began: float) -> None:
    """TimeoutError when what began then (time.monotonic) has taken too long."""
    if time.monotonic() - began > LIMIT:
        raise TimeoutError(f"a measurement has not ended in {LIMIT:g} s")


def _find(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"wrk printed no {pattern}:\n{text}")
    return found


def _milliseconds(found: re.Match[str]) -> float:
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def _answer(pipe: Pipe) -> Any:
    if not pipe.poll(LIMIT + 30):
        raise TimeoutError("a client process says nothing")
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _report(work: Work[object], share: int, pipe: Pipe) -> None:
    def start() -> None:
        pipe.send("ready")
        pipe.recv()

    try:
        pipe.send(work(share, start))
    except Exception as error:  # noqa: BLE001 - it is raised again in the parent
        pipe.send(error)

"""A blob that only the upstream has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as Context
from pathlib import Path
from typing import Final

from tests.bench.load import Pull, pulls
from tests.bench.measure import GIB, MIB, Effort, Measurement, metered, table
from tests.bench.peers import distribution, nginx_cache, nginx_limit
from tests.bench.stage import Image, Peer, Stage, millpond, resolve
from tests.support.relay import Rate

Contender = Callable[[Path, int], Context[Peer]]
"""(a directory of its own, the upstream's port) -> a server with an empty cache."""

CACHES: Final[dict[str, Contender]] = {
    "nginx proxy_cache": nginx_cache,
    "distribution proxy": distribution,
    "millpond": millpond,
}
HELD: Final = 250_000_000
"""Bytes a second of the link to the upstream."""
LIMITS: Final = ((5, 8, 1), (20, 2, 1), (100, 4, 3), (0, 4, 3))
"""(MB/s that the upstream gives a connection, 0 for no limit; the usual blob divided by; direct rounds at most).

A direct download at a steady limit takes half a minute and is the same every time, so once is enough."""


def cold_alone(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """One client, from an upstream as fast as loopback."""
    yield from _cold(stage, effort, 1)


def cold_16(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """16 clients want it at once."""
    yield from _cold(stage, effort, 16)


def held(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """One client, through a link of 250 MB/s: whether a cache on the way costs time."""
    case, image = "cold blob, upstream held to 250 MB/s", stage.image(stage.size // 2)
    last = table(case, "s", ["direct", "millpond", "millpond, one connection"])
    first = table(f"{case}: first byte", "ms", list(last))
    with stage.upstream.relayed(Rate(HELD)) as relay:
        for number in range(effort.rounds):
            for name in last:
                effort.say(f"{case} · {name} · {number + 1}")
                stage.upstream.forget()
                with _contender(stage, name, image, relay.port) as peer, metered(peer.pid) as meter:
                    done = pulls(peer.at(image.path), 1)
                _note(last[name], first[name], done)
                last[name].cost(meter, image.size / GIB)
                last[name].upstream.append(stage.sent(image))
    yield from (*last.values(), *first.values())


def limited(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """One client, from an upstream that limits each connection, as registries behind a CDN do."""
    for speed, part, direct_rounds in LIMITS:
        image = stage.image(stage.size // part)
        name = f"{speed} MB/s a connection" if speed else "no limit a connection"
        case = f"cold blob of {image.size // MIB} MiB, {name}"
        found = table(case, "MB/s", ["direct", "millpond"])
        with stage.emptied() as directory, nginx_limit(directory, stage.upstream.port, speed * 1_000_000) as port:
            for number in range(effort.rounds):
                for peer_name, measurement in found.items():
                    if peer_name == "direct" and number >= direct_rounds:
                        continue
                    effort.say(f"{case} · {peer_name} · {number + 1}")
                    stage.upstream.forget()
                    with _contender(stage, peer_name, image, port) as peer, metered(peer.pid) as meter:
                        (done,) = pulls(peer.at(image.path), 1)
                    measurement.values.append(done.size / done.seconds / 1e6)
                    measurement.cost(meter, done.size / GIB)
                    measurement.upstream.append(stage.sent(image))
        yield from found.values()


def _cold(stage: Stage, effort: Effort, clients: int) -> Iterator[Measurement]:
    case, image = f"cold blob, {clients} client{'s' * (clients > 1)}", stage.image()
    last = table(f"{case}: last byte", "s", ["direct", *CACHES])
    first = table(f"{case}: first byte", "ms", list(last))
    for number in range(effort.rounds):
        for name in last:
            effort.say(f"{case} · {name} · {number + 1}")
            stage.upstream.forget()
            with _contender(stage, name, image, stage.upstream.port) as peer, metered(peer.pid) as meter:
                done = pulls(peer.at(image.path), clients)
            _note(last[name], first[name], done)
            last[name].cost(meter, sum(pull.size for pull in done) / GIB)
            last[name].upstream.append(stage.sent(image))
    yield from (*last.values(), *first.values())


@contextlib.contextmanager
def _contender(stage: Stage, name: str, image: Image, upstream: int) -> Iterator[Peer]:
    """A server that has seen the image's manifests, but no layer; or the upstream itself."""
    with stage.emptied() as directory:
        if name == "direct":
            yield Peer(name, upstream)
            return
        with CACHES[name](directory, upstream) if name in CACHES else _one_connection(directory, upstream) as peer:
            resolve(peer, image)
            yield peer


def _one_connection(directory: Path, upstream: int) -> Context[Peer]:
    return millpond(directory, upstream, connections_per_blob=1)


def _note(last: Measurement, first: Measurement, done: list[Pull]) -> None:
    """When the last client had everything, and when the last one had its first byte."""
    last.values.append(max(pull.seconds for pull in done))
    first.values.append(max(pull.first_byte for pull in done) * 1000)

"""What is measured. A case is a function from a stage to measurements; peers take turns, round by round."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.bench.load import pulls, throughput
from tests.bench.peers import Peer, Stage, nginx, server_alone
from tests.support.waiting import wait_until

WARM_CLIENTS = (1, 4, 16, 64)
COLD_CLIENTS = (1, 50)


@dataclass(frozen=True, slots=True)
class Effort:
    rounds: int
    seconds: float
    """Of each measurement of a rate."""


@dataclass(slots=True)
class Measurement:
    """One number of one peer in one case, once a round. The first peer of a case is what others are compared with."""

    case: str
    peer: str
    unit: str
    values: list[float] = field(default_factory=list)


Case = Callable[[Stage, Effort], Iterator[Measurement]]


def warm_blob(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Bytes a second of a blob that everybody has on disk and in the page cache."""
    assert not isinstance(stage.blob.data, bytes)
    with contextlib.ExitStack() as stack:
        millpond, _ = stack.enter_context(stage.millpond("warm"))
        peers = [
            stack.enter_context(nginx(stage.directory / "nginx", stage.blob.data)),
            millpond,
            stage.direct,
            stack.enter_context(server_alone(stage.directory, stage.blob.data)),
        ]
        for peer in peers:
            pulls(peer.target, 1)
        for clients in WARM_CLIENTS:
            yield from _in_turn(
                f"warm blob, {clients} client{'s' * (clients > 1)}",
                "GB/s",
                peers,
                lambda peer, clients=clients: throughput(peer.target, clients, effort.seconds) / 1e9,  # type: ignore[misc]
                effort.rounds,
            )


def cold_blob(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Clients want a blob that Millpond does not have yet, beside one client that goes to the upstream itself."""
    for clients in COLD_CLIENTS:
        case = f"cold blob, {clients} client{'s' * (clients > 1)}"
        direct = Measurement(case, "direct, 1 client", "s")
        last = Measurement(case, "millpond, last byte", "s")
        first = Measurement(case, "millpond, first byte", "s")
        sent = Measurement(f"{case}, upstream sent", "millpond", "x the blob")
        memory = Measurement(f"{case}, peak memory", "millpond", "MiB")
        for number in range(effort.rounds):
            direct.values.append(pulls(stage.direct.target, 1)[0].seconds)
            stage.upstream.forget()
            with stage.millpond(f"cold-{clients}-{number}") as (peer, millpond):
                done = pulls(peer.target, clients)
                last.values.append(max(pull.seconds for pull in done))
                first.values.append(max(pull.first_byte for pull in done))
                memory.values.append(millpond.peak_rss() / 2**20)
                upstream_bytes = wait_until(lambda: _upstream_bytes(stage), "the upstream logs the blob")
                sent.values.append(upstream_bytes / stage.blob.size)
            shutil.rmtree(millpond.directory)
        yield from (direct, last, first, sent, memory)


CASES: dict[str, Case] = {"warm": warm_blob, "cold": cold_blob}


def _upstream_bytes(stage: Stage) -> int:
    return sum(served.sent for served in stage.upstream.served(stage.blob.digest, "GET"))


def _in_turn(
    case: str, unit: str, peers: list[Peer], measure: Callable[[Peer], float], rounds: int
) -> Iterator[Measurement]:
    """Every peer once a round, so that a busy moment of the machine meets all of them."""
    found = {peer: Measurement(case, peer.name, unit) for peer in peers}
    for _ in range(rounds):
        for peer, measurement in found.items():
            measurement.values.append(measure(peer))
    yield from found.values()

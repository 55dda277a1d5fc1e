"""A blob that everybody has, on disk and in the page cache."""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from collections.abc import Iterator, Sequence
from typing import Final

from tests.bench.client import Target
from tests.bench.load import pulls, throughput
from tests.bench.measure import GIB, Effort, Measurement, metered, table
from tests.bench.peers import distribution, nginx_sendfile, server_alone
from tests.bench.stage import Peer, Stage, millpond, resolve
from tests.support.certificates import Authority

CLIENTS: Final = (1, 4, 16, 64)
TLS_CLIENTS: Final = 4


def warm(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Bytes a second at 1 to 64 clients."""
    image = stage.image()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(stage.emptied())
        for name in ("nginx", "distribution"):
            (directory / name).mkdir()
        peers = [
            stack.enter_context(nginx_sendfile(directory / "nginx", image)),
            stack.enter_context(distribution(directory / "distribution", stage.upstream.port)),
            stack.enter_context(millpond(directory / "millpond", stage.upstream.port)),
        ]
        for peer in peers[1:]:
            resolve(peer, image)
        for clients in CLIENTS:
            case = f"warm blob, {clients} client{'s' * (clients > 1)}"
            yield from _rates(case, peers, [peer.at(image.path) for peer in peers], clients, effort)


def tls(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """The same over TLS."""
    image = stage.image()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(stage.emptied())
        authority = Authority(directory / "authority")
        certificate = authority.issue()
        files = {"cert_file": str(certificate.chain_file), "key_file": str(certificate.key_file)}
        # Millpond is filled without TLS, because the client can only measure with it.
        with millpond(directory / "millpond", stage.upstream.port) as plain:
            resolve(plain, image)
            pulls(plain.at(image.path), 1)
        peers = [
            stack.enter_context(nginx_sendfile(directory / "nginx", image, certificate)),
            stack.enter_context(millpond(directory / "millpond", stage.upstream.port, {"tls": files})),
        ]
        context = _only_tls13(authority.client_context())
        targets = [dataclasses.replace(peer.at(image.path), tls=context) for peer in peers]
        yield from _rates(f"warm blob over TLS, {TLS_CLIENTS} clients", peers, targets, TLS_CLIENTS, effort)


def alone(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """What HTTP and the zero-copy send cost Millpond, without routing or cache."""
    image = stage.image()
    with stage.emptied() as directory, server_alone(directory, image) as peer:
        for clients in CLIENTS:
            yield from _rates(f"server alone, {clients}", [peer], [peer.at(image.path)], clients, effort)


def _rates(
    case: str, peers: Sequence[Peer], targets: Sequence[Target], clients: int, effort: Effort
) -> Iterator[Measurement]:
    """Every peer once a round, so that a busy moment of the machine meets all of them."""
    found = table(case, "GB/s", [peer.name for peer in peers])
    if not targets[0].tls:
        for target in targets:
            pulls(target, 1)
    for number in range(effort.rounds):
        for peer, target in zip(peers, targets, strict=True):
            effort.say(f"{case} · {peer.name} · {number + 1}")
            with metered(peer.pid) as meter:
                flow = throughput(target, clients, effort.seconds)
            found[peer.name].values.append(flow.rate / 1e9)
            found[peer.name].cost(meter, flow.size / GIB)
    yield from found.values()


def _only_tls13(context: ssl.SSLContext) -> ssl.SSLContext:
    """Both servers with the same version and, by its order of preference, the same cipher."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context

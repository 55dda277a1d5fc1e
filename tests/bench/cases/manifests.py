"""Manifests that everybody has, at 16 keep-alive connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from tests.bench.load import requests
from tests.bench.measure import MIB, Effort, Measurement, metered, table
from tests.bench.peers import distribution
from tests.bench.stage import Stage, millpond, resolve

CLIENTS: Final = 16


def manifests(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Requests a second, and how long one takes. distribution asks its upstream about a tag each time."""
    image = stage.image(20 * MIB, layers=20)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(stage.emptied())
        (directory / "distribution").mkdir()
        peers = [
            stack.enter_context(distribution(directory / "distribution", stage.upstream.port)),
            stack.enter_context(millpond(directory / "millpond", stage.upstream.port)),
        ]
        for peer in peers:
            resolve(peer, image)
        # The manifest of 20 layers, and the tag, whose index is smaller.
        (manifest,) = image.manifest.children
        for kind, path in (("tag", image.tag_path), ("digest", image.manifest_path(manifest.digest))):
            case = f"warm manifest by {kind}, {CLIENTS} clients"
            rate, p50, p99 = (
                table(f"{case}{what}", unit, [peer.name for peer in peers])
                for what, unit in (("", "requests/s"), (": p50", "ms"), (": p99", "ms"))
            )
            for number in range(effort.rounds):
                for peer in peers:
                    effort.say(f"{case} · {peer.name} · {number + 1}")
                    with metered(peer.pid) as meter:
                        found = requests(peer.at(path), CLIENTS, effort.seconds)
                    if found is None:
                        effort.say("manifests: left out, because wrk is not installed (apt-get install wrk)")
                        return
                    rate[peer.name].values.append(found.rate)
                    rate[peer.name].cost(meter, found.count / 1000)
                    p50[peer.name].values.append(found.p50)
                    p99[peer.name].values.append(found.p99)
            yield from (*rate.values(), *p50.values(), *p99.values())

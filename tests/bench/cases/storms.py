"""Many nodes want one image at the same moment: first nobody has it, then everybody could."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.cases.cold import CACHES
from tests.bench.lag import lags
from tests.bench.measure import GIB, MIB, Effort, Measurement, metered, table
from tests.bench.nodes import storm
from tests.bench.stage import Stage, millpond

LAYERS: Final = 20
ROUNDS: Final = 2
"""At most: distribution needs a minute or more for each."""
PEERS: Final = ("distribution proxy", "millpond")


def storms(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """Seconds until the last node, and until half of them, have everything."""
    image = stage.image(effort.storm_bytes, LAYERS)
    title = f"storm of {effort.nodes} nodes, {image.size // MIB} MiB"
    found = {
        (state, what): table(f"{title}, {state}: {what}", "s", list(PEERS))
        for state in ("cold", "warm")
        for what in ("last node", "half of the nodes")
    }
    for number in range(min(effort.rounds, ROUNDS)):
        for name in PEERS:
            with stage.emptied() as directory, CACHES[name](directory, stage.upstream.port) as peer:
                for state in ("cold", "warm"):
                    effort.say(f"{title}, {state} · {name} · {number + 1}")
                    stage.upstream.forget()
                    with metered(peer.pid) as meter:
                        took = storm(peer.at("/"), image, effort.nodes)
                    last, half = found[state, "last node"][name], found[state, "half of the nodes"][name]
                    last.values.append(max(took))
                    half.values.append(statistics.median(took))
                    last.cost(meter, image.size * effort.nodes / GIB)
                    last.upstream.append(stage.sent(image) if state == "cold" else stage.sent_now(image))
    for group in found.values():
        yield from group.values()


def lag(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """How late the event loop is in a storm: 99 of 100 timers are within this."""
    image = stage.image(effort.storm_bytes, LAYERS)
    title = f"storm of {effort.nodes} nodes, {image.size // MIB} MiB"
    states = ("cold", "warm", "page cache dropped")
    found = {
        state: table(f"{title}, {state}: loop lag p99", "ms", ["a process beside it", "millpond"]) for state in states
    }
    for number in range(min(effort.rounds, ROUNDS)):
        with stage.emptied() as directory, millpond(directory, stage.upstream.port) as peer:
            for state in states:
                effort.say(f"{title}, {state}: loop lag · {number + 1}")
                if state == "page cache dropped":
                    _drop_pages(directory)
                with lags(peer.admin) as late:
                    storm(peer.at("/"), image, effort.nodes)
                found[state]["a process beside it"].values.append(late.beside * 1000)
                found[state]["millpond"].values.append(late.server * 1000)
    for group in found.values():
        yield from group.values()


def _drop_pages(directory: Path) -> None:
    """What the files below `directory` have in the page cache goes."""
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

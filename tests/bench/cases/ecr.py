"""What the write-through to ECR costs the client whose pull it follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.bench.measure import GIB, MIB, Effort, Measurement, metered, table
from tests.bench.nodes import storm
from tests.bench.stage import Stage, millpond
from tests.ecr.fleet import targets
from tests.support.ecr import EcrDouble

LAYERS: Final = 8
ROUNDS: Final = 5
"""Always: one in five may well be slow on its own, and the bar is narrow."""


def ecr(stage: Stage, effort: Effort) -> Iterator[Measurement]:
    """One node pulls a cold image, with two accounts to push it to and without."""
    image = stage.image(stage.size // 2, LAYERS)
    found = table(f"cold image of {image.size // MIB} MiB, 1 node", "s", ["no ECR", "two ECR targets"])
    for number in range(ROUNDS):
        for name, measured in found.items():
            effort.say(f"cold image, {name} · {number + 1}")
            cloud = EcrDouble()
            section = targets(cloud) if name == "two ECR targets" else {}
            port = stage.upstream.port
            with (
                cloud,
                stage.emptied() as directory,
                millpond(directory, port, ecr=section, env=cloud.environment) as peer,
            ):
                with metered(peer.pid) as meter:
                    seconds = max(storm(peer.at("/"), image, 1))
                measured.values.append(seconds)
                measured.cost(meter, image.size / GIB)
    yield from found.values()

"""The stage of a soak: an upstream with images, an ECR, and one Millpond with too small a disk between them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.soak.weather import Outages, Weather
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.images import Blob, Manifest
from tests.support.millpond import Millpond
from tests.support.scripted import ScriptedUpstream

ROOT: Final = Path(__file__).parents[2]
MIB: Final = 1 << 20
# About half of what all images are together, so that there is always something to evict.
BUDGET: Final = 12 * MIB
# Every other image stands behind a name that goes to ECR as well; else upstream would soon be asked for nothing more.
UPSTREAMS: Final = ("docker.io", "ghcr.io")
PLAIN_IMAGES: Final = 14
LARGE_LAYER: Final = 5 * MIB + 321  # flows before it is verified, and is fetched over several connections


@dataclass(frozen=True)
class Stocked:
    """An image, and the name that clients use."""

    upstream: str
    path: str
    image: Manifest

    @property
    def blobs(self) -> list[Blob]:
        return list(self.image.all_blobs().values())


@dataclass
class Stage:
    millpond: Millpond
    upstream: ScriptedUpstream
    cloud: EcrDouble
    weather: Weather
    outages: Outages
    stock: list[Stocked]

    def base(self, stocked: Stocked) -> str:
        return f"{self.millpond.url}/v2/{stocked.upstream}/{stocked.path}"

    def blow(self) -> None:
        """From now on upstream and ECR fail now and then."""
        self.weather.storm = True
        self.cloud.flaky(0.15, seed=self.weather.dice.randrange(1 << 30))

    def clear_up(self) -> None:
        self.weather.clear_up()
        self.cloud.behave()


@contextmanager
def stage(directory: Path, seed: int, defect: str = "") -> Iterator[Stage]:
    """Everything runs when the block begins. `defect` is Python that the program runs at its start: what a soak that
    finds leaks is tested with."""
    dice = random.Random(seed)
    weather = Weather(dice)
    stock = _stock(directory / "layers", seed)
    site = directory / "site"
    site.mkdir(parents=True)
    # The real program, in more of a hurry: it scrubs soon, and does not leave a disk alone for half a minute.
    (site / "sitecustomize.py").write_text(
        "import proxy.cache.calls, proxy.cache.scrub\n"
        "proxy.cache.calls._PAUSE_SECONDS = 1.0\nproxy.cache.scrub._IDLE_SECONDS = 1.0\n" + defect
    )
    with ExitStack() as stack:
        upstream, cloud = ScriptedUpstream().start(), EcrDouble().start()
        stack.callback(upstream.stop)  # requests that no strict server takes are in the report
        stack.callback(cloud.stop)
        for stocked in stock:
            upstream.add(stocked.image, stocked.path, "v")
        upstream.script("/v2/", then=weather, method="")
        settings = {"tag_ttl": "1s", "read_timeout": "2s", "connect_timeout": "2s"}
        target = {"name": "dev", "account": ACCOUNT, "region": REGION, "endpoint_url": cloud.url}
        millpond = Millpond(
            {
                "upstreams": {name: upstream.upstream(**settings) for name in UPSTREAMS},
                "cache": {"max_size": BUDGET, "min_free": MIB, "scrub_rate": "4MiB"},
                "ecr": {"targets": [{**target, "upstreams": [UPSTREAMS[0]]}]},
            },
            directory / "millpond",
            {**cloud.environment, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        )
        try:
            yield Stage(millpond.start(), upstream, cloud, weather, Outages(), stock)
        finally:
            weather.clear_up()
            millpond.stop()


def _stock(directory: Path, seed: int) -> list[Stocked]:
    def image(number: int, sizes: list[int]) -> Stocked:
        layers = [
            images.layer(directory, size, seed=seed * 10_000 + number * 10 + part, base=part == 0)
            for part, size in enumerate(sizes)
        ]
        name = f"library/soak-{number}"
        return Stocked(UPSTREAMS[number % 2], name, images.image(layers, note=f"{seed} {number}"))

    plain = [image(number, [40_000 + 30_000 * number, 250_000, 9_000]) for number in range(PLAIN_IMAGES)]
    return [*plain, *(image(PLAIN_IMAGES + number, [20_000, LARGE_LAYER + number]) for number in range(3))]

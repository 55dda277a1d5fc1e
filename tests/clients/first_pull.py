"""How long a real containerd takes, unpacking included: directly, first through Millpond, and again through Millpond.

    python -m tests.clients.first_pull [--rounds 5] [--layers 4] [--megabytes 400] [--link 100]

The upstream is a real registry that a relay holds to `--link` MB/s, for Millpond as for the direct pull. Each round
has a Millpond with an empty cache, and turns the order of direct and first pull around. Needs root, as containerd does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.clients.containerd import Containerd
from tests.support import images
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.registry import Registry
from tests.support.relay import CountingRelay, Rate

MB: Final = 1_000_000
REFERENCE: Final = "docker.io/library/measured:1"
COMPRESSIBLE: Final = 0.3  # of the content: as much as it takes for unpacking to be work


@dataclass
class Timings:
    """Seconds of each kind of pull, a value a round."""

    direct: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="first-pull-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        image = _image(directory / "layers", options.layers, options.megabytes * MB)
        registry = Registry(directory / "registry").start()
        stack.callback(registry.stop)
        registry.push(image, "library/measured", "1")
        containerd = Containerd(directory / "containerd")
        stack.callback(containerd.stop)
        relay = stack.enter_context(registry.relayed(Rate(options.link * MB)))
        print(
            f"{options.layers} layers, {image.total_size / MB:.0f} MB compressed; "
            f"upstream held to {options.link} MB/s; containerd's snapshotter {containerd.snapshotter}"
        )
        timings = Timings()
        for number in range(options.rounds):
            _round(number, Bench(directory, image, registry, relay, containerd), timings)
        _report(timings)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a round works with."""

    directory: Path
    image: Manifest
    registry: Registry
    relay: CountingRelay
    containerd: Containerd

    def pull(self, url: str) -> tuple[float, int]:
        """(seconds, bytes that upstream sent) of one pull by way of `url`."""
        hosts = self.containerd.hosts(url)
        os.sync()  # what earlier pulls have written must not cost this one
        before, start = self.relay.down, time.monotonic()
        with self.containerd.pull(REFERENCE, hosts) as pulled:
            seconds = time.monotonic() - start
            pulled.check(self.image)
        return seconds, self.relay.down - before


def _round(number: int, bench: Bench, timings: Timings) -> None:
    directory = bench.directory / f"millpond-{number}"
    millpond = Millpond({"upstreams": {"docker.io": bench.registry.upstream()}}, directory).start()
    try:
        if number % 2:
            first, sent = bench.pull(millpond.url)
            direct, sent_directly = bench.pull(bench.registry.url)
        else:
            direct, sent_directly = bench.pull(bench.registry.url)
            first, sent = bench.pull(millpond.url)
        second, sent_again = bench.pull(millpond.url)
        print(
            f"round {number + 1}: direct {direct:6.2f} s ({sent_directly / MB:.0f} MB)   "
            f"first {first:6.2f} s ({sent / MB:.0f} MB)   second {second:6.2f} s ({sent_again / MB:.0f} MB)   "
            f"peak memory {millpond.peak_rss() / MB:.0f} MB",
            flush=True,
        )
    finally:
        millpond.stop()
        shutil.rmtree(directory, ignore_errors=True)
    timings.direct.append(direct)
    timings.first.append(first)
    timings.second.append(second)


def _report(timings: Timings) -> None:
    direct, first, second = (statistics.median(part) for part in (timings.direct, timings.first, timings.second))
    print(f"medians: direct {direct:.2f} s, first through Millpond {first:.2f} s, second {second:.2f} s")
    print(f"first / direct  = {first / direct:.2f}   (wanted: at most 1.10)")
    print(f"second / direct = {second / direct:.2f}   (wanted: below 1.00)")


def _image(directory: Path, layers: int, size: int) -> Manifest:
    parts = [
        images.layer(directory, size // layers, seed=number, compressible=COMPRESSIBLE, base=number == 0)
        for number in range(layers)
    ]
    return images.image(parts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=400, help="content, before compression")
    parser.add_argument("--link", type=int, default=100, help="MB/s that the upstream is held to")
    return parser.parse_args()


if __name__ == "__main__":
    main()

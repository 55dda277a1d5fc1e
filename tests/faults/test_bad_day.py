"""The bad day: the program is killed again and again, or upstream fails one time in ten while the disk is full."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.cache.disks import bytes_on_disk, impatient, landed, small_disk
from tests.conftest import StartMillpond
from tests.faults.conftest import await_gate
from tests.faults.kills import KilledAgain, Stock
from tests.faults.nodes import Node, PullFailed, Weather
from tests.support import images
from tests.support.faults import Gate, change
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

MIB: Final = 1 << 20
KILLS: Final = int(os.environ.get("MILLPOND_KILLS", "20"))
SEED: Final = os.environ.get("MILLPOND_SEED", "1")
# Seconds for each kill, ten times what one takes: a start, a storm, and a look at all that is new.
PER_KILL: Final = 20
# One kill in so many comes before the program says that it is ready: while it opens and sweeps the directory.
EARLY: Final = 6

NODES: Final = 50
IMAGES: Final = 8
FAILING: Final = 0.1
# Less than the images take, so that there is pressure even before somebody else fills it.
DISK: Final = 12 * MIB


def noise(size: int, seed: int) -> images.Blob:
    return images.blob(b"".join(images.noise(size, 5000 + seed)), images.OCI_LAYER)


BASE: Final = noise(3 * MIB, 0)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(60 + KILLS * PER_KILL)
def test_killed_at_random_moments_of_a_storm_it_serves_no_wrong_byte_and_loses_nothing_that_was_kept(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    """Rows 22 and 23; W P K H A: over one directory. MILLPOND_KILLS says how often, MILLPOND_SEED varies the storm."""
    millpond = start_millpond({"docker.io": upstream.upstream()}, cache={"max_size": "16GiB", "min_free": 0})
    pond = KilledAgain(millpond, upstream, Stock(upstream), random.Random(SEED))
    for number in range(1, KILLS + 1):
        if number % EARLY:
            pond.look_around()
            pond.kill_in_a_storm()
        else:
            pond.kill_while_it_starts()
    pond.forget_what_was_seen()
    pond.look_around()
    print(KILLS, "kills:", pond.figures)
    assert pond.figures["files that a kill left unfinished"], "no kill came in the middle of a download"


@pytest.mark.slow
def test_with_a_tenth_of_upstreams_answers_failing_and_a_disk_that_fills_up_fifty_nodes_pull_and_none_fails(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Rows 1, 10 and 25; W H A B: MILLPOND_SEED makes it other weather."""
    made = [storm_image(number) for number in range(IMAGES)]
    for number, image in enumerate(made):
        upstream.add(image, f"library/app-{number}", "1")
    weather, gate = Weather(SEED, FAILING), Gate()
    upstream.script(BASE.digest, change(gates={BASE.size // 2: gate}), then=weather)  # every node waits for this one
    upstream.script("/", then=weather, method="")
    with small_disk(tmp_path / "disk", DISK) as disk, ThreadPoolExecutor(NODES) as pool:
        cache = {"directory": str(disk / "cache"), "max_size": "1GiB", "min_free": 0}
        millpond = start_millpond({"docker.io": upstream.upstream()}, cache=cache, env=impatient(tmp_path / "site"))
        millpond.cache = disk / "cache"
        nodes = [Node(millpond.url) for _ in range(NODES)]
        pulls = [pool.submit(failure_of, node, number, made) for number, node in enumerate(nodes)]
        await_gate(gate)
        wait_until(lambda: arrived(millpond, BASE) == BASE.size // 2, "clients have the first half of it")
        with filling_up(disk):
            wait_until(lambda: free(disk) == 0, "the disk is full")
            gate.open()
            failures = [failure for pull in pulls if (failure := pull.result(100))]
        print(weather.requests, "requests to upstream, of which failed:", dict(weather.happened))
        assert failures == []
        assert sum(node.again for node in nodes) == 0, "containerd would have saved it, another client might not"
        assert weather.failures >= 10
        millpond.settle_log()
        paused = millpond.log_lines(event="disk cache paused, pulls pass through")
        assert any("No space left on device" in line["reason"] for line in paused)
        assert get(f"{millpond.admin_url}/readyz").status == 200
        landed(millpond)
        wait_until(lambda: not millpond.incoming(), "nothing temporary is left")
        assert millpond.metric("millpond_cache_bytes") == bytes_on_disk(millpond.cache)
        millpond.stop()


def storm_image(number: int) -> Manifest:
    """An image of two platforms; its lowest layer is that of all the others, each in a repository of its own."""
    own = [noise(size, 10 * number + kind) for kind, size in enumerate((1_300_000, 700_000, 40_000), 1)]
    amd64, arm64, small = own
    return images.index(
        [
            images.image([BASE, amd64, small], architecture="amd64"),
            images.image([BASE, arm64, small], architecture="arm64"),
        ]
    )


def failure_of(node: Node, number: int, made: list[Manifest]) -> str:
    """What made one of two pulls fail, the second of another image; empty when none did."""
    try:
        for chosen in (number % IMAGES, (number + 3) % IMAGES):
            image = made[chosen]
            node.pull(f"library/app-{chosen}", "1", image, image.children[number % 2].platform)
    except PullFailed as failure:
        return str(failure)
    return ""


@contextlib.contextmanager
def filling_up(disk: Path) -> Iterator[None]:
    """Somebody else takes every byte that is free on the disk, and every one that becomes free."""
    over = threading.Event()

    def take() -> None:
        with (disk / "hog").open("wb", buffering=0) as hog:
            while not over.wait(0.005):
                with contextlib.suppress(OSError):
                    while hog.write(bytes(1 << 14)):
                        pass

    taker = threading.Thread(target=take)
    taker.start()
    try:
        yield
    finally:
        over.set()
        taker.join()


def arrived(millpond: Millpond, blob: images.Blob) -> int:
    """Bytes of the blob that have been written while it is on its way in."""
    encoded = blob.digest.partition(":")[2]
    return sum(path.stat().st_size for path in millpond.incoming() if encoded in path.name)


def free(disk: Path) -> int:
    """Bytes."""
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize

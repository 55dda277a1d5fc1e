"""The simulation against arithmetic and a real storm, and the page on sizing against both."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.simulate import table
from deploy.storm import (
    GIB,
    LAYERS_AT_A_TIME,
    LIMIT,
    MANIFESTS,
    SERVED,
    SHAPE,
    TAKEN,
    Storm,
    bound,
    quota_wait,
    simulate,
)
from proxy.observe.metrics import Metrics
from tests.conftest import StartMillpond
from tests.deploy.haproxy import HAProxy, Server
from tests.support import images
from tests.support.images import Manifest
from tests.support.programs import require, run
from tests.support.pulls import get, head
from tests.support.registry import Registry
from tests.support.relay import CountingRelay, Rate
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy/sizing.md"
README = ROOT / "README.md"

GB = 1e9
# Manifests take a moment that the arithmetic does not have.
CLOSE = 0.01

# The real storm: slow enough that two busy processors are not what it waits for.
NODES = 12
CARD = 16e6  # bytes a second of each instance
UPSTREAM = 2e6
TOLERANCE = 0.35
ATTEMPTS = 3  # a machine that does something else at the same time makes a storm slower, never faster


def storm(**settings: object) -> Storm:
    """Cards of 1 GB/s for instances, everything else fast."""
    fast = {"nic": GB, "node_nic": 1e12, "upstream_speed": 1e12, "ecr_speed": 1e12, "layers": (GB,), "nodes": 50}
    return Storm(**{**fast, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "seconds"),
    [
        ({"warm": True}, 50.0),  # 50 GB through a card of 1 GB/s
        ({"warm": True, "nodes": 1, "nic": 4 * GB, "node_nic": GB / 10}, 10.0),  # the node's card
        ({"warm": True, "nodes": 100, "nic": 100 * GB}, 100 * GB / SERVED),  # what an instance serves, card or not
        ({"warm": True, "instances": 3, "layers": (GB,) * 3, "homes": (0, 1, 2)}, 50.0),  # three cards at once
        ({"warm": True, "instances": 3, "layers": (GB,) * 3, "homes": (1, 1, 1)}, 150.0),  # one card, two idle
        ({"warm": True, "instances": 5, "spread": 5}, 10.0),  # one blob at all five
        ({"warm": True, "instances": 2, "layers": (GB,) * 2, "homes": (0, 1), "fronts": 1}, 100.0),  # HAProxy's card
        ({"nodes": 2, "upstream_speed": GB / 100}, 100.0),  # all follow one download
        ({"nodes": 2, "ecr": True, "ecr_speed": GB / 50}, 50.0),  # the same, from ECR
        ({"nodes": 2, "layers": (GB,) * 2, "homes": (0, 0), "upstream_speed": GB / 100}, 200.0),  # a shared line
        ({"nodes": 2, "instances": 2, "spread": 2, "upstream_speed": GB / 100}, 200.0),  # twice over it
        ({"nodes": 1, "nic": 10 * GB}, GB / TAKEN),  # what an instance takes in
        ({"nodes": 10_000, "layers": (1.0,), "nic": 1e12}, 10_000 * 3 / MANIFESTS),  # manifests from one home
        ({"nodes": 1, "layers": (GB,) * 5, "warm": True}, 5.0),  # three at a time, and nothing idle
    ],
)
def test_the_simulation_agrees_with_arithmetic(case: dict[str, object], seconds: float) -> None:
    outcome = simulate(storm(**case))
    assert outcome.last == pytest.approx(seconds, rel=CLOSE, abs=0.02)


@pytest.mark.parametrize("nodes", [1, 7, 1000])
@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize("kind", ["cold", "warm", "ecr"])
def test_no_byte_is_lost_and_none_is_fetched_twice(nodes: int, spread: int, kind: str) -> None:
    made = Storm(nodes, 3, spread=spread, warm=kind == "warm", ecr=kind == "ecr", ramp=5)
    outcome = simulate(made)
    fetched = min(spread, nodes) * made.size
    assert outcome.served == pytest.approx(nodes * made.size)
    assert outcome.upstream == pytest.approx(fetched if kind == "cold" else 0)
    assert outcome.ecr == pytest.approx(fetched if kind == "ecr" else 0)
    assert outcome.hit_ratio == pytest.approx(1 - (min(spread, nodes) / nodes if kind == "cold" else 0))
    assert outcome.pulls == (kind == "cold")
    assert outcome.last >= bound(made) * (1 - CLOSE)
    assert outcome.median <= outcome.last


def test_the_seed_decides_the_homes_and_nothing_else_is_chance() -> None:
    outcomes = [simulate(Storm(300, 5, seed=seed)) for seed in (1, 1, 2, 3, 4)]
    assert outcomes[0] == outcomes[1]
    assert len({outcome.last for outcome in outcomes}) > 1


def test_a_rate_limit_makes_nodes_wait_for_whole_windows() -> None:
    assert [quota_wait(pulls, 100, 6) for pulls in (0, 1, 100, 101, 1000)] == [0, 0, 0, 6, 54]
    assert quota_wait(1000, LIMIT) == 9 * 6 * 3600


class _Node:
    """Pulls as containerd does; the names of the instances that answered are not its business."""

    def __init__(self, base: str, image: Manifest) -> None:
        self._base, self._image = base, image
        self._left = deque(blob.digest for blob in image.blobs[1:])

    def pull(self, began: float) -> float:
        assert head(f"{self._base}/manifests/1").status == 200
        assert get(f"{self._base}/manifests/{self._image.digest}").status == 200
        with ThreadPoolExecutor(LAYERS_AT_A_TIME) as pool:
            list(pool.map(self._layers, range(LAYERS_AT_A_TIME)))
        return time.monotonic() - began

    def _layers(self, _: int) -> None:
        while True:
            try:
                digest = self._left.popleft()
            except IndexError:
                return
            reply = get(f"{self._base}/blobs/{digest}", keep=False)
            assert (reply.status, reply.complete, reply.digest) == (200, True, digest)


def test_a_real_storm_takes_as_long_as_the_simulated_one(
    tmp_path: Path, start_millpond: StartMillpond, images_directory: Path
) -> None:
    require("haproxy", "docker-registry")
    with contextlib.ExitStack() as stack:
        upstream = Registry(tmp_path / "registry").start()
        stack.callback(upstream.stop)
        relay = stack.enter_context(upstream.relayed(Rate(UPSTREAM)))
        # A connection more would not be faster, and is not part of the model.
        ponds = [start_millpond({"docker.io": upstream.upstream(connections_per_blob=1)}, wait=False) for _ in range(3)]
        for pond in ponds:
            wait_until(pond.ready, "the instance is ready")
        cards = [stack.enter_context(_card(pond.port)) for pond in ponds]
        servers = [Server(card.port, pond.admin_port) for card, pond in zip(cards, ponds, strict=True)]
        haproxy = HAProxy(servers, tmp_path / "haproxy").start()
        stack.callback(haproxy.stop)
        for attempt in range(ATTEMPTS):
            sizes = (2_600_000, 1_600_000, 1_200_000, 1_000_000, 800_000, 600_000)
            seeds = enumerate(sizes, 500 + 10 * attempt)
            image = images.image([images.layer(images_directory, size, seed=seed) for seed, size in seeds])
            times = _cold_and_warm(image, f"storm/app-{attempt}", upstream, relay, haproxy)
            print(", ".join(f"real {real:.2f} s, simulated {simulated:.2f} s" for real, simulated in times))
            if all(real == pytest.approx(simulated, rel=TOLERANCE) for real, simulated in times):
                return
    pytest.fail(f"not within {TOLERANCE:.0%} in any of {ATTEMPTS} attempts")


def _cold_and_warm(
    image: Manifest, path: str, upstream: Registry, relay: CountingRelay, haproxy: HAProxy
) -> list[tuple[float, float]]:
    """The seconds that a storm takes, and those of its simulation: of an image that nobody has, and of the same again.
    Bytes from upstream are the same to the byte."""
    upstream.push(image, path, "1")
    base = f"{haproxy.url}/v2/docker.io/{path}"
    cold = _storm(base, image)
    fetched = relay.down
    warm = _storm(base, image)
    assert relay.down - fetched < 10_000  # the tag, perhaps
    layers = image.blobs[1:]
    names = haproxy.homes([f"/v2/docker.io/{path}/blobs/{blob.digest}" for blob in layers])
    homes = tuple(int(name.removeprefix("millpond-")) for name in names)
    assert sum(served.sent for served in upstream.served(f"/{path}/blobs/", "GET")) == sum(blob.size for blob in layers)
    model = Storm(
        NODES,
        3,
        layers=tuple(float(blob.size) for blob in layers),
        homes=homes,
        nic=CARD,
        node_nic=1e12,
        upstream_speed=UPSTREAM,
    )
    return [(cold, simulate(model).last), (warm, simulate(replace(model, warm=True)).last)]


@contextlib.contextmanager
def _card(port: int) -> Iterator[CountingRelay]:
    """A network card: what this port sends is held to a rate."""
    relay = CountingRelay(port, Rate(CARD)).start()
    try:
        yield relay
    finally:
        relay.stop()


def _storm(base: str, image: Manifest) -> float:
    """All nodes at once; seconds until the last has everything."""
    ready = threading.Barrier(NODES + 1)

    def node() -> float:
        ready.wait(20)
        return _Node(base, image).pull(time.monotonic())

    with ThreadPoolExecutor(NODES) as pool:
        done = [pool.submit(node) for _ in range(NODES)]
        ready.wait(20)
        return max(seconds.result() for seconds in done)


def test_the_page_s_table_is_what_the_script_prints() -> None:
    """After a change: put the script's output there anew."""
    found = re.search(r"<!-- table: (.+?) -->\n(.+?)\n<!-- end of table -->", PAGE.read_text(), re.DOTALL)
    assert found
    assert found[1] == "python3 -m deploy.simulate --table"
    assert found[2] == table()


def test_the_script_runs_without_anything_installed() -> None:
    """As the page says: any Python, no packages (-S leaves the environment's out)."""
    said = run(["env", "-C", str(ROOT), "python3", "-S", "-m", "deploy.simulate", "--nodes", "100", "--instances", "1"])
    assert "hit ratio       99.000%" in said


def test_the_figures_of_an_instance_are_those_of_the_readme() -> None:
    readme, page = README.read_text(), PAGE.read_text()
    assert "| cached blob, 4 · 16 · 64 clients, GB/s | 4.8 · 4.7 · 6.0 |" in readme
    assert SERVED == 4.7e9
    assert "| cached blobs, 16 clients | 4.7 GB/s |" in page
    assert f"| cold blob, no limit, loopback | {TAKEN / 1e6:.0f} MB/s |" in readme
    assert f"| {TAKEN / 1e6:.0f} MB/s |" in page
    assert f"| manifest by tag, 16 clients | {MANIFESTS:,.0f}/s" in readme
    assert f"| manifests by tag | {MANIFESTS:,.0f}/s |" in page
    memory = re.search(r"\| memory, the most in any case \| (\d+ MiB) \|", readme)
    assert memory
    assert f"| memory, the most in any case | {memory[1]} |" in page


def test_the_metrics_that_the_page_names_are_exported() -> None:
    exported = Metrics().render().decode()
    named = set(re.findall(r"millpond_[a-z_]+", PAGE.read_text()))
    assert len(named) >= 3
    assert [name for name in named if f"# TYPE {name.removesuffix('_total')}" not in exported] == []


def test_the_page_s_arithmetic_is_right() -> None:
    page = " ".join(PAGE.read_text().split())
    assert f"{bound(Storm(1000, 3, warm=True)):.0f} s" == "155 s"
    assert f"{bound(Storm(1000, 3, spread=3, warm=True)):.0f} s" == "115 s"
    assert "1,000 · 0.45 · 1.074 GB / 3.125 GB/s = 155 s" in page
    assert "1,000 · 1.074 GB / (3 · 3.125 GB/s) = 115 s" in page
    assert f"{GIB / 1e9:.3f}" == "1.074"
    assert sum(SHAPE) == pytest.approx(1)
    assert f"within {TOLERANCE:.0%}".replace("%", " %") in page

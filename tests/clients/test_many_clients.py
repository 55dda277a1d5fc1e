"""Many clients at once: upstream sends each byte once, and everybody gets all of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.conftest import Shelf
from tests.clients.containerd import Containerd
from tests.clients.dockerd import Dockerd
from tests.clients.podman import Podman
from tests.conftest import StartMillpond
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.programs import require
from tests.support.pulls import pull, pull_together
from tests.support.registry import Registry
from tests.support.relay import CountingRelay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

HERD = 50  # clients of one cold gigabyte
CLIENTS = 20
MEMORY = 150 << 20  # bytes resident, the promise for one cold gigabyte
OVERHEAD = 200_000  # bytes of headers, manifests and challenges that come with one image


@pytest.fixture
def relay(plain_registry: Registry) -> Iterator[CountingRelay]:
    """Counts what the plain registry sends to Millpond."""
    with plain_registry.relayed() as made:
        yield made


@pytest.fixture
def relayed_millpond(relay: CountingRelay, millpond: Millpond) -> Millpond:
    """A Millpond whose docker.io is the plain registry behind `relay`."""
    return millpond


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_clients_of_a_cold_gigabyte_cost_upstream_one(
    relay: CountingRelay, relayed_millpond: Millpond, gigabyte: Manifest
) -> None:
    pull_together(HERD, f"{relayed_millpond.url}/v2/library/gigabyte", gigabyte, "1", "?ns=docker.io")
    assert gigabyte.total_size <= relay.down < gigabyte.total_size + OVERHEAD
    assert relayed_millpond.peak_rss() < MEMORY
    wait_until(lambda: not relayed_millpond.incoming(), "it is kept, a moment after its last byte")


def test_twenty_clients_of_a_cold_index_cost_upstream_one(
    relay: CountingRelay, relayed_millpond: Millpond, plain_registry: Registry, shelf: Shelf
) -> None:
    plain_registry.forget()
    pull_together(CLIENTS, f"{relayed_millpond.url}/v2/docker.io/library/several", shelf.several, "1")
    assert relay.down < shelf.several.total_size + OVERHEAD
    paths = [served.path for served in plain_registry.served("/blobs/", "GET") if served.status == 200]
    assert sorted(paths) == sorted(set(paths))
    with plain_registry.down():
        replies = pull(f"{relayed_millpond.url}/v2/docker.io/library/several", shelf.several, "1")
    assert {reply.headers["x-millpond"] for reply in replies} == {"hit"}


def test_real_clients_of_every_kind_share_one_cold_image(
    containerd: Containerd, relay: CountingRelay, relayed_millpond: Millpond, shelf: Shelf, tmp_path: Path
) -> None:
    require("dockerd", "docker", "podman")
    hosts = containerd.hosts(relayed_millpond.url, "path")
    podman = Podman(tmp_path / "podman", f"{relayed_millpond.host}/docker.io")
    dockerd = Dockerd(tmp_path / "docker", [relayed_millpond.url])

    def with_containerd() -> str:
        with containerd.pull("docker.io/library/single:1", hosts) as pulled:
            pulled.check(shelf.single)
            return pulled.digest()

    try:
        with ThreadPoolExecutor() as pool:
            digests = [
                pool.submit(with_containerd),
                pool.submit(dockerd.pull, "single:1"),
                pool.submit(lambda: str(podman.pull("docker.io/library/single:1")["Digest"])),
            ]
            assert {done.result() for done in digests} == {shelf.single.digest}
    finally:
        dockerd.stop()
    assert relay.down < shelf.single.total_size + OVERHEAD


def test_restarted_millpond_serves_what_it_had(
    start_millpond: StartMillpond, plain_registry: Registry, shelf: Shelf
) -> None:
    millpond = start_millpond({"docker.io": plain_registry.upstream()})
    base = f"{millpond.url}/v2/docker.io/library/several"
    pull(base, shelf.several, "1")
    with plain_registry.down():
        assert millpond.terminate() == 0
        millpond.start()
        pull(base, shelf.several, "1")
        millpond.kill()
        millpond.start()
        pull(base, shelf.several, shelf.several.digest)

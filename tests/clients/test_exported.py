"""An air-gapped site: what was exported elsewhere is imported into an empty Millpond, and containerd pulls from it."""

from __future__ import annotations

import pytest

from tests.cache.disks import landed
from tests.clients.conftest import Shelf
from tests.clients.containerd import Containerd
from tests.support.command import well
from tests.support.millpond import Millpond
from tests.support.pulls import pull
from tests.support.registry import Registry

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("served", [True, False], ids=["into a running program", "into a directory"])
def test_containerd_pulls_what_was_exported_and_imported_while_upstream_is_down(
    containerd: Containerd, millpond: Millpond, plain_registry: Registry, shelf: Shelf, served: bool
) -> None:
    for name in ("several", "docker", "zstd"):
        pull(f"{millpond.url}/v2/docker.io/library/{name}", getattr(shelf, name), "1")
    landed(millpond)
    well("export", str(millpond.directory / "stick"), of=millpond)
    millpond.stop()
    there = Millpond({"upstreams": {"docker.io": plain_registry.upstream()}}, millpond.directory / "there")
    with plain_registry.down():
        if served:
            there.start()
        well("import", str(millpond.directory / "stick"), of=there)
        if not served:
            there.start()
        try:
            hosts = containerd.hosts(there.url)
            with containerd.pull("docker.io/library/several:1", hosts, all_platforms=True) as pulled:
                pulled.check(shelf.several)
            with containerd.pull("docker.io/library/docker:1", hosts) as pulled:
                pulled.check(shelf.docker, shelf.docker.children[0])
            with containerd.pull("docker.io/library/zstd:1", hosts) as pulled:
                pulled.check(shelf.zstd)
        finally:
            there.stop()
    assert not there.complaints(), "\n".join(there.complaints())

"""One Millpond before three upstreams, for what concerns their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cache.disks import bytes_on_disk
from tests.support.millpond import Millpond
from tests.support.scripted import ScriptedUpstream

WITH_PORT = "registry.test:5443"


@dataclass(frozen=True, slots=True)
class House:
    """A Millpond, Docker Hub (its default upstream), GHCR, and a registry whose name has a port."""

    millpond: Millpond
    hub: ScriptedUpstream
    ghcr: ScriptedUpstream
    ported: ScriptedUpstream

    @property
    def url(self) -> str:
        return self.millpond.url

    def contacts(self) -> tuple[int, int]:
        """(connections, requests) that all upstreams have seen so far."""
        all_of_them = (self.hub, self.ghcr, self.ported)
        return sum(one.connections for one in all_of_them), sum(len(one.requests) for one in all_of_them)

    def traces(self) -> tuple[tuple[int, int], int]:
        """Everything that a refused request must leave as it is: the contacts, and the bytes on disk."""
        return self.contacts(), bytes_on_disk(self.millpond.cache)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ScriptedUpstream() as hub, ScriptedUpstream() as ghcr, ScriptedUpstream() as ported:
        upstreams = {
            "docker.io": hub.upstream(aliases=["index.docker.io", "registry-1.docker.io"]),
            "ghcr.io": ghcr.upstream(),
            WITH_PORT: ported.upstream(aliases=["ported"]),
        }
        millpond = Millpond({"upstreams": upstreams}, tmp_path_factory.mktemp("house")).start()
        yield House(millpond, hub, ghcr, ported)
        millpond.stop()

"""dockerd pulls through Millpond: as Docker Hub's mirror, and by a name that begins with Millpond's address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Shelf
from tests.clients.dockerd import Dockerd
from tests.support.millpond import Millpond
from tests.support.programs import require, require_root
from tests.support.registry import Registry

pytestmark = pytest.mark.clients


@pytest.fixture
def dockerd(tmp_path: Path, millpond: Millpond) -> Iterator[Dockerd]:
    """A daemon with Millpond as its mirror."""
    require_root()
    require("dockerd", "docker")
    daemon = Dockerd(tmp_path / "docker", [millpond.url])
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("style", ["mirror", "prefix"])
def test_an_index_is_pulled_and_again_without_upstream(
    style: str, dockerd: Dockerd, millpond: Millpond, plain_registry: Registry, shelf: Shelf
) -> None:
    name = "several" if style == "mirror" else f"{millpond.host}/docker.io/library/several"
    assert dockerd.pull(f"{name}:1") == shelf.several.digest
    assert dockerd.config_digest(f"{name}:1") == shelf.amd64.blobs[0].digest
    dockerd.remove(f"{name}:1")
    with plain_registry.down():
        for reference in (f"{name}:1", f"{name}@{shelf.several.digest}"):
            assert dockerd.pull(reference) == shelf.several.digest
            assert dockerd.config_digest(reference) == shelf.amd64.blobs[0].digest
            dockerd.remove(reference)


def test_dockers_own_manifest_list_is_pulled(dockerd: Dockerd, shelf: Shelf) -> None:
    assert dockerd.pull("docker:1") == shelf.docker.digest
    assert dockerd.config_digest("docker:1") == shelf.docker.children[0].blobs[0].digest


def test_an_image_of_forty_layers_is_pulled(dockerd: Dockerd, shelf: Shelf) -> None:
    assert dockerd.pull("forty:1") == shelf.forty.digest
    assert dockerd.config_digest("forty:1") == shelf.forty.blobs[0].digest

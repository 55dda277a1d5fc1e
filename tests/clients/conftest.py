"""The clients' daemons, and the images that each of them pulls."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.containerd import Containerd
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.images import Blob, Manifest
from tests.support.millpond import Millpond
from tests.support.programs import require, require_root
from tests.support.registry import Registry

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the plain registry holds, all in `library/`: each by the name of its field, tag 1."""

    single: Manifest  # one layer
    several: Manifest  # an index of `amd64` and an image for arm64
    amd64: Manifest
    forty: Manifest  # 40 layers
    docker: Manifest  # Docker's own manifest list, of one image
    zstd: Manifest


@pytest.fixture(scope="session")
def shelf(plain_registry: Registry, images_directory: Path) -> Shelf:
    amd64 = images.simple_image(images_directory, seed=1, layers=4, size=300_000)
    arm64 = images.simple_image(images_directory, seed=2, layers=2, size=300_000, architecture="arm64")
    packed = images.layer(images_directory, 300_000, seed=3, media_type=images.OCI_LAYER_ZSTD, base=True)
    made = Shelf(
        single=images.simple_image(images_directory, seed=4, size=2_000_000),
        several=images.index([amd64, arm64]),
        amd64=amd64,
        forty=images.simple_image(images_directory, seed=5, layers=40, size=20_000),
        docker=images.index([images.simple_image(images_directory, seed=6, docker=True)], docker=True),
        zstd=images.image([packed]),
    )
    for name in ("single", "several", "forty", "docker", "zstd"):
        plain_registry.push(getattr(made, name), f"library/{name}", "1")
    return made


@pytest.fixture(scope="session")
def gigabyte_layer(images_directory: Path) -> Iterator[Blob]:
    """A layer of 1 GiB, most of it noise."""
    layer = images.layer(images_directory, GIB, seed=7, base=True)
    yield layer
    assert isinstance(layer.data, Path)
    layer.data.unlink()


@pytest.fixture(scope="session")
def gigabyte(plain_registry: Registry, gigabyte_layer: Blob) -> Manifest:
    """An image with that layer, in `library/gigabyte:1`."""
    image = images.image([gigabyte_layer])
    plain_registry.push(image, "library/gigabyte", "1")
    return image


@pytest.fixture
def millpond(start_millpond: StartMillpond, plain_registry: Registry) -> Iterator[Millpond]:
    """A Millpond with an empty cache whose docker.io is the plain registry."""
    made = start_millpond({"docker.io": plain_registry.upstream()})
    yield made
    made.stop()
    shutil.rmtree(made.cache, ignore_errors=True)  # gigabytes would stay until pytest forgets this session


@pytest.fixture(scope="session")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    require_root()
    require("containerd", "ctr")
    directory = tmp_path_factory.mktemp("containerd")
    daemon = Containerd(directory)
    yield daemon
    daemon.stop()
    shutil.rmtree(directory / "root", ignore_errors=True)

"""podman and skopeo pull through Millpond, as a mirror in registries.conf: the way of CRI-O."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import Shelf
from tests.clients.podman import Podman, check_directory
from tests.support import images
from tests.support.millpond import Millpond
from tests.support.programs import require, require_root
from tests.support.registry import Registry

pytestmark = pytest.mark.clients


@pytest.fixture
def podman(tmp_path: Path, millpond: Millpond) -> Podman:
    """Both programs with Millpond as the mirror of docker.io."""
    require_root()
    require("podman", "skopeo")
    return Podman(tmp_path / "podman", f"{millpond.host}/docker.io")


def test_podman_pulls_an_index_and_again_without_upstream(
    podman: Podman, plain_registry: Registry, shelf: Shelf
) -> None:
    pulled = podman.pull("docker.io/library/several:1")
    assert pulled["Digest"] == shelf.several.digest
    assert f"sha256:{pulled['Id']}" == shelf.amd64.blobs[0].digest
    podman.remove_all()
    with plain_registry.down():
        for reference in ("docker.io/library/several:1", f"docker.io/library/several@{shelf.several.digest}"):
            pulled = podman.pull(reference)
            assert pulled["Digest"] == shelf.several.digest
            assert f"sha256:{pulled['Id']}" == shelf.amd64.blobs[0].digest
            podman.remove_all()


def test_podman_pulls_an_image_of_forty_layers(podman: Podman, shelf: Shelf) -> None:
    assert podman.pull("docker.io/library/forty:1")["Digest"] == shelf.forty.digest


@pytest.mark.parametrize("name", ["several", "docker"])
def test_skopeo_copies_every_platform_byte_for_byte_and_again_without_upstream(
    name: str, podman: Podman, plain_registry: Registry, shelf: Shelf, tmp_path: Path
) -> None:
    source = getattr(shelf, name)
    podman.copy(f"docker.io/library/{name}:1", tmp_path / "first")
    check_directory(tmp_path / "first", source)
    with plain_registry.down():
        podman.copy(f"docker.io/library/{name}:1", tmp_path / "tag")
        podman.copy(f"docker.io/library/{name}@{source.digest}", tmp_path / "digest")
    check_directory(tmp_path / "tag", source)
    check_directory(tmp_path / "digest", source)


def test_skopeo_inspects_without_a_layer_being_downloaded(podman: Podman, millpond: Millpond, shelf: Shelf) -> None:
    # Without --no-tags it would ask for the tags at the name itself, never at a mirror.
    arguments = ["inspect", "--no-tags", "--tls-verify=false", "docker://docker.io/library/several:1"]
    inspected = json.loads(podman.skopeo(*arguments))
    assert inspected["Digest"] == shelf.several.digest
    layers = [blob.digest for blob in shelf.amd64.blobs[1:]]
    assert inspected["Layers"] == layers
    assert not [digest for digest in layers if millpond.blob_file(digest).exists()]


def test_skopeo_lists_the_tags(podman: Podman, millpond: Millpond, plain_registry: Registry, shelf: Shelf) -> None:
    plain_registry.push(shelf.single, "library/tags", "1.0", "1.1", "latest")
    # It asks for tags at the name itself, never at a mirror.
    listed = podman.skopeo("list-tags", "--tls-verify=false", f"docker://{millpond.host}/docker.io/library/tags")
    assert sorted(json.loads(listed)["Tags"]) == ["1.0", "1.1", "latest"]


def test_skopeo_copies_a_helm_chart_and_a_signature(
    podman: Podman, plain_registry: Registry, shelf: Shelf, tmp_path: Path
) -> None:
    chart = images.chart()
    tag, signature = images.signature(shelf.several)
    plain_registry.push(chart, "charts/pond", "0.1.0")
    plain_registry.push(signature, "library/several", tag)
    for reference, source in (("charts/pond:0.1.0", chart), (f"library/several:{tag}", signature)):
        target = tmp_path / source.digest.partition(":")[2]
        podman.copy(f"docker.io/{reference}", target)
        check_directory(target, source)

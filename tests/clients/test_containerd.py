"""containerd pulls through Millpond, unpacking included, in each style that a hosts.toml has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.clients.conftest import Shelf
from tests.clients.containerd import MIRRORS, Containerd
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.certificates import Authority
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.relay import Rate
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients


@pytest.fixture
def hosts(containerd: Containerd, millpond: Millpond) -> Path:
    """A configuration directory that names Millpond in the plainest style."""
    return containerd.hosts(millpond.url)


@pytest.mark.parametrize("style", MIRRORS)
def test_an_index_is_pulled_in_every_style_and_again_without_upstream(
    style: str, containerd: Containerd, millpond: Millpond, plain_registry: Registry, shelf: Shelf
) -> None:
    hosts = containerd.hosts(millpond.url, style)
    with containerd.pull("docker.io/library/several:1", hosts) as pulled:
        pulled.check(shelf.several, shelf.amd64)
    with plain_registry.down():
        with containerd.pull("docker.io/library/several:1", hosts) as pulled:
            pulled.check(shelf.several, shelf.amd64)
        with containerd.pull(f"docker.io/library/several@{shelf.several.digest}", hosts) as pulled:
            pulled.check(shelf.several, shelf.amd64)


@pytest.mark.parametrize("name", ["single", "forty", "docker", "zstd"])
def test_every_kind_of_image_is_pulled_and_unpacked(
    name: str, containerd: Containerd, hosts: Path, shelf: Shelf
) -> None:
    source: Manifest = getattr(shelf, name)
    platform = source.children[0] if source.children else None
    with containerd.pull(f"docker.io/library/{name}:1", hosts) as pulled:
        pulled.check(source, platform)


def test_all_platforms_of_an_index_are_pulled(containerd: Containerd, hosts: Path, shelf: Shelf) -> None:
    with containerd.pull("docker.io/library/several:1", hosts, all_platforms=True) as pulled:
        pulled.check(shelf.several)
        assert pulled.content() >= set(shelf.several.all_blobs())


def test_a_first_pull_by_digest_alone_works(containerd: Containerd, hosts: Path, shelf: Shelf) -> None:
    with containerd.pull(f"docker.io/library/single@{shelf.single.digest}", hosts) as pulled:
        pulled.check(shelf.single)


def test_a_tag_that_must_be_revalidated_is_served_while_upstream_is_down(
    containerd: Containerd, start_millpond: StartMillpond, plain_registry: Registry, shelf: Shelf
) -> None:
    millpond = start_millpond({"docker.io": plain_registry.upstream(tag_ttl="0s")})
    hosts = containerd.hosts(millpond.url)
    with containerd.pull("docker.io/library/single:1", hosts):
        pass
    with plain_registry.down(), containerd.pull("docker.io/library/single:1", hosts) as pulled:
        pulled.check(shelf.single)


def test_a_private_image_is_pulled_with_the_credentials_that_millpond_has(
    containerd: Containerd,
    start_millpond: StartMillpond,
    token_registry: Registry,
    images_directory: Path,
    tmp_path: Path,
) -> None:
    image = images.simple_image(images_directory, seed=20, layers=2)
    token_registry.push(image, "private/app", "1")
    password_file = token_registry.directory / "password"
    password_file.write_text(f"{PASSWORD}\n")
    password_file.chmod(0o600)
    upstream = token_registry.upstream(username=USER, password_file=str(password_file))
    millpond = start_millpond({"docker.io": upstream})
    hosts = containerd.hosts(millpond.url)
    with containerd.pull("docker.io/private/app:1", hosts) as pulled:
        pulled.check(image)
    with token_registry.down(), containerd.pull("docker.io/private/app:1", hosts) as pulled:
        pulled.check(image)
    millpond.settle_log()
    assert PASSWORD not in millpond.log_text()


def test_a_private_image_is_refused_without_credentials(
    containerd: Containerd,
    start_millpond: StartMillpond,
    token_registry: Registry,
    images_directory: Path,
) -> None:
    token_registry.push(images.simple_image(images_directory, seed=20, layers=2), "private/app", "1")
    millpond = start_millpond({"docker.io": token_registry.upstream()})
    hosts = containerd.hosts(millpond.url)
    with pytest.raises(AssertionError, match=r"images pull .* ended with 1"):
        containerd.pull("docker.io/private/app:1", hosts).__enter__()


def test_an_upstream_behind_passwords_is_pulled_from(
    containerd: Containerd,
    start_millpond: StartMillpond,
    password_registry: Registry,
    images_directory: Path,
) -> None:
    image = images.simple_image(images_directory, seed=21)
    password_registry.push(image, "team/app", "1")
    upstream = password_registry.upstream(username=USER)
    key = "MILLPOND_UPSTREAMS__registry.test__PASSWORD"
    millpond = start_millpond({"registry.test": upstream}, env={key: PASSWORD})
    hosts = containerd.hosts(millpond.url, namespace="registry.test")
    with containerd.pull("registry.test/team/app:1", hosts) as pulled:
        pulled.check(image)


def test_one_default_mirror_stands_for_several_registries(
    containerd: Containerd, start_millpond: StartMillpond, plain_registry: Registry, shelf: Shelf
) -> None:
    upstream = plain_registry.upstream()
    millpond = start_millpond({"docker.io": upstream, "registry.test": upstream})
    hosts = containerd.hosts(millpond.url, namespace="_default")
    for reference in ("docker.io/library/single:1", "registry.test/library/single:1"):
        with containerd.pull(reference, hosts) as pulled:
            pulled.check(shelf.single)


def test_a_millpond_with_a_certificate_is_pulled_from(
    containerd: Containerd,
    start_millpond: StartMillpond,
    plain_registry: Registry,
    authority: Authority,
    shelf: Shelf,
) -> None:
    certificate = authority.issue()
    tls = {"cert_file": str(certificate.chain_file), "key_file": str(certificate.key_file)}
    millpond = start_millpond({"docker.io": plain_registry.upstream()}, registry={"tls": tls})
    hosts = containerd.hosts(millpond.url, ca_file=authority.ca_file)
    with containerd.pull("docker.io/library/several:1", hosts) as pulled:
        pulled.check(shelf.several, shelf.amd64)
    with plain_registry.down(), containerd.pull("docker.io/library/several:1", hosts) as pulled:
        pulled.check(shelf.several, shelf.amd64)


def test_containerd_does_not_notice_that_upstream_breaks_in_the_middle_of_a_layer(
    containerd: Containerd, start_millpond: StartMillpond, plain_registry: Registry, images_directory: Path
) -> None:
    image = images.image([images.layer(images_directory, 40_000_000, seed=22, base=True)])
    plain_registry.push(image, "library/broken", "1")

    def pulled_digest(hosts: Path) -> str:
        with containerd.pull("docker.io/library/broken:1", hosts) as pulled:
            pulled.check(image)
            return pulled.digest()

    with plain_registry.relayed(Rate(20_000_000)) as relay, ThreadPoolExecutor() as pool:
        millpond = start_millpond({"docker.io": plain_registry.upstream()})
        pull = pool.submit(pulled_digest, containerd.hosts(millpond.url))
        for part in (8_000_000, 24_000_000):
            wait_until(partial(relay.has_sent, part), f"upstream has sent {part} bytes")
            assert relay.break_connections()
        assert pull.result() == image.digest
        # What was on its way is sent again, and no more than that: the pull went on where it had been broken.
        assert relay.down < image.total_size + 8_000_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_layer_of_a_gigabyte_is_pulled_and_unpacked(containerd: Containerd, hosts: Path, gigabyte: Manifest) -> None:
    with containerd.pull("docker.io/library/gigabyte:1", hosts) as pulled:
        pulled.check(gigabyte)

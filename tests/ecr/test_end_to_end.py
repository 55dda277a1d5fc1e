"""What nodes pull once stands in two accounts, and is pulled from there when disk and upstream are gone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.clients.containerd import Containerd
from tests.clients.dockerd import Dockerd
from tests.conftest import StartMillpond
from tests.ecr.fleet import Fleet, lose_the_disk, noted, targets
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.programs import require, require_root
from tests.support.pulls import get, head, pull
from tests.support.registry import Registry
from tests.support.waiting import wait_until

_numbers = itertools.count()

# Fifty images, pulled once and killed at random: the seed makes a failure repeatable in what it pulls, not in time.
FIFTY = 50


@pytest.fixture
def fleet(cloud: EcrDouble, plain_registry: Registry) -> Fleet:
    return Fleet(cloud, plain_registry)


@pytest.fixture
def millpond(start_millpond: StartMillpond, plain_registry: Registry, cloud: EcrDouble) -> Millpond:
    """A Millpond whose docker.io is the plain registry, with both accounts as targets."""
    return start_millpond({"docker.io": plain_registry.upstream()}, env=cloud.environment, ecr=targets(cloud))


@pytest.fixture
def daemons(tmp_path: Path, millpond: Millpond) -> Iterator[tuple[Containerd, Dockerd]]:
    """Both with Millpond as their mirror."""
    require_root()
    require("containerd", "ctr", "dockerd", "docker")
    with ExitStack() as stack:
        containerd = Containerd(tmp_path / "containerd")
        stack.callback(containerd.stop)
        dockerd = Dockerd(tmp_path / "docker", [millpond.url])
        stack.callback(dockerd.stop)
        yield containerd, dockerd


def repository(name: str) -> str:
    """One that no other test has used: the upstream registry is shared."""
    return f"ecr/{name}-{next(_numbers)}"


def three_platforms(directory: Path) -> Manifest:
    platforms = enumerate(("amd64", "arm64", "s390x"))
    return images.index(
        [
            images.simple_image(directory, seed=900 + number, layers=2, architecture=architecture)
            for number, architecture in platforms
        ]
    )


@pytest.mark.clients
@pytest.mark.parametrize("kind", ["single", "three platforms"])
def test_an_image_pulled_once_outlives_disk_and_upstream_for_containerd_and_dockerd(
    kind: str, millpond: Millpond, fleet: Fleet, daemons: tuple[Containerd, Dockerd], images_directory: Path
) -> None:
    containerd, dockerd = daemons
    single = images.simple_image(images_directory, seed=890, layers=3, size=300_000)
    image = single if kind == "single" else three_platforms(images_directory)
    amd64 = image.children[0] if image.children else image
    path = repository(kind.replace(" ", "-"))
    fleet.upstream.push(image, path, "1")
    hosts = containerd.hosts(millpond.url)
    with containerd.pull(f"docker.io/{path}:1", hosts) as pulled:
        pulled.check(image, amd64)
    fleet.arrived(image, path, "1")
    lose_the_disk(millpond)
    with fleet.upstream.down():
        for reference in (f"docker.io/{path}:1", f"docker.io/{path}@{image.digest}"):
            with containerd.pull(reference, hosts) as pulled:
                pulled.check(image, amd64)
        assert millpond.metric("millpond_requests_total", source="ecr") > 0
        lose_the_disk(millpond)
        for reference in (f"{path}:1", f"{path}@{image.digest}"):
            assert dockerd.pull(reference) == image.digest
            assert dockerd.config_digest(reference) == amd64.blobs[0].digest
            dockerd.remove(reference)


@pytest.mark.parametrize("kind", ["chart", "signed"])
def test_an_artifact_pulled_once_outlives_disk_and_upstream(
    kind: str, millpond: Millpond, fleet: Fleet, images_directory: Path
) -> None:
    path = repository(kind)
    image = images.chart(seed=5) if kind == "chart" else images.simple_image(images_directory, seed=891)
    signature_tag, signature = images.signature(image)
    fleet.upstream.push(image, path, "1")
    if kind == "signed":
        fleet.upstream.push(signature, path, signature_tag)
    pull(f"{millpond.url}/v2/docker.io/{path}", image, "1")
    fleet.arrived(image, path, "1")
    if kind == "signed":
        fleet.arrived(signature, path, signature_tag)
    lose_the_disk(millpond)
    with fleet.upstream.down():
        base = f"{millpond.url}/v2/docker.io/{path}"
        replies = pull(base, image, "1")
        assert {reply.headers["x-millpond"] for reply in replies} == {"ecr"}
        assert "ecr" not in {reply.headers["x-millpond"] for reply in pull(base, image, image.digest)}
        if kind == "signed":
            pull(base, signature, signature_tag)


def test_an_image_that_was_first_pulled_by_digest_stands_in_both_accounts(
    millpond: Millpond, fleet: Fleet, images_directory: Path
) -> None:
    """ECR's own pull-through cache fails here."""
    path, image = repository("pinned"), three_platforms(images_directory)
    fleet.upstream.push(image, path, "1")
    pull(f"{millpond.url}/v2/docker.io/{path}", image, image.digest)
    fleet.arrived(image, path)
    assert [registry.repositories[f"docker.io/{path}"].tags for registry in fleet.registries] == [{}, {}]


def test_platforms_that_no_node_pulled_are_pushed_too(millpond: Millpond, fleet: Fleet, images_directory: Path) -> None:
    path, image = repository("all-platforms"), three_platforms(images_directory)
    fleet.upstream.push(image, path, "1")
    base = f"{millpond.url}/v2/docker.io/{path}"
    assert head(f"{base}/manifests/1").headers["docker-content-digest"] == image.digest
    assert get(f"{base}/manifests/{image.digest}").status == 200
    pull(base, image.children[0], image.children[0].digest)
    fleet.arrived(image, path, "1")


def test_a_moved_tag_moves_in_both_accounts(
    start_millpond: StartMillpond,
    cloud: EcrDouble,
    fleet: Fleet,
    images_directory: Path,
) -> None:
    upstream = fleet.upstream.upstream(tag_ttl=0)
    millpond = start_millpond({"docker.io": upstream}, env=cloud.environment, ecr=targets(cloud))
    path = repository("moving")
    for seed in (892, 893):
        image = images.simple_image(images_directory, seed=seed)
        fleet.upstream.push(image, path, "latest")
        pull(f"{millpond.url}/v2/docker.io/{path}", image, "latest")
        fleet.arrived(image, path, "latest")
    assert [len(registry.repositories[f"docker.io/{path}"].images) for registry in fleet.registries] == [2, 2]


def test_an_image_that_ecr_has_lost_is_pushed_again_when_it_is_asked_for(
    millpond: Millpond, fleet: Fleet, images_directory: Path
) -> None:
    path, image = repository("lost"), images.simple_image(images_directory, seed=894)
    fleet.upstream.push(image, path, "1")
    base = f"{millpond.url}/v2/docker.io/{path}"
    pull(base, image, "1")
    fleet.arrived(image, path, "1")
    wait_until(lambda: _jobs(millpond, "done") == 2, "both pushes have ended")
    for registry in fleet.registries:
        registry.repositories[f"docker.io/{path}"].lose_image(image.digest)
    sync = get(
        f"{millpond.admin_url}/api/v1/ecr/sync",
        {"Content-Type": "application/json"},
        method="POST",
        content=f'{{"images": ["docker.io/{path}:1"]}}'.encode(),
    )
    assert '"done": 2' in sync.text
    assert not fleet.lacks(image, path, "1")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_pushes_killed_at_random_moments_end_complete_in_both_accounts(
    millpond: Millpond, fleet: Fleet, cloud: EcrDouble, images_directory: Path
) -> None:
    """The double notes every manifest that comes before its blobs; the fixture fails on any."""
    chance = random.Random(4)
    path = repository("fifty")
    shared = images.layer(images_directory, 50_000, seed=70)
    made = [
        images.image([shared, images.layer(images_directory, 50_000, seed=1000 + number)], note=str(number))
        for number in range(FIFTY)
    ]
    for number, image in enumerate(made):
        fleet.upstream.push(image, path, f"v{number}")
        pull(f"{millpond.url}/v2/docker.io/{path}", image, f"v{number}")
        if number % 8 == 7:
            noted(millpond, 2 * (number + 1))
            some = len(cloud.calls) + chance.randrange(60)
            wait_until(partial(_has_come_to, millpond, cloud, some), "some more calls, or an empty queue")
            millpond.kill()
            millpond.start()
    for number, image in enumerate(made):
        fleet.arrived(image, path, f"v{number}", deadline=150)
    wait_until(lambda: _jobs(millpond, "done") == 2 * FIFTY, "all jobs are done")
    status = get(f"{millpond.admin_url}/api/v1/ecr").json()
    jobs = [(job["target"], job["digest"]) for job in status["jobs"]]
    assert len(jobs) == len(set(jobs)) == 2 * FIFTY
    assert all(target["rejected"] == 0 for target in status["targets"])
    assert cloud.count("PutImage", outcome="ok") >= 2 * FIFTY


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_throttling_and_failing_calls_delay_pushes_and_no_client_notices(
    millpond: Millpond, fleet: Fleet, cloud: EcrDouble, images_directory: Path
) -> None:
    cloud.throttle("PutImage", per_second=1)
    cloud.flaky(0.1, seed=7)
    path = repository("throttled")
    made = [images.simple_image(images_directory, seed=1100 + number, layers=2) for number in range(10)]
    for number, image in enumerate(made):
        fleet.upstream.push(image, path, f"v{number}")
        replies = pull(f"{millpond.url}/v2/docker.io/{path}", image, f"v{number}")
        assert {reply.status for reply in replies} == {200}
    for number, image in enumerate(made):
        fleet.arrived(image, path, f"v{number}", deadline=200)
    assert cloud.count("PutImage", outcome="ThrottlingException") > 0
    assert millpond.metric("millpond_requests_total", status="200") >= 10 * 4
    assert sum(value for key, value in millpond.metrics().items() if 'status="5' in key) == 0


def _jobs(millpond: Millpond, state: str) -> float:
    return millpond.metric("millpond_ecr_queue", state=state)


def _has_come_to(millpond: Millpond, cloud: EcrDouble, calls: int) -> bool:
    return len(cloud.calls) >= calls or _jobs(millpond, "queued") + _jobs(millpond, "pushing") == 0

"""Three Millponds behind HAProxy: homes, a death, a rolling restart; and the cache directory of an old program."""

from __future__ import annotations

import itertools
import os
import sqlite3
import tarfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartMillpond
from tests.deploy.haproxy import HAProxy, Server
from tests.ecr.fleet import Fleet, targets
from tests.edge.access import basic
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.images import Blob, Manifest
from tests.support.millpond import Millpond
from tests.support.programs import require
from tests.support.pulls import Download, get, head, opened, pull
from tests.support.registry import Registry
from tests.support.waiting import wait_until

MIB = 1 << 20

# More than what sockets and HAProxy hold between Millpond and a client that reads slowly.
LARGE = 48 * MIB

OLD_CACHE = Path(__file__).with_name("cache-of-849da88.tar.xz")
"""What the first program with a cache (commit 849da88, on the server of c41993c) left after a pull of `old_image` from
docker.io and a SIGTERM. Its ledger is kept by SQLite's write-ahead log, which later programs do not use."""

_numbers = itertools.count()


@dataclass
class Pond:
    """Three instances, HAProxy before them, and their upstream."""

    instances: list[Millpond]
    haproxy: HAProxy
    upstream: Registry

    def base(self, repository: str, style: str = "/v2/docker.io/{}") -> str:
        return self.haproxy.url + style.format(repository)

    def instance(self, name: str) -> Millpond:
        """By the name that HAProxy has for it."""
        return self.instances[int(name.removeprefix("millpond-"))]

    def home(self, url: str) -> str:
        return head(url).headers["x-millpond-instance"]


StartPond = Callable[..., Pond]


@pytest.fixture
def start_pond(tmp_path: Path, plain_registry: Registry, start_millpond: StartMillpond) -> Iterator[StartPond]:
    """A factory of ponds whose docker.io is the plain registry. `change` alters HAProxy's configuration; `known` tells
    the instances its address."""
    require("haproxy")
    with ExitStack() as stack:

        def start(
            *,
            env: dict[str, str] | None = None,
            change: Callable[[str], str] = lambda text: text,
            known: bool = False,
            **config: dict[str, Any],
        ) -> Pond:
            haproxy = HAProxy([], tmp_path / "haproxy", change)
            stack.callback(haproxy.stop)
            if known:
                config["ecr"] = {**config["ecr"], "balancer": haproxy.url}
            upstreams = {"docker.io": plain_registry.upstream()}
            instances = [start_millpond(upstreams, env=env, wait=False, **config) for _ in range(3)]
            for instance in instances:
                wait_until(instance.ready, "the instance is ready")
            haproxy.servers = [Server(instance.port, instance.admin_port) for instance in instances]
            return Pond(instances, haproxy.start(), plain_registry)

        yield start


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    """An ECR double; the test fails when a client did what AWS would never accept."""
    with EcrDouble() as made:
        yield made


def repository(name: str) -> str:
    """One that no other test has used: the upstream registry is shared."""
    return f"scale/{name}-{next(_numbers)}"


def fetched(upstream: Registry, path: str, blob: Blob) -> int:
    """Bytes of it that upstream has sent, as its log says, which may be a moment late."""
    return sum(served.sent for served in upstream.served(f"/{path}/blobs/{blob.digest}", "GET"))


def fetched_at_least(upstream: Registry, path: str, blob: Blob, size: int) -> int:
    """`fetched`, once it is that much."""
    wait_until(lambda: fetched(upstream, path, blob) >= size, f"upstream's log has {size} bytes of {blob.digest}")
    return fetched(upstream, path, blob)


def test_each_blob_has_one_home_and_upstream_sends_it_once_for_all(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path
) -> None:
    pond = start_pond()
    path = repository("once")
    children = [
        images.simple_image(images_directory, seed=300 + number, layers=6, size=200_000, architecture=architecture)
        for number, architecture in enumerate(("amd64", "arm64"))
    ]
    image = images.index(children)
    plain_registry.push(image, path, "1")
    plain_registry.forget()
    styles = ("/v2/{}", "/v2/docker.io/{}", "/docker.io/v2/{}", "/v2/index.docker.io/{}")
    with ThreadPoolExecutor(8) as pool:
        pulls = [
            pool.submit(pull, pond.base(path, style), image, "1", query)
            for style, query in [*((style, "") for style in styles), *[("/v2/{}", "?ns=docker.io")] * 4]
        ]
        replies = [reply for done in pulls for reply in done.result()]
    homes = defaultdict(set)
    for reply in replies:
        homes[reply.digest].add(reply.headers["x-millpond-instance"])
    assert {len(home) for home in homes.values()} == {1}
    blobs = image.all_blobs()
    assert len(set.union(*(homes[digest] for digest in blobs))) == 3
    assert len(set.union(*(homes[part.digest] for part in image.walk()))) == 1  # manifests: the repository's home
    sizes = {digest: blob.size for digest, blob in blobs.items()}
    assert {digest: fetched_at_least(plain_registry, path, blobs[digest], sizes[digest]) for digest in blobs} == sizes
    assert len(plain_registry.served(f"/{path}/manifests/", "GET")) == len(list(image.walk()))
    wait_until(lambda: _kept(pond, blobs) >= len(blobs), "every blob is kept")
    assert _kept(pond, blobs) == len(blobs)  # and by one instance only


def _kept(pond: Pond, digests: Iterable[str]) -> int:
    """Files in all the caches."""
    return sum(instance.blob_file(digest).exists() for digest in digests for instance in pond.instances)


def test_above_the_balance_factor_a_hot_blob_is_served_by_more_than_its_home(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path
) -> None:
    """The line that the file has as a comment, and what deploy/sizing.md says of it."""
    pond = start_pond(change=lambda text: text.replace("# hash-balance-factor", "hash-balance-factor"))
    path, layer = repository("hot"), images.layer(images_directory, LARGE, seed=310)
    plain_registry.push(images.image([layer]), path, "1")
    plain_registry.forget()
    url = f"{pond.base(path)}/blobs/{layer.digest}"
    with ExitStack() as stack:
        downloads = [stack.enter_context(opened(url)) for _ in range(6)]
        serving = {download.headers["x-millpond-instance"] for download in downloads}
        assert all(download.drain() and download.digest == layer.digest for download in downloads)
    assert len(serving) > 1
    assert fetched_at_least(plain_registry, path, layer, 2 * layer.size) <= len(serving) * layer.size


def test_an_instance_that_dies_in_mid_pull_costs_each_client_one_retry(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path
) -> None:
    pond, path = start_pond(), repository("death")
    image = _image_with_a_large_layer(images_directory, seed=320)
    plain_registry.push(image, path, "1")
    pull(pond.base(path), image, "1")
    plain_registry.forget()
    home = _kill_in_mid_pull(pond, path, image)
    for each in (pull(pond.base(path), image, "1"), pull(pond.base(path), image, image.digest)):
        assert home not in {reply.headers["x-millpond-instance"] for reply in each}
    # What the dead one had is fetched anew, once; nothing else is.
    large = image.blobs[1]
    assert fetched_at_least(plain_registry, path, large, large.size) == large.size
    others = [blob for blob in image.blobs if not pond.instance(home).blob_file(blob.digest).exists()]
    assert others
    assert [fetched(plain_registry, path, blob) for blob in others] == [0] * len(others)


def test_an_instance_that_dies_costs_upstream_nothing_that_ecr_has(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path, cloud: EcrDouble, tmp_path: Path
) -> None:
    """Once the instances have forgotten that ECR did not have it a moment ago, which is made to be soon here."""
    (tmp_path / "sitecustomize.py").write_text("import proxy.pull.near\nproxy.pull.near.MISS_SECONDS = 0.2\n")
    forgetful = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    pond, path = start_pond(env=cloud.environment | forgetful, ecr=targets(cloud)), repository("death-with-ecr")
    image = _image_with_a_large_layer(images_directory, seed=325)
    plain_registry.push(image, path, "1")
    pull(pond.base(path), image, "1")
    Fleet(cloud, plain_registry).arrived(image, path, "1")
    plain_registry.forget()
    _kill_in_mid_pull(pond, path, image)
    pull(pond.base(path), image, "1")
    assert plain_registry.served(f"/{path}/", "GET") == []


def test_what_one_instance_pushes_and_another_has_is_read_there_and_upstream_sends_it_once(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path, cloud: EcrDouble
) -> None:
    pond = start_pond(env=cloud.environment, known=True, ecr=targets(cloud))
    path, image = repository("once"), images.simple_image(images_directory, seed=328, layers=6, size=200_000)
    plain_registry.push(image, path, "1")
    plain_registry.forget()
    base = pond.base(path)
    pull(base, image, "1")
    Fleet(cloud, plain_registry).arrived(image, path, "1")
    _each_blob_was_fetched_once_and_by_its_home(pond, path, image)


def test_where_clients_have_to_log_in_an_instance_logs_in_to_read_what_another_has(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path, cloud: EcrDouble, tmp_path: Path
) -> None:
    node, own = "token-of-a-node-0123456789", "token-of-the-instances-9876543210"
    tokens, password = tmp_path / "tokens", tmp_path / "password"
    tokens.write_text(f"node:{node}\nmillpond:{own}\n")
    password.write_text(f"{own}\n")
    ecr = {**targets(cloud), "balancer_username": "millpond", "balancer_password_file": str(password)}
    pond = start_pond(env=cloud.environment, known=True, ecr=ecr, access={"tokens_file": str(tokens)})
    path, image = repository("users"), images.simple_image(images_directory, seed=326, layers=6, size=200_000)
    plain_registry.push(image, path, "1")
    plain_registry.forget()
    base = pond.base(path)
    assert get(f"{base}/manifests/1").status == 401
    for part in ("manifests/1", *(f"blobs/{digest}" for digest in image.all_blobs())):
        assert get(f"{base}/{part}", basic("node", node)).status == 200
    Fleet(cloud, plain_registry).arrived(image, path, "1")
    _each_blob_was_fetched_once_and_by_its_home(pond, path, image)
    for instance in pond.instances:
        assert not instance.log_lines(event="not read from its home behind the balancer")
        assert own not in instance.log_text()


def test_an_instance_that_cannot_log_in_to_another_says_what_to_set_and_asks_upstream(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path, cloud: EcrDouble, tmp_path: Path
) -> None:
    tokens, node = tmp_path / "tokens", "token-of-a-node-0123456789"
    tokens.write_text(f"node:{node}\n")
    pond = start_pond(env=cloud.environment, known=True, ecr=targets(cloud), access={"tokens_file": str(tokens)})
    path, image = repository("nobody"), images.simple_image(images_directory, seed=329, layers=6, size=20_000)
    plain_registry.push(image, path, "1")
    base = pond.base(path)
    assert get(f"{base}/manifests/1", basic("node", node)).status == 200
    Fleet(cloud, plain_registry).arrived(image, path, "1")
    pusher = pond.instance(pond.home(f"{base}/manifests/1"))
    lines = wait_until(lambda: pusher.log_lines(event="not read from its home behind the balancer"), "the log says so")
    assert all("set ecr.balancer_username and ecr.balancer_password_file" in line["why"] for line in lines)


def _each_blob_was_fetched_once_and_by_its_home(pond: Pond, path: str, image: Manifest) -> None:
    base, blobs = pond.base(path), image.all_blobs()
    homes = {digest: pond.home(f"{base}/blobs/{digest}") for digest in blobs}
    assert set(homes.values()) != {pond.home(f"{base}/manifests/1")}, "some have their home elsewhere"
    for digest, blob in blobs.items():
        assert fetched(pond.upstream, path, blob) == blob.size
        holders = [instance for instance in pond.instances if instance.blob_file(digest).exists()]
        assert holders == [pond.instance(homes[digest])], "and nobody else keeps it"


def test_without_the_balancers_address_upstream_sends_a_blob_to_its_home_and_to_the_image_s(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path, cloud: EcrDouble
) -> None:
    """deploy/sizing.md says so: the instance that pushes an image fetches for itself what has its home elsewhere."""
    pond, path = start_pond(env=cloud.environment, ecr=targets(cloud)), repository("twice")
    image = images.simple_image(images_directory, seed=327, layers=6, size=200_000)
    plain_registry.push(image, path, "1")
    plain_registry.forget()
    base = pond.base(path)
    pull(base, image, "1")
    Fleet(cloud, plain_registry).arrived(image, path, "1")
    pusher = pond.home(f"{base}/manifests/1")
    for blob in image.all_blobs().values():
        times = 1 if pond.home(f"{base}/blobs/{blob.digest}") == pusher else 2
        assert fetched(plain_registry, path, blob) <= times * blob.size


def _image_with_a_large_layer(directory: Path, seed: int) -> Manifest:
    large = images.layer(directory, LARGE, seed=seed, base=True)
    return images.image([large, *(images.layer(directory, 100_000, seed=seed * 10 + n) for n in range(4))])


def _kill_in_mid_pull(pond: Pond, path: str, image: Manifest) -> str:
    """Four clients read the large layer when its home is killed; each asks once for the rest. The one that died."""
    large = image.blobs[1]
    url = f"{pond.base(path)}/blobs/{large.digest}"
    home = pond.home(url)
    with ExitStack() as stack:
        downloads = [stack.enter_context(opened(url)) for _ in range(4)]
        assert all(len(download.read(MIB)) == MIB for download in downloads)
        assert {download.headers["x-millpond-instance"] for download in downloads} == {home}
        pond.instance(home).kill()
        assert not any(download.drain() for download in downloads)  # broken off, never short and seemingly whole
        with ThreadPoolExecutor(4) as pool:
            rests = list(pool.map(lambda download: _resume(url, download), downloads))
    assert [digest for digest, _ in rests] == [large.digest] * 4
    assert [rest.status for _, rest in rests] == [206] * 4
    assert home not in {rest.headers["x-millpond-instance"] for _, rest in rests}
    return home


def _resume(url: str, download: Download) -> tuple[str, Download]:
    """Ask once for what is missing, as containerd does; the digest of both parts, and the second answer."""
    hasher = download.hasher.copy()
    with opened(url, {"Range": f"bytes={download.received}-"}) as rest:
        while part := rest.read(MIB):
            hasher.update(part)
    return f"sha256:{hasher.hexdigest()}", rest


def test_a_rolling_restart_under_load_loses_no_pull(
    start_pond: StartPond, plain_registry: Registry, images_directory: Path
) -> None:
    """No client here tries anything twice: a single failed request fails the test."""
    pond = start_pond()
    path, layer = repository("rolling"), images.layer(images_directory, LARGE, seed=330, base=True)
    plain_registry.push(images.image([layer]), path, "large")
    small = [images.simple_image(images_directory, seed=331 + n, layers=3, size=100_000) for n in range(4)]
    for number, image in enumerate(small):
        plain_registry.push(image, path, f"v{number}")
    url = f"{pond.base(path)}/blobs/{layer.digest}"
    home = pond.home(url)
    enough = threading.Event()
    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        stack.callback(enough.set)
        load = [pool.submit(_pull_on, pond.base(path), small, enough) for _ in range(3)]
        slow = stack.enter_context(opened(url))
        slow.read(MIB)
        for number, instance in enumerate(pond.instances):
            _restart(pond, f"millpond-{number}", instance, slow if home == f"millpond-{number}" else None)
            assert not any(done.done() for done in load), [done.exception() for done in load if done.done()]
        assert slow.digest == layer.digest
        enough.set()
        assert sum(done.result() for done in load) > 30
    assert [instance.starts for instance in pond.instances] == [2, 2, 2]


def _restart(pond: Pond, name: str, instance: Millpond, slow: Download | None) -> None:
    """SIGTERM; HAProxy leaves it, while what it streams goes on; then it is back."""
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(instance.terminate)
        if slow:
            wait_until(lambda: not pond.haproxy.up(name), "HAProxy has taken the draining instance out")
            assert not ending.done()
            assert pond.haproxy.streams(name) >= 1
            assert slow.drain()
        assert ending.result() == 0
    wait_until(lambda: not pond.haproxy.up(name), "HAProxy has noticed that it has gone")
    instance.start()
    wait_until(lambda: pond.haproxy.up(name), "HAProxy has taken it in again")


def _pull_on(base: str, made: list[Manifest], enough: threading.Event) -> int:
    """Whole pulls, one after the other, until it is enough; how many."""
    count = 0
    while not enough.is_set():
        number = count % len(made)
        pull(base, made[number], f"v{number}")
        count += 1
    return count


def old_image(directory: Path) -> Manifest:
    """What the old program had pulled as library/old:1."""
    return images.index(
        [
            images.simple_image(directory, seed=number, layers=2, size=3000, architecture=architecture)
            for number, architecture in enumerate(("amd64", "arm64"))
        ]
    )


def test_a_cache_directory_of_an_older_program_opens_with_all_that_it_holds(
    start_millpond: StartMillpond, tmp_path: Path, images_directory: Path
) -> None:
    directory = tmp_path / "old"
    with tarfile.open(OLD_CACHE) as packed:
        packed.extractall(directory, filter="data")
    _restore_times(directory / "cache")
    # Nobody listens at port 9; and the tag was confirmed when the directory was made, long ago.
    upstream = {"url": "http://127.0.0.1:9", "tag_ttl": 0, "stale_for": "36500d"}
    millpond = start_millpond({"docker.io": upstream}, cache={"directory": str(directory / "cache")})
    image = old_image(images_directory)
    base = f"{millpond.url}/v2/library/old"
    replies = pull(base, image, "1")
    assert [reply.headers["x-millpond"] for reply in replies] == ["stale"] + ["hit"] * (len(replies) - 1)
    assert get(f"{base}/tags/list").json()["tags"] == ["1"]
    millpond.restart()
    assert {reply.headers["x-millpond"] for reply in pull(base, image, image.digest)} == {"hit"}
    assert not list((directory / "cache").glob("*.damaged"))


def _restore_times(cache: Path) -> None:
    """A tar file rounds the times of files; on a volume they are as the ledger noted them, to the nanosecond."""
    with closing(sqlite3.connect(cache / "ledger/cache.db")) as ledger:
        noted = ledger.execute("SELECT substr(key, 10), json_extract(value, '$[1]') FROM Cache WHERE key LIKE 'b %'")
        for digest, changed in noted.fetchall():
            os.utime(cache / "blobs/sha256" / digest[:2] / digest, ns=(changed, changed))

"""The ten situations of a bad night, each planted for real: what `explain` and the operator's page have to tell.

A function a situation; what it returns has met it already, as far as no node has to pull for that.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tests.cache.disks import fill, landed, small_disk
from tests.conftest import StartMillpond
from tests.ecr.fleet import targets
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.faults import refuse
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
PATH: Final = "library/tool"
MIB: Final = 1 << 20
PASSWORD_OF_YESTERDAY: Final = "of-yesterday"
IMAGE: Final = images.image([images.blob(b"".join(images.noise(40_000, 7)), images.OCI_LAYER)])


@dataclass(frozen=True, slots=True)
class Planted:
    """A Millpond in its situation, and the image that nodes want of it, as the tag `1`."""

    millpond: Millpond
    path: str = PATH

    @property
    def image(self) -> str:
        return f"{UPSTREAM}/{self.path}:1"

    @property
    def base(self) -> str:
        return f"{self.millpond.url}/v2/{UPSTREAM}/{self.path}"

    def manifest(self) -> Reply:
        """What a node is told that pulls it now."""
        return get(f"{self.base}/manifests/1")

    def explain(self, **more: str) -> dict[str, Any]:
        return explain(self.millpond, self.image, **more)


def explain(millpond: Millpond, image: str, **more: str) -> dict[str, Any]:
    """The answer of the API, whose `cause` and `next` have to be one sentence each."""
    query = "&".join(f"{key}={quote(value)}" for key, value in {"image": image, **more}.items())
    reply = get(f"{millpond.admin_url}/api/v1/explain?{query}")
    assert reply.status == 200, reply.text
    found: dict[str, Any] = reply.json()
    for sentence in (found["cause"], found["next"]):
        assert sentence[0].isupper(), sentence
        assert sentence.endswith("."), sentence
        assert ". " not in sentence, "one sentence is asked for"
    return found


def step(found: dict[str, Any], what: str) -> dict[str, str]:
    [one] = [step for step in found["steps"] if step["what"] == what]
    return dict(one)


@contextlib.contextmanager
def stocked() -> Iterator[ScriptedUpstream]:
    """An upstream that has IMAGE."""
    with ScriptedUpstream() as running:
        running.add(IMAGE, PATH, "1")
        yield running


def pulled(start_millpond: StartMillpond, upstream: ScriptedUpstream, ttl: str = "0s", **config: Any) -> Planted:
    """A Millpond that has the image, whose tag is compared again after `ttl`."""
    planted = Planted(start_millpond({UPSTREAM: upstream.upstream(tag_ttl=ttl)}, **config))
    pull(planted.base, IMAGE, "1")
    landed(planted.millpond)
    return planted


# The ten situations


def upstream_is_down(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    planted = pulled(start_millpond, upstream)
    upstream.stop()
    return planted


def upstream_limits(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    planted = pulled(start_millpond, upstream)
    for method in ("HEAD", "GET"):
        upstream.script("manifests/", then=refuse(429, retry_after="30"), method=method)
    return planted


def token_is_refused(start_millpond: StartMillpond, registry: Registry) -> Planted:
    """`registry` wants tokens, and Millpond has PASSWORD_OF_YESTERDAY for them."""
    registry.push(IMAGE, "private/tool", "1")
    millpond = start_millpond(
        {UPSTREAM: registry.upstream(username="robot", token_hosts=["127.0.0.1"])},
        env={"MILLPOND_UPSTREAMS__DOCKER_IO__PASSWORD": PASSWORD_OF_YESTERDAY},
    )
    return Planted(millpond, "private/tool")


def tag_is_deleted(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    planted = pulled(start_millpond, upstream)
    upstream.remove_tag(PATH, "1")
    return planted


def policy_denies(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    """It blocks the image's layer, which is on disk from before."""
    planted = pulled(start_millpond, upstream)
    millpond, blocked = planted.millpond, IMAGE.blobs[1].digest
    millpond.terminate()
    millpond.configure({**millpond.config, "policy": {"block": [{"digest": blocked, "reason": "CVE-2024-3094"}]}})
    millpond.start()
    return planted


@contextlib.contextmanager
def disk_is_full(start_millpond: StartMillpond, upstream: ScriptedUpstream, directory: Path) -> Iterator[Planted]:
    """Somebody else has filled it below the cache; a layer of 3 MiB has passed it by."""
    big = images.image([images.blob(b"".join(images.noise(3 * MIB, 9)), images.OCI_LAYER)])
    upstream.add(big, "library/big", "1")
    with small_disk(directory / "disk", 4 * MIB) as disk:
        section = {"directory": str(disk / "cache"), "max_size": "1GiB", "min_free": 0}
        planted = Planted(start_millpond({UPSTREAM: upstream.upstream()}, cache=section), "library/big")
        assert planted.manifest().status == 200
        fill(disk)
        assert get(f"{planted.base}/blobs/{big.blobs[1].digest}").digest == big.blobs[1].digest
        yield planted
        planted.millpond.stop()


@contextlib.contextmanager
def ecr_throttles(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Iterator[Planted]:
    """Both targets refuse each PutImage; the first one has done so."""
    with EcrDouble() as cloud:
        cloud.throttle("PutImage", per_second=0)
        planted = pulled(start_millpond, upstream, "1h", env=cloud.environment, ecr=targets(cloud, read=False))
        status = f"{planted.millpond.admin_url}/api/v1/ecr"
        wait_until(lambda: any(job["reason"] for job in get(status).json()["jobs"]), "it has been throttled", 60)
        yield planted


def corrupt_file_is_evicted(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    """The layer's file holds zeros, and a verification has found them."""
    planted = pulled(start_millpond, upstream, "1h")
    millpond, layer = planted.millpond, IMAGE.blobs[1]
    file = millpond.blob_file(layer.digest)
    file.write_bytes(bytes(layer.size))
    verify = f"{millpond.admin_url}/api/v1/cache/verify"
    reply = get(verify, {"Content-Type": "application/json"}, method="POST", content=b"{}")
    assert reply.status == 200, reply.text
    assert not file.exists()
    return planted


def client_is_too_slow(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    """It read nothing of a layer for a second, and was let go."""
    big = images.image([images.blob(b"".join(images.noise(16 * MIB, 10)), images.OCI_LAYER)])
    upstream.add(big, "library/big", "1")
    millpond = start_millpond({UPSTREAM: upstream.upstream(tag_ttl="1h")}, registry={"write_timeout": "1s"})
    planted = Planted(millpond, "library/big")
    assert planted.manifest().status == 200
    assert get(f"{planted.base}/blobs/{big.blobs[0].digest}").status == 200
    with contextlib.closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", millpond.port))
        path = f"{planted.base}/blobs/{big.blobs[1].digest}".removeprefix(millpond.url)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {millpond.host}\r\n\r\n".encode())
        client.recv(100)
        wait_until(lambda: millpond.log_lines(outcome="client left"), "the client is let go")
    landed(millpond)
    return planted


def tag_is_older_than_its_ttl(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Planted:
    planted = pulled(start_millpond, upstream, "1s")
    wait_until(lambda: step(planted.explain(), "freshness")["answer"] == "due", "the tag is older than that")
    return planted

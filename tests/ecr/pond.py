"""What the tier stands on in these tests: a supply in memory, a notebook for the queue, and real boto3 below."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.ecr.api import Api
from proxy.ecr.courtesy import Courtesy
from proxy.ecr.job import Job
from proxy.ecr.push import Pusher
from proxy.ecr.quota import Quotas
from proxy.ecr.repositories import Repositories
from proxy.ecr.session import Sessions
from proxy.ecr.supply import Companion, Content, QuotaReserved
from proxy.ecr.target import Target
from proxy.ecr.unfinished import Unfinished
from proxy.ecr.upload import PARTS_IN_MEMORY, Uploader
from proxy.observe.events import Served
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown, ManifestUnknown, UpstreamUnreachable
from proxy.oci.manifest import Manifest, parse_manifest
from proxy.oci.names import Reference, Repository, Tag
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble

APP = Repository("docker.io", "library/app")
NAME = "docker.io/library/app"  # in ECR

# Fast enough that tests do not wait for PutImage's quota, which tests of their own are about.
_NO_QUOTAS = Quotas(dict.fromkeys(("PutImage", "CreateRepository"), 1000.0))


class _Bytes:
    def __init__(self, supply: MemorySupply, digest: Digest) -> None:
        self._supply = supply
        self._data = supply.blobs[digest]
        self._reads = supply.reads.setdefault(digest, [])

    @property
    def size(self) -> int:
        return len(self._data)

    async def arrived(self, stop: int) -> None:
        self._supply.waiting += 1
        await self._supply.arrived.wait()
        self._supply.waiting -= 1

    async def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(self._data), (start, stop)
        self._reads.append((start, stop))
        await self._supply.arrived.wait()
        if self._supply.down:
            raise UpstreamUnreachable("upstream is down")
        self._supply.largest_read = max(self._supply.largest_read, stop - start)
        return self._data[start:stop]


@dataclass
class MemorySupply:
    """A `Supply` of images that are in memory; its other fields are the world around it."""

    manifests: dict[tuple[Repository, str], Manifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    belonging: dict[str, list[Companion]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # digests that upstream does not have
    unreachable: set[str] = field(default_factory=set)  # digests for which upstream fails
    down: bool = False
    reserved: bool = False  # what upstream's rate limit leaves is for clients
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # bytes of blobs have; set unless a test clears it
    opened: list[tuple[str, bool]] = field(default_factory=list)  # digest, spare
    open_now: int = 0
    most_open: int = 0
    waiting: int = 0  # for bytes to arrive
    largest_read: int = 0
    reads: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # by digest
    asked: list[tuple[str, bool]] = field(default_factory=list)  # manifests: digest, spare

    def __post_init__(self) -> None:
        self.arrived.set()

    def add(self, image: images.Manifest, repository: Repository = APP) -> Digest:
        """Have an image with all that it names. Returns its digest."""
        for part in image.walk():
            parsed = parse_manifest(part.body, part.media_type, Digest.parse(part.digest))
            self.manifests[repository, part.digest] = parsed
        self.blobs |= {digest: blob.read() for digest, blob in image.all_blobs().items()}
        return Digest.parse(image.digest)

    def belong(self, companion: images.Manifest, to: Digest, tag: str | None = None) -> Digest:
        """Have a companion of `to`. Returns its digest."""
        digest = self.add(companion)
        self.belonging.setdefault(to, []).append(Companion(digest, Tag.parse(tag) if tag else None))
        return digest

    def known(self, repository: Repository, digest: Digest) -> Manifest | None:
        return self.manifests.get((repository, digest))

    async def manifest(self, repository: Repository, reference: Reference, *, spare: bool) -> Manifest:
        self.asked.append((reference, spare))
        if spare and self.reserved:
            raise QuotaReserved
        if self.down or reference in self.unreachable:
            raise UpstreamUnreachable("upstream is down")
        found = self.manifests.get((repository, reference))
        if found is None or reference in self.gone:
            raise ManifestUnknown(f"upstream does not have the manifest {reference}")
        return found

    async def companions(self, repository: Repository, digest: Digest) -> Sequence[Companion]:
        return self.belonging.get(digest, [])

    @asynccontextmanager
    async def blob(self, repository: Repository, digest: Digest, *, spare: bool) -> AsyncIterator[Content]:
        self.opened.append((digest, spare))
        if self.down:
            raise UpstreamUnreachable("upstream is down")
        if digest in self.gone or digest not in self.blobs:
            raise BlobUnknown(f"upstream does not have the blob {digest}")
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            yield _Bytes(self, digest)
        finally:
            self.open_now -= 1


class Notebook:
    """`Records` in memory. What comes out has been JSON."""

    def __init__(self) -> None:
        self.written: dict[str, str] = {}

    def note(self, key: str, record: list[Any] | None) -> None:
        if record is None:
            self.written.pop(key, None)
        else:
            self.written[key] = json.dumps(record)

    async def flush(self) -> None:
        """Everything is written at once."""

    def read(self) -> dict[str, list[Any]]:
        """What a process finds that starts now."""
        return {key: json.loads(text) for key, text in self.written.items()}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def target(name: str = "prod", **changes: Any) -> Target:
    return Target(name, **{"account": ACCOUNT, "region": REGION, "upstreams": frozenset({"docker.io"}), **changes})


def make_api(sessions: Sessions, cloud: EcrDouble, to: Target) -> Api:
    """The real thing, against the double."""
    return Api(to, sessions.client("ecr", to.region, to.role_arn, cloud.url), _NO_QUOTAS, lambda *_: None)


def make_pusher(api: Api, supply: MemorySupply, metrics: Metrics) -> Pusher:
    uploader = Uploader(api, supply, Courtesy(lambda: False), asyncio.Semaphore(PARTS_IN_MEMORY), metrics)
    return Pusher(api, Repositories(api, Unfinished((), Notebook())), supply, uploader, metrics)


def served(item: str, digest: str, /, **changes: Any) -> Served:
    """A manifest of APP that a client was given."""
    made = Served("id", "client", "GET", "/v2/", kind="manifests", upstream=APP.upstream, repository=APP.path)
    made.item, made.digest, made.status = item, digest, 200
    return Served(**{**vars(made), **changes})


def new_job(digest: Digest, *tags: str, children: Sequence[str] = (), repository: Repository = APP) -> Job:
    """A job that no queue knows of."""
    pulled = {Digest.parse(child) for child in children}
    return Job("prod", repository, digest, 0.0, tags={Tag.parse(tag) for tag in tags}, children=pulled)


def three_platforms(attested: bool = False, seed: int = 0) -> images.Manifest:
    """An index of small images for amd64, arm64 and s390x; `attested`: each with BuildKit's attestation."""
    children = [
        images.image([images.blob(f"layer {name} {seed}".encode() * 50, images.OCI_LAYER)], architecture=name)
        for name in ("amd64", "arm64", "s390x")
    ]
    if not attested:
        return images.index(children)
    attestations = [
        images.artifact(images.OCI_CONFIG, [images.blob(child.digest.encode(), "application/vnd.in-toto+json")])
        for child in children
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": images.OCI_INDEX,
        "manifests": [
            *(child.descriptor() for child in children),
            *(
                {
                    **attestation.descriptor(),
                    "platform": {"os": "unknown", "architecture": "unknown"},
                    "annotations": {
                        "vnd.docker.reference.type": "attestation-manifest",
                        "vnd.docker.reference.digest": child.digest,
                    },
                }
                for child, attestation in zip(children, attestations, strict=True)
            ),
        ],
    }
    body = json.dumps(document).encode()
    return images.Manifest(images.OCI_INDEX, body, children=(*children, *attestations))


def small_image(seed: int = 0, size: int = 3000) -> images.Manifest:
    """An image of one layer with exactly `size` bytes."""
    return images.image([images.blob(b"".join(images.noise(size, seed)), images.OCI_LAYER)], note=f"{seed}")

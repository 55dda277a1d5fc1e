"""The operator's side of a real ECR tier: its desk on a real admin port, over images in memory and the double."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from proxy.admin.app import admin_port
from proxy.admin.ecr import ecr_routes
from proxy.ecr.api import Api
from proxy.ecr.compare import Places
from proxy.ecr.desk import Desk
from proxy.ecr.queue import Queue
from proxy.ecr.quota import Quotas
from proxy.ecr.recall import Recall
from proxy.ecr.session import Sessions
from proxy.ecr.supply import Companion
from proxy.ecr.target import Target
from proxy.ecr.tier import EcrTier
from proxy.ecr.unfinished import Unfinished
from proxy.edge.routes import Namespace
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown, ManifestUnknown, UpstreamUnreachable
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST, Manifest, parse_manifest
from proxy.oci.names import Image, Reference, Repository, Tag
from proxy.oci.source import BlobStream
from proxy.server import Limits, Listener, Server
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.waiting import wait_until

UPSTREAMS = frozenset({"docker.io", "ghcr.io"})
UNTAKEN = "quay.io"
"""An upstream whose images no target takes."""


def repository(text: str) -> Repository:
    upstream, _, path = text.partition("/")
    return Repository.parse(upstream, path)


@dataclass
class Bytes:
    """A blob that is there."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    async def arrived(self, stop: int) -> None:
        pass

    async def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


@dataclass
class Shelf:
    """Images in memory: a `Supply` for pushes, and each upstream's `Source` for what their tags are. `down`: the
    upstreams do not answer."""

    manifests: dict[tuple[Repository, str], Manifest] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    down: bool = False

    def add(self, name: str, tag: str | None = "latest", content: bytes = b"one") -> Manifest:
        """An image of one layer that is `content`."""
        config = {"config": self._blob(b"{}"), "layers": [self._blob(content)]}
        return self._keep(name, tag, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, **config})

    def add_index(self, name: str, tag: str, children: Sequence[Manifest]) -> Manifest:
        named = [{"digest": one.digest, "size": len(one.body), "mediaType": one.media_type} for one in children]
        return self._keep(name, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named})

    def known(self, repository: Repository, digest: Digest) -> Manifest | None:
        return self.manifests.get((repository, digest))

    async def manifest(self, repository: Repository, reference: Reference, *, spare: bool = False) -> Manifest:
        found = self.manifests.get((repository, reference))
        if found is None:
            raise ManifestUnknown(f"there is no {reference} in {repository}")
        return found

    async def companions(self, repository: Repository, digest: Digest) -> Sequence[Companion]:
        return ()

    @asynccontextmanager
    async def blob(self, repository: Repository, digest: Digest, *, spare: bool) -> AsyncIterator[Bytes]:
        if digest not in self.blobs:
            raise BlobUnknown(f"there is no {digest}")
        yield Bytes(self.blobs[digest])

    def on_disk(self, image: Image) -> Digest | None:
        found = self.manifests.get((image.repository, image.tag or image.reference))
        return found.digest if found else None

    def images(self) -> list[Image]:
        return [Image(where, name, None) for where, name in self.manifests if isinstance(name, Tag)]

    def is_index(self, repository: Repository, digest: Digest) -> bool:
        found = self.known(repository, digest)
        return found is not None and found.is_index

    def _keep(self, name: str, tag: str | None, document: dict[str, Any]) -> Manifest:
        manifest = parse_manifest(json.dumps(document).encode(), document["mediaType"])
        where = repository(name)
        self.manifests[where, manifest.digest] = manifest
        if tag is not None:
            self.manifests[where, Tag(tag)] = manifest
        return manifest

    def _blob(self, data: bytes) -> dict[str, Any]:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data), "mediaType": "application/octet-stream"}


@dataclass
class UpstreamOf:
    """One upstream of a shelf. Its tags are those of `moved` first: what the disk does not know yet."""

    name: str
    shelf: Shelf
    moved: dict[tuple[str, str], Digest | None] = field(default_factory=dict)
    kind: str = "upstream"

    async def resolve(self, path: str, tag: Tag, accept: Sequence[str] = ()) -> Digest | None:
        if self.shelf.down:
            raise UpstreamUnreachable(f"{self.name} is down")
        if (path, tag) in self.moved:
            return self.moved[path, tag]
        return (await self.shelf.manifest(Repository(self.name, path), tag)).digest

    async def manifest(self, path: str, reference: Reference, accept: Sequence[str] = ()) -> Manifest:
        return await self.shelf.manifest(Repository(self.name, path), reference)

    async def blob_size(self, path: str, digest: Digest) -> int:
        return len(self.shelf.blobs[digest])

    @asynccontextmanager
    async def blob(
        self, path: str, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[BlobStream]:
        async def chunks() -> AsyncIterator[bytes]:
            yield self.shelf.blobs[digest]

        yield BlobStream(len(self.shelf.blobs[digest]), 0, chunks())


class Office:
    """A tier whose admin port is open. `config_file` is what its operator's command line is given."""

    def __init__(self, cloud: EcrDouble, directory: Path, **changes: Any) -> None:
        self.cloud = cloud
        self.shelf = Shelf()
        self.upstreams = {name: UpstreamOf(name, self.shelf) for name in sorted(UPSTREAMS | {UNTAKEN})}
        self.targets = [
            Target("prod", ACCOUNT, REGION, UPSTREAMS, endpoint_url=cloud.url, **changes),
            Target("dev", ACCOUNT, "eu-west-1", frozenset({"docker.io"}), endpoint_url=cloud.url, **changes),
        ]
        self.draining = threading.Event()
        self.config_file = directory / "millpond.yaml"
        self.port = 0
        self.failures: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def open(self) -> Iterator[Office]:
        """Serve from a thread of its own until the block ends."""
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(self._serve(stop),))
        thread.start()
        try:
            wait_until(lambda: self.port, "the admin port is open")
            self.config_file.write_text(
                yaml.safe_dump(
                    {
                        "admin": {"listen": f"127.0.0.1:{self.port}"},
                        "cache": {"directory": str(self.config_file.parent)},
                    }
                )
            )
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(30)
            loop.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        sessions, quotas, metrics = Sessions(), Quotas(), Metrics()
        apis = [
            Api(target, sessions.client("ecr", target.region, None, target.endpoint_url), quotas, lambda *_: None)
            for target in self.targets
        ]
        records = _Forgetful()
        queue, unfinished = Queue({}, records, time.time, settle=0.0), Unfinished((), records)
        recall = Recall((), records, lambda: (), time.time)
        tier = EcrTier(apis, self.shelf, queue, unfinished, recall, busy=bool, metrics=metrics, clock=time.time)
        namespace = Namespace({name: name for name in self.upstreams}, "docker.io")
        desk = Desk(
            tier,
            self.shelf,
            Places(self.shelf.on_disk, self.shelf.is_index, self.upstreams, apis),
            locate=lambda name: namespace.locate(name, None, None),
            on_disk=self.shelf.images,
        )
        app = admin_port(metrics, dict, self.draining.is_set, ecr_routes(desk, self.draining.is_set))
        server = Server(app, Listener("127.0.0.1", 0), Limits(grace=1), name="admin")
        server.bind()
        working, serving = asyncio.create_task(tier.run()), asyncio.create_task(server.serve())
        self.port = server.port
        await stop.wait()
        server.stop()
        working.cancel()
        await asyncio.gather(working, serving, return_exceptions=True)
        await sessions.aclose()


class _Forgetful:
    """Records of a tier that is never started again."""

    def note(self, key: str, record: list[Any] | None) -> None: ...

    async def flush(self) -> None: ...

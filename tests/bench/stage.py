"""What the cases play on: an upstream with images made on the spot, and Millpond in front of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.client import Target
from tests.bench.load import pulls
from tests.bench.measure import MIB
from tests.support.images import Blob, Manifest, image, index, layer
from tests.support.millpond import Millpond
from tests.support.registry import Registry
from tests.support.waiting import wait_until

TAG: Final = "latest"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, and its process group; 0 for one whose costs are not of interest."""

    name: str
    port: int
    pid: int = 0
    admin: int = 0
    """Millpond's admin port."""

    def at(self, path: str) -> Target:
        return Target("127.0.0.1", self.port, path)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the upstream has, and the paths of its parts on every server."""

    repository: str
    manifest: Manifest
    layers: Sequence[Blob]
    config: Blob

    @property
    def path(self) -> str:
        """Of its only layer, or its first."""
        return self.blob_path(self.layers[0].digest)

    @property
    def tag_path(self) -> str:
        return self.manifest_path(TAG)

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    def manifest_path(self, reference: str) -> str:
        return f"/v2/{self.repository}/manifests/{reference}"

    def blob_path(self, digest: str) -> str:
        return f"/v2/{self.repository}/blobs/{digest}"


@dataclass
class Stage:
    """An upstream, and where to put files. `size` is bytes of the blob that most cases use."""

    directory: Path
    size: int
    upstream: Registry
    _images: dict[tuple[int, int], Image] = field(default_factory=dict)
    _turns: int = 0

    @property
    def direct(self) -> Peer:
        """The upstream itself, or the relay that is in front of it just now."""
        return Peer("direct", self.upstream.relay.port if self.upstream.relay else self.upstream.port)

    def image(self, size: int = 0, layers: int = 1) -> Image:
        """An index of one image whose layers have `size` bytes together; made and pushed when first asked for."""
        key = (size or self.size, layers)
        if key not in self._images:
            parts = [
                layer(self.directory / "layers", key[0] // layers, seed=key[0] // MIB * 100 + number)
                for number in range(layers)
            ]
            made = image(parts)
            found = Image(f"sample/{layers}x{key[0] // MIB}", index([made]), parts, made.blobs[0])
            self.upstream.push(found.manifest, found.repository, TAG)
            self._images[key] = found
        return self._images[key]

    @contextlib.contextmanager
    def emptied(self) -> Iterator[Path]:
        """A directory for one turn. What others have written is on disk before, so that nobody pays for it here."""
        self._turns += 1
        directory = self.directory / f"turn-{self._turns}"
        directory.mkdir()
        os.sync()
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    def sent(self, of: Image) -> float:
        """What the upstream sent of this image's layers since it last forgot, as a multiple of their size."""
        wait_until(lambda: self.sent_now(of) >= 1, "the upstream has logged what it sent")
        return self.sent_now(of)

    def sent_now(self, of: Image) -> float:
        """The same, where it may be nothing: of a layer that is cached."""
        layers = {of.blob_path(layer.digest) for layer in of.layers}
        sent = sum(served.sent for served in self.upstream.served("/blobs/", "GET") if served.path in layers)
        return sent / of.size


@contextlib.contextmanager
def stage(directory: Path, size: int) -> Iterator[Stage]:
    upstream = Registry(directory / "registry")
    upstream.start()
    try:
        yield Stage(directory, size, upstream)
    finally:
        upstream.stop()


@contextlib.contextmanager
def millpond(
    directory: Path,
    upstream: int,
    registry: Mapping[str, Any] | None = None,
    *,
    ecr: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    traces: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Peer]:
    """Millpond with an empty cache; `settings` are those of its upstream, which is a port of 127.0.0.1."""
    entry = {"url": f"http://127.0.0.1:{upstream}", **settings}
    config: dict[str, Any] = {"upstreams": {"bench": entry}, "default_upstream": "bench", "ecr": dict(ecr or {})}
    config["traces"] = dict(traces or {})
    made = Millpond(config, directory, env)
    if registry:
        made.configure({**config, "registry": {"listen": made.host, **registry}})
    try:
        made.start()
        yield Peer("millpond", made.port, made.process.pid, made.admin_port)
    finally:
        made.stop()


def resolve(peer: Peer, image: Image) -> None:
    """GET the image's index and manifest, as every client does before a layer."""
    for part in reversed(list(image.manifest.walk())):
        pulls(peer.at(image.manifest_path(part.digest)), 1)

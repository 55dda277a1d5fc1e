"""Images and artifacts made on the spot, without any network: the same seed gives the same digests."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"

_CHUNK: Final = 1 << 20
_ZSTD_BLOCK: Final = 128 * 1024  # bytes; the most that one block of a zstd frame may hold


@dataclass(frozen=True, slots=True)
class Blob:
    """Content, in memory or in a file. `urls` makes it a foreign layer, which is not pushed."""

    media_type: str
    digest: str
    size: int
    data: bytes | Path = field(repr=False)
    diff_id: str = ""
    urls: tuple[str, ...] = ()

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")

    def read(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    def descriptor(self) -> dict[str, Any]:
        described: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**described, "urls": list(self.urls)} if self.urls else described


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index with all that it names: what a registry holds after a push, and a client after a pull."""

    media_type: str
    body: bytes = field(repr=False)
    blobs: tuple[Blob, ...] = ()
    children: tuple[Manifest, ...] = ()
    platform: str = ""  # os/architecture
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return f"{self.algorithm}:{hashlib.new(self.algorithm, self.body).hexdigest()}"

    def descriptor(self) -> dict[str, Any]:
        described: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}
        if self.platform:
            system, _, architecture = self.platform.partition("/")
            described["platform"] = {"os": system, "architecture": architecture}
        return described

    def walk(self) -> Iterator[Manifest]:
        """Children first, then this one: the order of a push."""
        for child in self.children:
            yield from child.walk()
        yield self

    def all_blobs(self) -> dict[str, Blob]:
        """Each blob of the whole tree once, by digest; foreign layers left out."""
        return {blob.digest: blob for part in self.walk() for blob in part.blobs if not blob.urls}

    @property
    def total_size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.all_blobs().values())


def noise(size: int, seed: int) -> Iterator[bytes]:
    """`size` bytes that nothing compresses, the same for one `seed`, at gigabytes a second."""
    key = hashlib.sha256(f"millpond {seed}".encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(_CHUNK)
    for start in range(0, size, _CHUNK):
        yield stream.update(zeros[: size - start])


def blob(data: bytes, media_type: str = "application/octet-stream", algorithm: str = "sha256") -> Blob:
    """Any bytes as a blob."""
    return Blob(media_type, f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}", len(data), data)


def layer(
    directory: Path,
    size: int,
    *,
    seed: int = 0,
    compressible: float = 0.0,
    media_type: str = OCI_LAYER,
    base: bool = False,
) -> Blob:
    """A layer that every client can unpack, in a file below `directory`.

    `size` is what its files hold, in bytes; the part `compressible` of them (0 to 1) is text. `base` adds what the
    bottom of a root file system has. gzip only where it earns something: noise is stored, as it would be anyway.
    """
    directory.mkdir(parents=True, exist_ok=True)
    zstd = media_type.endswith("+zstd")
    name = f"{'base' if base else 'layer'}-{seed}-{size}-{compressible:g}.tar.{'zst' if zstd else 'gz'}"
    path = directory / name
    plain, packed, written = hashlib.sha256(), hashlib.sha256(), 0
    pack = _zstd_frames if zstd else _gzip(6 if compressible else 0)
    with path.open("wb") as output:
        for chunk in pack(_hashing(_tar(size, seed, compressible, base), plain)):
            packed.update(chunk)
            written += output.write(chunk)
    return Blob(media_type, f"sha256:{packed.hexdigest()}", written, path, f"sha256:{plain.hexdigest()}")


def image(layers: Sequence[Blob], *, architecture: str = "amd64", docker: bool = False, note: str = "") -> Manifest:
    """An image of these layers, as OCI or as Docker schema 2 writes it; `note` makes it another image of the same."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [part.diff_id for part in layers]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(layers))],
    }
    configured = blob(json.dumps(config).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)
    extra = {"annotations": {"note": note}} if note else {}
    return _manifest(
        DOCKER_MANIFEST if docker else OCI_MANIFEST, configured, layers, platform=f"linux/{architecture}", extra=extra
    )


def simple_image(directory: Path, *, seed: int = 0, layers: int = 1, size: int = 64 * 1024, **options: Any) -> Manifest:
    """An image of `layers` layers with `size` bytes each; `options` are those of `image`."""
    media_type = DOCKER_LAYER if options.get("docker") else OCI_LAYER
    made = [
        layer(directory, size, seed=seed * 1000 + number, compressible=0.5, media_type=media_type, base=number == 0)
        for number in range(layers)
    ]
    return image(made, **options)


def index(children: Sequence[Manifest], *, docker: bool = False) -> Manifest:
    """A multi-platform index, or Docker's manifest list."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": [child.descriptor() for child in children]}
    return Manifest(media_type, json.dumps(document, indent=3).encode(), children=tuple(children))


def artifact(
    config_type: str, parts: Sequence[Blob], *, subject: Manifest | None = None, artifact_type: str = ""
) -> Manifest:
    """An OCI artifact that is not an image."""
    extra: dict[str, Any] = {"artifactType": artifact_type} if artifact_type else {}
    if subject:
        extra["subject"] = subject.descriptor()
    return _manifest(OCI_MANIFEST, blob(b"{}", config_type), parts, extra=extra)


def chart(seed: int = 0) -> Manifest:
    """What `helm push` makes."""
    content = blob(b"".join(noise(3000, seed)), "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    return artifact("application/vnd.cncf.helm.config.v1+json", [content])


def signature(of: Manifest) -> tuple[str, Manifest]:
    """(tag, manifest) as cosign stores a signature: found by the tag, which is made of the signed digest."""
    signed = json.dumps({"critical": {"image": of.digest}}).encode()
    payload = blob(signed, "application/vnd.dev.cosign.simplesigning.v1+json")
    return f"{of.digest.replace(':', '-')}.sig", artifact(OCI_CONFIG, [payload])


def foreign_layer(url: str) -> Blob:
    """A layer that lives elsewhere, as Windows images have them."""
    made = blob(url.encode(), OCI_FOREIGN_LAYER)
    return Blob(made.media_type, made.digest, made.size, made.data, f"sha256:{'0' * 64}", (url,))


def _manifest(
    media_type: str,
    config: Blob,
    parts: Sequence[Blob],
    *,
    extra: dict[str, Any],
    platform: str = "",
) -> Manifest:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.descriptor(),
        "layers": [part.descriptor() for part in parts],
        **extra,
    }
    # Indented on purpose: whoever re-encodes a manifest changes its digest.
    return Manifest(media_type, json.dumps(document, indent=2).encode(), (config, *parts), platform=platform)


def _tar(size: int, seed: int, compressible: float, base: bool) -> Iterator[bytes]:
    if base:
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp", "usr", "var"):
            yield _entry(directory, 0, tarfile.DIRTYPE)
        yield _entry("etc/os-release", len(_OS_RELEASE)) + _padded(_OS_RELEASE)
    text = int(size * compressible)
    yield _entry(f"usr/text-{seed}", text)
    yield from _pad(_prose(text, seed), text)
    yield _entry(f"usr/noise-{seed}", size - text)
    yield from _pad(noise(size - text, seed), size - text)
    yield bytes(2 * tarfile.BLOCKSIZE)


_OS_RELEASE: Final = b'NAME="tests"\nID=tests\n'


def _entry(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.size, header.mode, header.mtime = kind, size, 0o755, 1_700_000_000
    return header.tobuf(tarfile.USTAR_FORMAT)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _pad(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    yield from chunks
    yield bytes(-size % tarfile.BLOCKSIZE)


def _prose(size: int, seed: int) -> Iterator[bytes]:
    """Text as programs and their data are: it halves or better."""
    chooser = random.Random(seed)
    words = [f"{chooser.getrandbits(40):x}"[: chooser.randint(2, 9)].encode() for _ in range(2000)]
    page = b" ".join(chooser.choices(words, k=150_000))[: _CHUNK // 2]
    for start in range(0, size, len(page)):
        turn = chooser.randrange(len(page))
        yield (page[turn:] + page[:turn])[: size - start]


def _hashing(chunks: Iterator[bytes], hasher: Any) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _gzip(level: int) -> Any:
    def pack(chunks: Iterator[bytes]) -> Iterator[bytes]:
        # 16 + 15: a gzip header and the full window; zlib writes no time into it, so the digest is stable.
        packer = zlib.compressobj(level, zlib.DEFLATED, 31)
        for chunk in chunks:
            yield packer.compress(chunk)
        yield packer.flush()

    return pack


def _zstd_frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A zstd frame of uncompressed blocks: valid for every reader, and needs no library to write."""
    yield struct.pack("<IBB", 0xFD2FB528, 0, 0x58)  # magic, no options, a window of 2 MiB
    for chunk in chunks:
        for start in range(0, len(chunk), _ZSTD_BLOCK):
            part = chunk[start : start + _ZSTD_BLOCK]
            yield (len(part) << 3).to_bytes(3, "little") + part
    yield (1).to_bytes(3, "little")  # last block, empty

"""Who is compared: servers on loopback that all have the same blob."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Target, pulls
from tests.support.images import Blob, Manifest, image, layer
from tests.support.millpond import Millpond
from tests.support.programs import Process, accepts, free_port, program
from tests.support.registry import Registry

REPOSITORY = "large/blob"
NGINX_WORKERS = 2

NGINX = """
daemon off;
{user}
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port} backlog=2048; root {root}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    target: Target


@dataclass(frozen=True)
class Stage:
    """What the cases play on: an upstream with one image of one large layer, and where to put files."""

    directory: Path
    upstream: Registry
    manifest: Manifest
    blob: Blob

    @property
    def path(self) -> str:
        """Of the blob, on every server that speaks the registry API."""
        return f"/v2/{REPOSITORY}/blobs/{self.blob.digest}"

    @property
    def direct(self) -> Peer:
        return Peer("registry", Target("127.0.0.1", self.upstream.port, self.path))

    @contextlib.contextmanager
    def millpond(self, name: str) -> Iterator[tuple[Peer, Millpond]]:
        """Millpond with an empty cache that has seen the manifest, but not the blob."""
        upstreams = {"bench": self.upstream.upstream()}
        made = Millpond({"upstreams": upstreams, "default_upstream": "bench"}, self.directory / name)
        try:
            made.start()
            pulls(Target("127.0.0.1", made.port, f"/v2/{REPOSITORY}/manifests/{self.manifest.digest}"), 1)
            yield Peer("millpond", Target("127.0.0.1", made.port, self.path)), made
        finally:
            made.stop()


@contextlib.contextmanager
def stage(directory: Path, size: int) -> Iterator[Stage]:
    """An upstream with a blob of `size` bytes."""
    blob = layer(directory, size, seed=1)
    manifest = image([blob])
    upstream = Registry(directory / "registry")
    upstream.start()
    try:
        upstream.push(manifest, REPOSITORY, "latest")
        yield Stage(directory, upstream, manifest, blob)
    finally:
        upstream.stop()


@contextlib.contextmanager
def nginx(directory: Path, file: Path) -> Iterator[Peer]:
    """The file, static, by sendfile."""
    directory.mkdir()
    (directory / "blob").symlink_to(file)
    port = free_port()
    config = directory / "nginx.conf"
    # Workers of a master that is root would be nobody, who may not enter our directory.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(NGINX.format(user=user, workers=NGINX_WORKERS, directory=directory, root=directory, port=port))
    command = [program("nginx"), "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    with _running(command, directory / "nginx.log", port):
        yield Peer("nginx sendfile", Target("127.0.0.1", port, "/blob"))


@contextlib.contextmanager
def server_alone(directory: Path, file: Path) -> Iterator[Peer]:
    """Millpond's server without Millpond."""
    port = free_port()
    with _running([sys.executable, "-m", "tests.bench.alone", str(file), str(port)], directory / "alone.log", port):
        yield Peer("server alone", Target("127.0.0.1", port, "/"))


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    process = Process(command, log, {"PYTHONPATH": str(Path(__file__).parents[2])})
    try:
        process.wait_ready(lambda: accepts(port))
        yield
    finally:
        process.stop()

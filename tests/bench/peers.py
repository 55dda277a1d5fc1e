"""Who is compared with Millpond: what Debian packages, each set up as its users are told to, on free ports."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from tests.bench.stage import Image, Peer
from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.programs import Process, accepts, program

NGINX_WORKERS: Final = 2

_NGINX: Final = """
daemon off;
{user}
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
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
    {body}
}}
"""

# Larger buffers than nginx's own: with its 4 KiB pages a fill takes longer, and the comparison would flatter us.
_CACHE: Final = """
proxy_cache_path {directory}/cache levels=1:2 keys_zone=blobs:10m max_size=100g inactive=1d use_temp_path=off;
upstream registry {{ server 127.0.0.1:{upstream}; keepalive 64; }}
server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
        proxy_pass http://registry;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffer_size 64k;
        proxy_buffers 16 256k;
        proxy_busy_buffers_size 1m;
        proxy_cache blobs;
        proxy_cache_valid 200 1d;
        proxy_cache_lock on;
        proxy_cache_lock_age 600s;
        proxy_cache_lock_timeout 600s;
    }}
}}
"""

_LIMIT: Final = """
server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_buffer_size 64k;
        proxy_buffers 16 64k;
        proxy_max_temp_file_size 0;
        limit_rate {rate};
    }}
}}
"""


@contextlib.contextmanager
def nginx_sendfile(directory: Path, image: Image, certificate: Certificate | None = None) -> Iterator[Peer]:
    """The image's layer as a static file, from the page cache by sendfile; with a certificate by TLS."""
    file = image.layers[0].data
    assert isinstance(file, Path)
    place = directory / "root" / image.path[1:]
    place.parent.mkdir(parents=True)
    place.symlink_to(file)
    port = free_port()
    ssl = ""
    if certificate:
        chain, key = certificate.chain_file, certificate.key_file
        ssl = f"ssl_protocols TLSv1.3; ssl_certificate {chain}; ssl_certificate_key {key};"
    body = f"""server {{
        listen 127.0.0.1:{port} {"ssl" if ssl else ""} backlog=2048;
        {ssl}
        root {directory}/root;
    }}"""
    name = "nginx, TLS" if ssl else "nginx sendfile"
    with _nginx(directory, body, port) as pid:
        yield Peer(name, port, pid)


@contextlib.contextmanager
def nginx_cache(directory: Path, upstream: int) -> Iterator[Peer]:
    """nginx as a cache: the first request fills, others wait for it."""
    port = free_port()
    with _nginx(directory, _CACHE.format(directory=directory, upstream=upstream, port=port), port) as pid:
        yield Peer("nginx proxy_cache", port, pid)


@contextlib.contextmanager
def nginx_limit(directory: Path, upstream: int, rate: int) -> Iterator[int]:
    """The upstream behind a front that gives each connection `rate` bytes a second, 0 for no limit. Yields its port."""
    port = free_port()
    with _nginx(directory, _LIMIT.format(upstream=upstream, port=port, rate=rate), port):
        yield port


@contextlib.contextmanager
def distribution(directory: Path, upstream: int) -> Iterator[Peer]:
    """The reference registry in its proxy mode, with the settings of its documentation."""
    port = free_port()
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "kept"},
        "proxy": {"remoteurl": f"http://127.0.0.1:{upstream}"},
    }
    config = directory / "config.yml"
    config.write_text(yaml.safe_dump(settings))
    command = [program("docker-registry"), "serve", str(config)]
    with _running(command, directory / "distribution.log", port) as pid:
        yield Peer("distribution proxy", port, pid)


@contextlib.contextmanager
def server_alone(directory: Path, image: Image) -> Iterator[Peer]:
    """Millpond's server without Millpond."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.alone", str(image.layers[0].data), str(port)]
    with _running(command, directory / "alone.log", port) as pid:
        yield Peer("server alone", port, pid)


@contextlib.contextmanager
def _nginx(directory: Path, body: str, port: int) -> Iterator[int]:
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "nginx.conf"
    # Workers of a master that is root would be nobody, who may not enter our directory.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(user=user, workers=NGINX_WORKERS, directory=directory, body=body))
    command = [program("nginx"), "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    with _running(command, directory / "nginx.log", port) as pid:
        yield pid


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[int]:
    process = Process(command, log, {"PYTHONPATH": str(Path(__file__).parents[2])})
    try:
        process.wait_ready(lambda: accepts(port))
        yield process.pid
    finally:
        process.stop()

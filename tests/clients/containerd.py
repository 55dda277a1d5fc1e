"""A containerd of its own, and `ctr` to drive it: pulls are unpacked, as on a node."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.images import Manifest
from tests.support.programs import Process, program, run, succeeds

# A fall back past the mirror must fail at once and visibly, never reach for the real registry.
NOWHERE: Final = "http://127.0.0.1:1"

_CONFIG: Final = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.tracing.processor.v1.otlp",
                    "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
address = "{address}"
[ttrpc]
address = "{address}.ttrpc"
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "isolated"
"""


@dataclass(frozen=True, slots=True)
class Mirror:
    """One way in which a hosts.toml names a mirror for docker.io. `path` follows the mirror's host:port."""

    path: str = ""
    override: bool = False

    def write(self, directory: Path, url: str, namespace: str, ca_file: Path | None = None) -> Path:
        """Make the directory that containerd calls `config_path`, for the mirror at `url`."""
        target = directory / namespace
        target.mkdir(parents=True, exist_ok=True)
        # `_default` has no server: there it would be the registry of every name.
        server = [] if namespace == "_default" else [f'server = "{NOWHERE}"']
        lines = [*server, f'[host."{url}{self.path}"]', '  capabilities = ["pull", "resolve"]']
        if ca_file:
            lines.append(f'  ca = "{ca_file}"')
        if self.override:
            lines.append("  override_path = true")
        (target / "hosts.toml").write_text("\n".join([*lines, ""]))
        return directory


MIRRORS: Final = {
    "ns": Mirror(),
    "path": Mirror("/docker.io"),
    "override_path": Mirror("/v2/docker.io", override=True),
}


class Containerd:
    """One daemon. Each pull goes to a namespace that shares nothing, so that every byte is asked for again."""

    def __init__(self, directory: Path, snapshotter: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._numbers = itertools.count()
        self._snapshotter = snapshotter
        config = directory / "config.toml"
        # The path of a socket is 107 bytes at most, and a test's directory is long.
        self._short = tempfile.TemporaryDirectory(prefix="containerd-")
        self._address = f"{self._short.name}/sock"
        config.write_text(_CONFIG.format(directory=directory, address=self._address))
        self._process = Process([program("containerd"), "--config", str(config)], directory / "containerd.log")
        self._process.wait_ready(self._answers)
        if not snapshotter:
            self._snapshotter = "overlayfs" if self._has_overlayfs() else "native"

    def hosts(self, url: str, style: str = "ns", *, namespace: str = "docker.io", ca_file: Path | None = None) -> Path:
        """A new configuration directory with the mirror at `url`, in one of the styles of MIRRORS.

        `namespace` is the registry that it mirrors, or `_default` for every one without an entry of its own.
        """
        directory = self._directory / f"hosts-{next(self._numbers)}"
        return MIRRORS[style].write(directory, url, namespace, ca_file)

    def stop(self) -> None:
        self._process.stop()
        self._short.cleanup()

    @contextlib.contextmanager
    def pull(self, reference: str, hosts: Path, *, all_platforms: bool = False) -> Iterator[Pulled]:
        """`ctr images pull`, unpacking included; what was pulled is removed at the end of the block.

        Raises:
            AssertionError: it failed; the message has what ctr said.
        """
        pulled = Pulled(self, f"pull-{next(self._numbers)}", reference)
        command = ["images", "pull", "--hosts-dir", str(hosts), "--snapshotter", self._snapshotter]
        if all_platforms:
            command.append("--all-platforms")
        self.ctr(pulled.namespace, *command, reference)
        try:
            yield pulled
        finally:
            self.ctr(pulled.namespace, "images", "rm", "--sync", reference)

    def ctr(self, namespace: str, *arguments: str) -> str:
        return run([program("ctr"), "--address", self._address, "--namespace", namespace, *arguments])

    @property
    def snapshotter(self) -> str:
        return self._snapshotter

    def _answers(self) -> bool:
        return succeeds([program("ctr"), "--address", self._address, "--timeout", "2s", "version"])

    def _has_overlayfs(self) -> bool:
        rows = [line.split() for line in self.ctr("default", "plugins", "ls").splitlines()]
        return any(row[1:2] == ["overlayfs"] and row[-1] == "ok" for row in rows)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What one pull has left in its namespace."""

    daemon: Containerd
    namespace: str
    reference: str

    def digest(self) -> str:
        """What the reference points at."""
        rows = self.daemon.ctr(self.namespace, "images", "ls").splitlines()[1:]
        return next(row.split()[2] for row in rows if row.split()[0] == self.reference)

    def content(self) -> set[str]:
        """Every digest in the content store; containerd verifies each as it comes in."""
        return set(self.daemon.ctr(self.namespace, "content", "ls", "--quiet").split())

    def snapshots(self) -> set[str]:
        """The chain IDs of the layers that were unpacked."""
        rows = self.daemon.ctr(self.namespace, "snapshots", "--snapshotter", self.daemon.snapshotter, "ls")
        return {row.split()[0] for row in rows.splitlines()[1:]}

    def check(self, source: Manifest, platform: Manifest | None = None) -> None:
        """Compare with the source: all of it, or of an index the manifest of one platform; and that it is unpacked."""
        chosen = platform or source
        assert self.digest() == source.digest
        assert self.content() >= {source.digest, *(part.digest for part in chosen.walk()), *chosen.all_blobs()}
        assert self.snapshots() >= chain_ids(chosen)


def chain_ids(image: Manifest) -> set[str]:
    """The name of each unpacked layer, by the image specification's rule; of one image, not of an index."""
    if image.children:
        return set()
    config = json.loads(image.blobs[0].read())
    first, *rest = config["rootfs"]["diff_ids"]
    chain = [first]
    for diff_id in rest:
        chain.append(f"sha256:{hashlib.sha256(f'{chain[-1]} {diff_id}'.encode()).hexdigest()}")
    return set(chain)

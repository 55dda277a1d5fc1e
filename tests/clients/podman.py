"""podman and skopeo with a storage and a registries.conf of their own: what CRI-O does as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.support.images import Manifest
from tests.support.programs import program, run

_POLICY: Final = {"default": [{"type": "insecureAcceptAnything"}]}

# `location` of the name itself is a closed port: a fall back past the mirror must fail, not reach for the real one.
_REGISTRIES: Final = """\
short-name-mode = "disabled"
unqualified-search-registries = []
[[registry]]
prefix = "docker.io"
location = "127.0.0.1:1"
insecure = true
[[registry.mirror]]
location = "{mirror}"
insecure = true
"""


class Podman:
    """Both programs, told that `mirror` (host:port/docker.io) stands for docker.io."""

    def __init__(self, directory: Path, mirror: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._registries = directory / "registries.conf"
        self._registries.write_text(_REGISTRIES.format(mirror=mirror))
        self._policy = directory / "policy.json"
        self._policy.write_text(json.dumps(_POLICY))
        self._credentials = directory / "auth.json"
        self._credentials.write_text("{}")
        self._storage = directory / "storage.conf"
        self._storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n'
        )

    def pull(self, reference: str) -> dict[str, Any]:
        """`podman pull`; what `podman image inspect` says: Digest of what the reference points at, Id of the config."""
        self.podman("pull", "--quiet", "--tls-verify=false", "--signature-policy", str(self._policy), reference)
        found = json.loads(self.podman("image", "inspect", reference))[0]
        assert isinstance(found, dict)
        return found

    def remove_all(self) -> None:
        self.podman("image", "rm", "--all", "--force")

    def podman(self, *arguments: str) -> str:
        return run([program("podman"), "--events-backend=none", *arguments], env=self._environment())

    def skopeo(self, *arguments: str) -> str:
        own = [
            "--policy",
            str(self._policy),
            "--registries-conf",
            str(self._registries),
            "--tmpdir",
            str(self._directory),
        ]
        return run([program("skopeo"), *own, *arguments], env=self._environment())

    def copy(self, reference: str, target: Path) -> None:
        """`skopeo copy --all` into an OCI or plain directory: each platform, with the index kept as it is."""
        self.skopeo(
            "copy", "--all", "--preserve-digests", "--src-tls-verify=false", f"docker://{reference}", f"dir:{target}"
        )

    def _environment(self) -> dict[str, str]:
        return {
            "CONTAINERS_REGISTRIES_CONF": str(self._registries),
            "CONTAINERS_STORAGE_CONF": str(self._storage),
            "REGISTRY_AUTH_FILE": str(self._credentials),
            "TMPDIR": str(self._directory),
        }


def check_directory(copied: Path, source: Manifest) -> None:
    """Compare a `dir:` copy with the source: the index or manifest byte for byte, and each blob by name and size."""
    assert (copied / "manifest.json").read_bytes() == source.body
    for part in source.walk():
        if part is not source:
            assert (copied / f"{part.digest.partition(':')[2]}.manifest.json").read_bytes() == part.body
    for digest, blob in source.all_blobs().items():
        assert (copied / digest.partition(":")[2]).read_bytes() == blob.read()

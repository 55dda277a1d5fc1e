"""Real clients under the operator's rules: what a tag is to them while it moves, and what they say when refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests.clients.containerd import Containerd
from tests.clients.podman import Podman
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.programs import require, require_root
from tests.support.scripted import ScriptedUpstream

pytestmark = pytest.mark.clients

NAME: Final = "docker.io/library/moving"


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


def test_podman_and_containerd_get_the_digest_that_is_old_enough_and_say_why_another_one_is_refused(
    start_millpond: StartMillpond,
    upstream: ScriptedUpstream,
    containerd: Containerd,
    tmp_path: Path,
    images_directory: Path,
) -> None:
    require_root()
    require("podman", "skopeo")
    old, new = (images.simple_image(images_directory, seed=seed, size=10_000) for seed in (80, 81))
    upstream.add(old, "library/moving", "1")
    upstreams = {"docker.io": upstream.upstream(tag_ttl="0s")}
    millpond = start_millpond(upstreams, policy={"cooldown": [{"trusted_until": "2100-01-01"}]})
    podman = Podman(tmp_path / "podman", f"{millpond.host}/docker.io")
    assert podman.pull(f"{NAME}:1")["Digest"] == old.digest
    podman.remove_all()
    millpond.terminate()
    seen = datetime.now(UTC).isoformat()
    millpond.configure({**millpond.config, "policy": {"cooldown": [{"trusted_until": seen}]}})
    millpond.start()
    upstream.add(new, "library/moving", "1", "2")
    assert podman.pull(f"{NAME}:1")["Digest"] == old.digest
    hosts = containerd.hosts(millpond.url)
    with containerd.pull(f"{NAME}:1", hosts) as pulled:
        pulled.check(old)
    with containerd.pull(f"{NAME}@{new.digest}", hosts) as pulled:
        pulled.check(new)
    direct = ["inspect", "--tls-verify=false", f"docker://{millpond.host}/{NAME}:2"]
    with pytest.raises(AssertionError, match=r"denied: .*policy\.cooldown\[0\] holds back what is newer than 7d"):
        podman.skopeo(*direct)

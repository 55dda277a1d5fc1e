"""A working day in small: images, nodes that pull them, and one download that takes its time; and pictures of it.

python -m tests.page.scene      five minutes of it, and README's picture: deploy/page.png
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from PIL import Image

from tests.page.desk import DESK, TOKEN, Desk, chromium
from tests.support.faults import Gate, change, refuse
from tests.support.images import Manifest, image, layer
from tests.support.millpond import Millpond
from tests.support.pulls import get, opened
from tests.support.scripted import ScriptedUpstream

PICTURES: Final = Path(__file__).parents[2] / "build" / "screenshots"
_README: Final = Path(__file__).parents[2] / "deploy" / "page.png"
_README_SECONDS: Final = 305  # the whole of the plot
_README_COLOURS: Final = 96  # as few as nobody sees: the picture is in every clone

_MIB: Final = 1 << 20
# Upstream, repository, tag and the sizes of the layers in MiB.
_SHELF: Final = (
    ("docker.io", "library/nginx", "1.27", (28, 9)),
    ("docker.io", "library/postgres", "16.4", (44, 20)),
    ("docker.io", "library/redis", "7.4", (17,)),
    ("docker.io", "grafana/grafana", "11.3.0", (52, 12)),
    ("ghcr.io", "cloudnative-pg/cloudnative-pg", "1.24.1", (31,)),
    ("ghcr.io", "argoproj/argocd", "v2.13.1", (60, 24)),
    ("quay.io", "prometheus/prometheus", "v3.0.0", (48,)),
    ("quay.io", "cilium/cilium", "v1.16.4", (64, 22)),
)
_SLOW: Final = ("docker.io", "nvidia/cuda", "12.6.2-base", 96)
_STEPS: Final = 400  # gates of the slow one
_NODES: Final = 8
_PIECE: Final = 256 * 1024


class Scene:
    """`millpond` with `hubs`, scripted upstreams by name. It plays until it is left."""

    def __init__(self, directory: Path, millpond: Millpond, hubs: dict[str, ScriptedUpstream]) -> None:
        self.millpond = millpond
        self._hubs = hubs
        self._over = threading.Event()
        self._drops = [Gate() for _ in range(_STEPS)]
        self._shelf: list[tuple[str, str, Manifest]] = []
        for number, (hub, repository, tag, sizes) in enumerate(_SHELF):
            layers = [layer(directory, size * _MIB, seed=number * 10 + each) for each, size in enumerate(sizes)]
            self._add(hub, repository, tag, image(layers))
        hub, repository, tag, size = _SLOW
        slow = layer(directory, size * _MIB, seed=900)
        self._slow = self._add(hub, repository, tag, image([slow]))
        gates = {slow.size * number // _STEPS: gate for number, gate in enumerate(self._drops, 1)}
        hubs[hub].script(slow.digest, then=change(gates=gates))

    @contextmanager
    def playing(self, seconds: float) -> Iterator[None]:
        """Nodes pull meanwhile; after `seconds` each image will have been pulled."""
        self._began, self._seconds = time.monotonic(), seconds
        with ThreadPoolExecutor(_NODES + 3) as pool:
            acts = [pool.submit(self._node, number) for number in range(_NODES)]
            acts += [
                pool.submit(self._drip),
                *(pool.submit(self._take, *self._slow, None, 40 + each) for each in range(2)),
            ]
            try:
                yield
            finally:
                self._over.set()
                for gate in self._drops:
                    gate.open()
        for act in acts:
            act.result()

    def wait(self, seconds: float) -> None:
        """Time passes, and nodes pull."""
        self._over.wait(seconds)

    def trouble(self) -> None:
        """One upstream fails, another limits us."""
        self._hubs["quay.io"].script("/v2/", then=refuse(503), method="")
        self._hubs["docker.io"].script("/v2/", then=refuse(429, retry_after="600"), method="")
        for path in ("quay.io/prometheus/node-exporter/manifests/v1.8.2", "docker.io/library/python/manifests/3.13"):
            get(f"{self.millpond.url}/v2/{path}")

    def _add(self, hub: str, repository: str, tag: str, made: Manifest) -> tuple[str, str, Manifest]:
        self._hubs[hub].add(made, repository, tag)
        entry = (f"{hub}/{repository}", tag, made)
        if repository != _SLOW[1]:
            self._shelf.append(entry)
        return entry

    def _node(self, number: int) -> None:
        """Pulls one image after the other, more of them at some times than at others."""
        chance = random.Random(number)
        while not self._over.wait(chance.uniform(0.1, 2.5)):
            # What nobody has asked for yet is pulled for the first time later on.
            known = 1 + int((time.monotonic() - self._began) / self._seconds * 1.2 * len(self._shelf))
            self._take(*chance.choice(self._shelf[:known]), rate=chance.uniform(8, 25) * _MIB, node=number)

    def _take(self, name: str, tag: str, made: Manifest, rate: float | None, node: int) -> None:
        """Everything of an image, at so many bytes a second."""
        base, address = f"{self.millpond.url}/v2/{name}", {"X-Forwarded-For": f"10.0.{node % 3}.{17 + node}"}
        get(f"{base}/manifests/{tag}", address)
        for digest in made.all_blobs():
            with opened(f"{base}/blobs/{digest}", address) as download:
                while download.read(_PIECE) and not (self._over.wait(_PIECE / rate) if rate else False):
                    pass

    def _drip(self) -> None:
        for gate in self._drops:
            if self._over.wait(0.8):
                return
            gate.open()


@contextmanager
def scene(directory: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        hubs = {name: stack.enter_context(ScriptedUpstream()) for name in ("docker.io", "ghcr.io", "quay.io")}
        token = directory / "token"
        token.write_text(TOKEN)
        # One connection, because each of several would have gates of its own.
        config = {
            "upstreams": {name: hub.upstream(connections_per_blob=1) for name, hub in hubs.items()},
            "admin": {"token_file": str(token)},
            "cache": {"max_size": "1GiB"},
            "access": {"trusted_forwarders": ["127.0.0.1"]},
        }
        millpond = Millpond(config, directory / "millpond")
        stack.callback(millpond.stop)
        millpond.start()
        yield Scene(directory / "images", millpond, hubs)


def picture(desk: Desk, name: str, *, whole: bool = True) -> Path:
    """Take one, of the whole page or of what the window shows."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    desk.page.screenshot(path=path, full_page=whole)
    return path


def _readme() -> None:
    with TemporaryDirectory() as directory, scene(Path(directory)) as day, chromium() as browser:
        desk = Desk(browser, day.millpond, viewport={**DESK, "height": 1140})
        desk.open()
        with day.playing(_README_SECONDS):
            day.wait(_README_SECONDS)
            taken = picture(desk, "readme", whole=False)
        desk.close()
    with Image.open(taken) as full:
        full.convert("RGB").quantize(_README_COLOURS, dither=Image.Dither.NONE).save(_README, optimize=True)


if __name__ == "__main__":
    _readme()

"""Nodes that pull an image as containerd does: HEAD the tag, index, manifest, config, then three layers at a time."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from tests.bench.client import Client, Target
from tests.bench.load import expire, in_processes
from tests.bench.stage import Image

LAYERS_AT_A_TIME: Final = 3
"""containerd's max_concurrent_downloads."""


def storm(target: Target, image: Image, nodes: int) -> list[float]:
    """All nodes begin at once; the seconds that each took."""
    groups = in_processes(lambda share, start: _storm(target, image, share, start), nodes)
    return [seconds for group in groups for seconds in group]


class _Node:
    def __init__(self, target: Target, image: Image) -> None:
        self.clients = [Client(target) for _ in range(LAYERS_AT_A_TIME)]
        self._first = deque(
            [
                (image.tag_path, "HEAD"),
                *((image.manifest_path(part.digest), "GET") for part in reversed(list(image.manifest.walk()))),
                (image.blob_path(image.config.digest), "GET"),
            ]
        )
        self._layers = deque(image.blob_path(layer.digest) for layer in image.layers)
        self._left = len(self._layers)
        self._resolving = True

    def begin(self) -> None:
        self.clients[0].ask(*self._first.popleft())

    def proceed(self, client: Client) -> bool:
        """Its answer is complete: ask for what comes next. Whether the whole image is there."""
        if self._first:
            client.ask(*self._first.popleft())
        elif self._resolving:
            self._resolving = False
            for idle in self.clients:
                self._ask(idle)
        else:
            self._left -= 1
            self._ask(client)
        return not self._left

    def _ask(self, client: Client) -> None:
        if self._layers:
            client.ask(self._layers.popleft())


def _storm(target: Target, image: Image, nodes: int, start: Callable[[], None]) -> list[float]:
    took: list[float] = []
    with selectors.DefaultSelector() as selector:
        made = [_Node(target, image) for _ in range(nodes)]
        for node in made:
            for client in node.clients:
                selector.register(client.sock, selectors.EVENT_READ, (node, client))
        start()
        began = time.monotonic()
        for node in made:
            node.begin()
        while len(took) < nodes:
            expire(began)
            for key, _ in selector.select(1):
                node, client = key.data
                if client.left == 0:
                    client.head()
                else:
                    client.discard()
                if client.left == 0 and node.proceed(client):
                    took.append(time.monotonic() - began)
    return took

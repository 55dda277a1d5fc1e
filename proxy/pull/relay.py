"""Pass-through: a blob from source to one client when the disk cannot hold it. Verified all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from proxy.observe.metrics import Metrics
from proxy.oci.digest import Hasher
from proxy.oci.errors import UpstreamInvalid
from proxy.pull.delivery import Delivery
from proxy.pull.download import Download


class Relay:
    """The bytes of one blob, each client for itself."""

    def __init__(self, delivery: Delivery, size: int, metrics: Metrics) -> None:
        self._delivery = delivery
        self._size = size
        self._metrics = metrics

    async def read(self, start: int, stop: int, seen: tuple[Hasher, int] | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop`. `seen` is the hash state over the first so many bytes, if known already.

        A range that ends at the blob's end is fetched from where `seen` stops, and its last chunk is held back until
        the digest has been verified. An inner range is passed on as it comes: whoever asks for it verifies the whole.
        """
        if stop < self._size:
            async with aclosing(self._bytes(start, stop)) as chunks:
                async for _, chunk in chunks:
                    yield chunk
            return
        digest = self._delivery.digest
        sent = False
        while True:
            hasher, hashed = (seen[0].copy(), seen[1]) if seen else (digest.hasher(), 0)
            held = b""
            async with aclosing(self._bytes(hashed)) as chunks:
                async for at, chunk in chunks:
                    if held:
                        sent = True
                        yield held
                    await asyncio.to_thread(hasher.update, chunk)
                    held = chunk[max(0, start - at) :]
            if digest.matches(hasher):
                yield held
                return
            misled = self._delivery.blame()
            if not misled:
                self._metrics.unverified.labels("upstream").inc()
            if sent or not misled:
                raise UpstreamInvalid(f"the bytes that {self._delivery.tier} sent do not hash to {digest}")

    async def _bytes(self, start: int, stop: int | None = None) -> AsyncGenerator[tuple[int, bytes], None]:
        """Offset and content of each chunk from `start` to `stop`, by default to the end."""
        async with (
            Download(self._delivery.open, expected=self._size, start=start, stop=stop) as download,
            aclosing(aiter(download)) as chunks,
        ):
            at = start
            async for chunk in chunks:
                yield at, chunk
                at += len(chunk)

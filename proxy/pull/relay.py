"""Pass-through: a blob from source to one client when the disk cannot hold it. Verified all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest, Hasher
from proxy.oci.errors import UpstreamInvalid
from proxy.oci.names import Repository
from proxy.oci.source import Source
from proxy.pull.download import Download


class Relay:
    """The bytes of one blob from upstream, each client for itself."""

    def __init__(self, source: Source, repository: Repository, digest: Digest, size: int, metrics: Metrics) -> None:
        self._open = partial(source.blob, repository.path, digest)
        self._digest = digest
        self._size = size
        self._metrics = metrics
        self._fetched = metrics.fetched_bytes.labels(repository.upstream)

    async def read(self, start: int, stop: int, seen: tuple[Hasher, int] | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop`. `seen` is the hash state over the first so many bytes, if known already.

        A range that ends at the blob's end is fetched from where `seen` stops, and its last chunk is held back until
        the digest has been verified. An inner range is passed on as it comes: whoever asks for it verifies the whole.
        """
        if stop < self._size:
            async with aclosing(self._bytes(start)) as chunks:
                async for at, chunk in chunks:
                    yield chunk[: stop - at]
                    if at + len(chunk) >= stop:
                        return
        hasher, hashed = seen or (self._digest.hasher(), 0)
        held = b""
        async with aclosing(self._bytes(hashed)) as chunks:
            async for at, chunk in chunks:
                if held:
                    yield held
                await asyncio.to_thread(hasher.update, chunk)
                held = chunk[max(0, start - at) :]
        if not self._digest.matches(hasher):
            self._metrics.unverified.labels("upstream").inc()
            raise UpstreamInvalid(f"the bytes that upstream sent do not hash to {self._digest}")
        yield held

    async def _bytes(self, start: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Offset and content of each chunk from `start` to the end."""
        async with (
            Download(self._open, expected=self._size, start=start) as download,
            aclosing(aiter(download)) as chunks,
        ):
            at = start
            async for chunk in chunks:
                self._fetched.inc(len(chunk))
                yield at, chunk
                at += len(chunk)

"""Connections to upstream that wait for their next use: what happened on them before is over."""

from __future__ import annotations

from typing import Final

import anyio
import pytest

from proxy.oci.digest import Digest
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Timeouts
from proxy.upstream.transport import CHUNK_SIZE
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until_async

REPOSITORY: Final = "library/x"
READ: Final = 2.0  # seconds; a busy machine answers within


@pytest.mark.anyio
async def test_a_connection_that_was_idle_for_longer_than_the_read_deadline_gives_the_next_blob() -> None:
    """B: found by the state machine. aiohttp stops reading at twice the size of its buffer; the end of a body that is
    a little longer was parsed only when its reader went on, and left the deadline for the next byte running: once it
    had passed, the next request on this connection was told at once that upstream had not answered in time."""
    content = bytes(2 * CHUNK_SIZE + 1000)
    with ScriptedUpstream() as upstream:
        digest = Digest.parse(upstream.add_blob(REPOSITORY, content))
        registry = Registry(Endpoint("docker.io", upstream.url), timeouts=Timeouts(read=READ))
        try:
            async with registry.blob(REPOSITORY, digest) as stream:
                await wait_until_async(lambda: upstream.sent_of(str(digest)) == len(content), "all of it was sent")
                await anyio.sleep(READ / 5)  # and has been received, which nothing tells
                assert sum([len(chunk) async for chunk in stream.chunks]) == len(content)
            await anyio.sleep(2 * READ)  # the deadline itself
            async with registry.blob(REPOSITORY, digest) as stream:
                assert sum([len(chunk) async for chunk in stream.chunks]) == len(content)
        finally:
            await registry.aclose()

"""A sector of the disk that can no longer be read: EIO below the file of a blob that is cached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.disks import landed
from tests.faults.conftest import UPSTREAM
from tests.support import images
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream

MIB = 1 << 20
# A file of which the sectors behind the first MiB are gone: as the kernel says it, by sendfile, pread and preadv.
_BAD_DISK = """
import os, errno
bad = os.environ["BAD_INODE_FILE"]
def spoil(call, fd_at, offset_at):
    def spoilt(*arguments):
        try:
            wrong = os.fstat(arguments[fd_at]).st_ino == int(open(bad).read())
        except (OSError, ValueError):
            wrong = False
        if wrong and arguments[offset_at] >= {first}:
            raise OSError(errno.EIO, "Input/output error")
        return call(*arguments)
    return spoilt
sendfile = os.sendfile
os.sendfile = spoil(lambda out, file, at, count: sendfile(out, file, at, min(count, 65536)), 1, 2)
os.pread = spoil(os.pread, 0, 2)
os.preadv = spoil(os.preadv, 0, 2)
"""


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[tuple[ScriptedUpstream, Millpond, Path]]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_BAD_DISK.format(first=MIB))
    inode = tmp_path / "inode"
    with ScriptedUpstream() as upstream:
        env = {"PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[2]}", "BAD_INODE_FILE": str(inode)}
        config = {"upstreams": {UPSTREAM: upstream.upstream()}}
        millpond = Millpond(config, tmp_path / "millpond", env)
        try:
            yield upstream, millpond.start(), inode
        finally:
            millpond.stop()


def test_a_blob_whose_sectors_cannot_be_read_is_fetched_again(
    bad: tuple[ScriptedUpstream, Millpond, Path],
) -> None:
    """B: one bad sector is no outage of its image for as long as the scrub takes to come by."""
    upstream, millpond, inode = bad
    blob = images.blob(b"".join(images.noise(4 * MIB, 77)))
    image = images.artifact(images.EMPTY_CONFIG, [blob])
    upstream.add(image, "library/app", "1")
    base = f"{millpond.url}/v2/{UPSTREAM}/library/app"
    pull(base, image, "1")
    landed(millpond)
    os.link(millpond.blob_file(blob.digest), inode.with_name("kept"))  # else the next file would have its number
    inode.write_text(str(millpond.blob_file(blob.digest).stat().st_ino))
    replies = [get(f"{base}/blobs/{blob.digest}") for _ in range(4)]
    seen = [(reply.complete, reply.headers["x-millpond"]) for reply in replies]
    assert not replies[0].complete
    assert all(reply.digest == blob.digest for reply in replies[1:]), seen

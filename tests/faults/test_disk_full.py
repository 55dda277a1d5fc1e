"""Disks that are full, read-only, too small or gone: the clients get their bytes all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import bytes_on_disk, fill, impatient, landed, make_read_only, small_disk
from tests.conftest import StartMillpond
from tests.faults.conftest import await_gate
from tests.support import images
from tests.support.faults import Gate, change
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, head, opened, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

MIB: Final = 1 << 20
REPOSITORY: Final = "library/x"
IMAGE: Final = images.index(
    [images.artifact(images.EMPTY_CONFIG, [images.blob(b"".join(images.noise(200_000, seed)))]) for seed in (1, 2)]
)
Start = Callable[..., Millpond]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        made.add(IMAGE, REPOSITORY, "1")
        yield made


@pytest.fixture
def start(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Start:
    """Starts a Millpond before the scripted upstream; the arguments are its `cache` section."""

    def start_one(env: dict[str, str] | None = None, **cache: Any) -> Millpond:
        filled = {"max_size": "1GiB", "min_free": 0, **cache}
        millpond = start_millpond({"docker.io": upstream.upstream()}, env=env, cache=filled)
        millpond.cache = Path(filled.get("directory", millpond.cache))
        return millpond

    return start_one


def base(millpond: Millpond) -> str:
    return f"{millpond.url}/v2/docker.io/{REPOSITORY}"


def status(millpond: Millpond) -> dict[str, Any]:
    """What the admin port says of the program, which stays ready."""
    reply = get(f"{millpond.admin_url}/readyz")
    assert reply.status == 200
    found: dict[str, Any] = reply.json()
    return found


def noise(size: int, seed: int) -> bytes:
    return b"".join(images.noise(size, seed))


def test_a_disk_that_fills_while_a_blob_arrives_costs_no_client_a_byte(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Row 25; B A: somebody else fills it; when there is room again, it is used again."""
    body = noise(6 * MIB, 3)
    digest, gate = upstream.add_blob(REPOSITORY, body), Gate()
    upstream.script(digest, change(gates={3 * MIB: gate}))
    with small_disk(tmp_path / "disk", 10 * MIB) as disk, ThreadPoolExecutor(5) as pool:
        millpond = start(directory=str(disk / "cache"), env=impatient(tmp_path / "site"))
        url = f"{base(millpond)}/blobs/{digest}"
        clients = [pool.submit(get, url) for _ in range(4)]
        ranged = pool.submit(get, url, {"Range": f"bytes={5 * MIB}-"})
        await_gate(gate)
        wait_until(lambda: bytes_on_disk(millpond.cache) >= 2 * MIB, "the beginning has been written")
        wait_until(lambda: millpond.metric("millpond_flight_joins_total") == 4, "everyone waits for one flight")
        hog = fill(disk)
        gate.open()
        for reply in [client.result(20) for client in clients]:
            assert (reply.status, reply.complete, reply.digest) == (200, True, digest)
        assert (ranged.result(20).status, ranged.result(20).body) == (206, body[5 * MIB :])
        assert "No space left on device" in status(millpond)["disk"]
        assert millpond.metric("millpond_cache_up") == 0
        wait_until(lambda: not millpond.incoming(), "the temporary file is removed")
        assert not millpond.blob_file(digest).exists()
        # What had arrived was not fetched again: whoever goes on alone goes on where the disk gave out.
        starts = {request.headers.get("range", "bytes=0-") for request in upstream.seen(digest)[1:]}
        assert "bytes=0-" not in starts

        pull(base(millpond), IMAGE, "1")  # while it is paused
        hog.unlink()
        wait_until(lambda: status(millpond)["disk"] == "ok", "the disk is tried again")
        assert millpond.metric("millpond_cache_up") == 1
        assert get(url).digest == digest
        landed(millpond)
        assert millpond.blob_file(digest).exists()
        assert millpond.metric("millpond_cache_bytes") == bytes_on_disk(millpond.cache)
        millpond.stop()


def test_a_blob_that_has_no_place_on_the_disk_passes_and_nothing_is_paused_for_it(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Rows 25 and 27; B A: the disk is smaller than max_size says."""
    digest = upstream.add_blob(REPOSITORY, noise(8 * MIB, 4))
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        millpond = start(directory=str(disk / "cache"))
        pull(base(millpond), IMAGE, "1")
        landed(millpond)
        kept = bytes_on_disk(millpond.cache)
        for _ in range(2):
            reply = get(f"{base(millpond)}/blobs/{digest}")
            assert (reply.digest, reply.complete) == (digest, True)
            assert reply.headers["x-millpond"] == "upstream"
        assert status(millpond)["disk"] == "ok"
        assert millpond.metric("millpond_cache_up") == 1
        assert bytes_on_disk(millpond.cache) == kept == millpond.metric("millpond_cache_bytes")
        assert {reply.headers["x-millpond"] for reply in pull(base(millpond), IMAGE, "1")} == {"hit"}
        millpond.stop()


def test_a_disk_that_is_full_at_start_serves_what_it_has_and_lets_the_rest_pass(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Row 25; B K: what was known before the start is known after it, tags included."""
    with small_disk(tmp_path / "disk", 8 * MIB) as disk:
        millpond = start(directory=str(disk / "cache"))
        pull(base(millpond), IMAGE, "1")
        landed(millpond)
        assert millpond.terminate() == 0
        fill(disk)
        millpond.start()
        upstream.stop()
        assert {reply.headers["x-millpond"] for reply in pull(base(millpond), IMAGE, "1")} == {"hit"}
        upstream.start()
        digest = upstream.add_blob(REPOSITORY, noise(2 * MIB, 5))
        assert get(f"{base(millpond)}/blobs/{digest}").digest == digest
        assert not millpond.incoming()
        assert not (disk / "cache" / "ledger.damaged").exists()
        millpond.stop()


def test_a_directory_that_is_read_only_at_start_leaves_a_program_that_passes_everything_through(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Row 26; B."""
    with small_disk(tmp_path / "disk", MIB) as disk:
        make_read_only(disk)
        millpond = start(directory=str(disk))
        assert status(millpond) == {
            "ready": True,
            "draining": False,
            "disk": f"{disk} cannot be used: Read-only file system",
        }
        assert millpond.metric("millpond_cache_up") == 0
        pull(base(millpond), IMAGE, "1")
        blob = next(iter(IMAGE.all_blobs().values()))
        url = f"{base(millpond)}/blobs/{blob.digest}"
        assert get(url).headers["x-millpond"] == "upstream"
        ranged = get(url, {"Range": "bytes=1-2"})
        assert (ranged.status, ranged.body) == (206, blob.read()[1:3])
        assert head(url).headers["content-length"] == str(blob.size)
        assert list(disk.iterdir()) == []
        assert millpond.terminate() == 0


def test_a_blob_larger_than_the_budget_is_streamed_and_nothing_is_evicted_for_it(
    start: Start, upstream: ScriptedUpstream
) -> None:
    """Row 27; A: whether its size is known from a manifest beforehand or not."""
    millpond = start(max_size="1MiB")
    pull(base(millpond), IMAGE, "1")
    landed(millpond)
    kept = millpond.metric("millpond_cache_bytes")
    blob = images.blob(noise(MIB + 1, 6))
    large = images.artifact(images.EMPTY_CONFIG, [blob])
    upstream.add_blob(REPOSITORY, blob.read())
    unknown = get(f"{base(millpond)}/blobs/{blob.digest}")
    assert (unknown.digest, unknown.complete) == (blob.digest, True)
    upstream.add(large, REPOSITORY, "large")
    pull(base(millpond), large, "large")
    assert not millpond.blob_file(blob.digest).exists()
    assert not millpond.incoming()
    assert millpond.metric("millpond_cache_evictions_total") == 0
    assert {reply.headers["x-millpond"] for reply in pull(base(millpond), IMAGE, "1")} == {"hit"}
    # The manifest is new; its configuration, `{}`, is that of the other image.
    assert millpond.metric("millpond_cache_bytes") == kept + len(large.body) == bytes_on_disk(millpond.cache)


def test_wrong_bytes_are_not_passed_through_to_their_end_either(start: Start, upstream: ScriptedUpstream) -> None:
    """Rows 3 and 27; W: there is no file to hold the tail back in."""
    millpond = start(max_size="64KiB")
    digest = upstream.add_blob(REPOSITORY, noise(MIB, 7))
    upstream.script(digest, then=lambda _, answer: change(body=answer.body[:-1] + b"?")(_, answer))
    reply = get(f"{base(millpond)}/blobs/{digest}")
    assert not reply.complete or reply.status == 502
    assert reply.size < MIB
    assert millpond.metric("millpond_verification_failures_total") == 1


def test_a_blob_that_is_evicted_while_a_client_reads_it_is_read_to_its_end(
    start: Start, upstream: ScriptedUpstream
) -> None:
    """Row 28; W."""
    millpond = start(max_size="40MiB")
    first, second = (upstream.add_blob(REPOSITORY, noise(32 * MIB, seed)) for seed in (8, 9))
    assert get(f"{base(millpond)}/blobs/{first}", keep=False).digest == first
    landed(millpond)
    with opened(f"{base(millpond)}/blobs/{first}") as download:
        assert download.headers["x-millpond"] == "hit"
        assert len(download.read(MIB)) == MIB
        assert get(f"{base(millpond)}/blobs/{second}", keep=False).digest == second
        assert not millpond.blob_file(first).exists()
        assert download.drain()
        assert download.digest == first
    landed(millpond)
    assert bytes_on_disk(millpond.cache) == 32 * MIB == millpond.metric("millpond_cache_bytes")
    assert millpond.metric("millpond_cache_evictions_total") == 1


def test_somebody_empties_the_directory_under_the_running_program(start: Start, upstream: ScriptedUpstream) -> None:
    """Row 25; B H."""
    millpond = start()
    pull(base(millpond), IMAGE, "1")
    landed(millpond)
    for path in millpond.cache.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    pull(base(millpond), IMAGE, "1")
    digest = upstream.add_blob(REPOSITORY, noise(MIB, 10))
    assert get(f"{base(millpond)}/blobs/{digest}").digest == digest
    assert "No such file or directory" in status(millpond)["disk"]
    millpond.restart()
    assert status(millpond)["disk"] == "ok"
    pull(base(millpond), IMAGE, "1")
    landed(millpond)
    assert bytes_on_disk(millpond.cache) == millpond.metric("millpond_cache_bytes") > 0


def test_a_cached_blob_that_cannot_be_opened_is_fetched_again(start: Start, upstream: ScriptedUpstream) -> None:
    """Row 25; B H: EIO when a blob is opened; a loop of symbolic links is an error like it that root can make."""
    millpond = start()
    pull(base(millpond), IMAGE, "1")
    landed(millpond)
    blob = next(iter(IMAGE.all_blobs().values()))
    file = millpond.blob_file(blob.digest)
    file.unlink()
    file.symlink_to(file)
    reply: Reply = get(f"{base(millpond)}/blobs/{blob.digest}", timeout=5)
    assert (reply.digest, reply.headers["x-millpond"]) == (blob.digest, "upstream")
    assert json.loads(get(f"{base(millpond)}/manifests/1").body)["schemaVersion"] == 2

"""The scrub and `millpond verify`: what disks forget is found, evicted, counted, and fetched again."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.cache import scrub
from proxy.cache.files import PIECE, Files
from proxy.cache.lock import DirectoryLock
from proxy.cache.scrub import VerifyRuns
from proxy.cache.verdict import Verdict
from proxy.oci.errors import MillpondError
from proxy.settings import SettingsError, load
from tests.cache.disks import GIB, Opened, bytes_on_disk, content, flip_a_bit, landed, opened
from tests.conftest import StartMillpond
from tests.support import command, images
from tests.support.millpond import Millpond
from tests.support.ports import free_port
from tests.support.pulls import Reply, get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.anyio

REPOSITORY: Final = "library/x"
IMAGE: Final = images.artifact(images.EMPTY_CONFIG, [images.blob(b"".join(images.noise(200_000, 71)))])
PARTS: Final = [IMAGE.digest, *IMAGE.all_blobs()]
LAYER: Final = IMAGE.blobs[1].digest

Row = Mapping[str, Any]


# The store and the scrubber


async def rows_of(rows: AsyncGenerator[Row, None]) -> list[Row]:
    async with aclosing(rows) as found:
        return [row async for row in found]


def passed(cache: Opened) -> float:
    return cache.metrics.registry.get_sample_value("millpond_scrub_pass_timestamp_seconds") or 0.0


def scrubbed(cache: Opened, verdict: str) -> float:
    return cache.metrics.registry.get_sample_value("millpond_scrubbed_blobs_total", {"verdict": verdict}) or 0.0


async def test_a_verification_finds_each_bad_blob_and_evicts_no_other(tmp_path: Path) -> None:
    """Row 24; P A K."""
    async with opened(tmp_path) as cache:
        good, damaged, short, missing = [await cache.keep(content(600 + seed, seed)) for seed in range(4)]
        flip_a_bit(cache.path(damaged), 300, keep_times=True)
        os.truncate(cache.path(short), 5)
        cache.path(missing).unlink()
        *found, last = await rows_of(cache.cache.scrubber.verify())
        assert {row["digest"]: row["verdict"] for row in found if "digest" in row} == {
            damaged: "damaged",
            short: "damaged",
            missing: "missing",
        }
        assert last == {
            "summary": {
                "blobs": 4,
                "bytes": 600 + 601 + 5,
                "intact": 1,
                "damaged": 2,
                "missing": 1,
                "unreadable": 0,
            }
        }
        assert cache.store.digests() == [good]
        assert cache.alarms() == 2  # what is gone has deceived nobody
        assert (scrubbed(cache, "intact"), scrubbed(cache, "damaged"), scrubbed(cache, "missing")) == (1, 2, 1)
        assert passed(cache) == cache.clock.now
        cache.assert_exact()


async def test_a_blob_of_many_pieces_is_hashed_to_its_end(tmp_path: Path) -> None:
    """Row 24; P: damage in the last byte, and sizes that are whole pieces."""
    async with opened(tmp_path) as cache:
        sizes = (0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE)
        digests = [await cache.keep(content(size)) for size in sizes]
        assert [await cache.store.verify(digest) for digest in digests] == [Verdict.INTACT] * len(sizes)
        for digest, size in zip(digests[1:], sizes[1:], strict=True):
            flip_a_bit(cache.path(digest), size - 1, keep_times=True)
            assert await cache.store.verify(digest) is Verdict.DAMAGED
        cache.assert_exact()


async def test_a_blob_that_is_evicted_or_pulled_anew_while_it_is_hashed_raises_no_alarm(tmp_path: Path) -> None:
    """K: what takes its place is not judged by what was there before."""
    async with opened(tmp_path) as cache:
        evicted, replaced = await cache.keep(content(2 * PIECE)), await cache.keep(content(PIECE))

        async def evict(_: int) -> None:
            await cache.store.evict(evicted)

        assert await cache.store.verify(evicted, evict) is Verdict.GONE
        flip_a_bit(cache.path(replaced), 0, keep_times=True)

        async def pull_anew(_: int) -> None:
            if not again:
                again.append(1)
                await cache.store.evict(replaced)
                await cache.keep(content(PIECE))

        again: list[int] = []
        assert await cache.store.verify(replaced, pull_anew) is Verdict.GONE
        assert await cache.store.verify(replaced) is Verdict.INTACT
        assert cache.alarms() == 0
        cache.assert_exact()


async def test_a_process_without_file_descriptors_takes_no_blob_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K: nothing is known then, so nothing is evicted."""
    async with opened(tmp_path) as cache:
        digest = await cache.keep(content(600))

        def refuse(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(Files, "hash_piece", refuse)  # as the kernel would; to use up all of them hurts the test
            *_, last = await rows_of(cache.cache.scrubber.verify())
        assert last["summary"]["unreadable"] == 1
        assert await cache.read(digest) == content(600)
        assert cache.alarms() == 0


async def test_one_verification_runs_at_a_time_and_ends_when_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "_PROGRESS_SECONDS", 0.01)
    gate = threading.Event()
    hash_piece = Files.hash_piece

    def slow(self: Files, *arguments: Any) -> int:
        gate.wait(20)
        return hash_piece(self, *arguments)

    async with opened(tmp_path) as cache:
        await cache.keep(content(600))
        monkeypatch.setattr(Files, "hash_piece", slow)
        late = cache.cache.scrubber.verify()
        async with aclosing(cache.cache.scrubber.verify()) as rows:
            assert await anext(rows) == {"blobs_done": 0, "blobs_total": 1, "bytes_done": 0, "bytes_total": 600}
            with pytest.raises(VerifyRuns, match="runs already; wait until it has ended"):
                cache.cache.scrubber.verify()
            with pytest.raises(VerifyRuns):
                await anext(late)
        gate.set()
        assert (await rows_of(cache.cache.scrubber.verify()))[-1]["summary"]["intact"] == 1


async def test_a_store_without_a_disk_cannot_be_verified(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with opened(tmp_path / "file") as cache:
        with pytest.raises(MillpondError, match=r"there is no cache to verify: .*file cannot be used"):
            cache.cache.scrubber.verify()


async def test_the_scrub_keeps_to_its_rate_and_says_when_it_has_seen_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in bytes and in the seconds it sleeps, not on a clock."""
    monkeypatch.setattr(scrub, "_IDLE_SECONDS", 0.0)
    slept: list[float] = []
    rate, size = 1 << 20, 2 * PIECE + 5

    async def sleep(seconds: float, sleeping: Any = asyncio.sleep) -> None:
        slept.append(seconds)
        await sleeping(0)

    async with opened(tmp_path, scrub_rate=rate) as cache:
        await cache.keep(content(size))
        monkeypatch.setattr(asyncio, "sleep", sleep)
        scrubbing = asyncio.create_task(cache.cache.scrubber.run())
        await wait_until_async(lambda: passed(cache), "all has been seen once")
        scrubbing.cancel()
        await asyncio.gather(scrubbing, return_exceptions=True)
        monkeypatch.undo()
        hashed = cache.metrics.registry.get_sample_value("millpond_scrubbed_bytes_total")
        assert hashed is not None
        assert hashed >= size
        pauses = [seconds for seconds in slept if seconds]
        assert max(pauses) <= PIECE / rate
        assert sum(pauses) >= size / rate
        assert passed(cache) == cache.clock.now


async def test_a_scrub_of_rate_zero_is_over_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        await asyncio.wait_for(cache.cache.scrubber.run(), 10)


async def test_two_passes_go_through_the_directories_in_another_order(tmp_path: Path) -> None:
    """A program that is restarted often sees all of its disk in the end."""
    async with opened(tmp_path, max_size=GIB) as cache:
        for seed in range(30):
            await cache.keep(content(10, seed))
        orders = {tuple(found.digest for found in Files(tmp_path).walk()) for _ in range(3)}
        assert len(orders) > 1
        assert {frozenset(order) for order in orders} == {frozenset(cache.store.digests())}


# The settings


@pytest.mark.parametrize(("written", "rate"), [("0", 0), ("64KiB", 65536), (1000, 1000)])
def test_the_rate_of_the_scrub_is_in_bytes_a_second(tmp_path: Path, written: object, rate: int) -> None:
    config = tmp_path / "millpond.yaml"
    config.write_text(json.dumps({"cache": {"scrub_rate": written}}))
    assert load(config, {}).cache.scrub_rate.bytes == rate


def test_a_share_is_no_rate() -> None:
    with pytest.raises(SettingsError, match=r"cache\.scrub_rate .*'10%' -> .*bytes per second, such as .8MiB."):
        load(None, {"MILLPOND_CACHE__SCRUB_RATE": "10%"})


# The program


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        made.add(IMAGE, REPOSITORY, "1")
        yield made


@pytest.fixture
def millpond(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Millpond:
    """One that has pulled the image."""
    made = start_millpond({"docker.io": upstream.upstream()})
    pull(base(made), IMAGE, "1")
    landed(made)
    upstream.requests.clear()
    return made


def base(millpond: Millpond) -> str:
    return f"{millpond.url}/v2/docker.io/{REPOSITORY}"


def verify(of: command.Configured | Path, *arguments: str) -> command.Done:
    return command.millpond("verify", *arguments, of=of)


def size_of(*digests: str) -> int:
    sizes = {IMAGE.digest: len(IMAGE.body), **{blob.digest: blob.size for blob in IMAGE.all_blobs().values()}}
    return sum(sizes[digest] for digest in digests)


@pytest.mark.parametrize("running", [True, False], ids=["by the running program", "by itself"])
def test_a_damaged_blob_is_found_evicted_and_fetched_again(
    millpond: Millpond, upstream: ScriptedUpstream, running: bool
) -> None:
    """Row 24; P A."""
    if not running:
        assert millpond.terminate() == 0
    done = verify(millpond)
    whole = size_of(*PARTS)
    intact = f"{len(PARTS)} blobs, {whole} bytes: {len(PARTS)} intact, 0 damaged, 0 missing, 0 unreadable\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, intact, "")
    flip_a_bit(millpond.blob_file(LAYER), 100_000, keep_times=True)
    done = verify(millpond)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        f"damaged\t{LAYER}\n"
        f"{len(PARTS)} blobs, {whole} bytes: {len(PARTS) - 1} intact, 1 damaged, 0 missing, 0 unreadable; "
        "what was damaged is gone, and is fetched again when it is asked for\n"
    )
    assert not millpond.blob_file(LAYER).exists()
    if running:
        assert millpond.metric("millpond_verification_failures_total", where="disk") == 1
        assert millpond.metric("millpond_scrubbed_blobs_total", verdict="damaged") == 1
        assert millpond.metric("millpond_scrubbed_bytes_total") == 2 * whole
    else:
        millpond.start()
    pull(base(millpond), IMAGE, "1")
    assert len(upstream.seen(LAYER)) == 1
    landed(millpond)
    assert verify(millpond).returncode == 0
    assert millpond.metric("millpond_cache_bytes") == bytes_on_disk(millpond.cache)


def test_a_terminal_shows_how_far_it_is(millpond: Millpond) -> None:
    flip_a_bit(millpond.blob_file(LAYER), 100_000, keep_times=True)
    code, shown = command.on_terminal("verify", of=millpond)
    assert code == 1
    assert re.search(rf"damaged +{LAYER}", shown)
    assert re.search(rf"{len(PARTS)} of {len(PARTS)} blobs .* kB", shown)
    assert shown.splitlines()[-1].startswith(f"{len(PARTS)} blobs, ")


@pytest.mark.parametrize("running", [True, False], ids=["by the running program", "by itself"])
def test_as_json_each_row_is_a_line_and_the_last_one_a_summary(millpond: Millpond, running: bool) -> None:
    if not running:
        assert millpond.terminate() == 0
    millpond.blob_file(LAYER).unlink()
    done = verify(millpond, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    *found, last = map(json.loads, done.stdout.splitlines())
    assert [row for row in found if "digest" in row] == [{"digest": LAYER, "verdict": "missing"}]
    assert any("bytes_done" in row for row in found)
    assert last["summary"]["missing"] == 1
    assert last["summary"]["intact"] == len(PARTS) - 1


def test_what_the_ledger_does_not_know_is_verified_too_while_nothing_runs(millpond: Millpond) -> None:
    """Row 23; K: a ledger that was lost is no reason to lose the blobs."""
    assert millpond.terminate() == 0
    for file in (millpond.cache / "ledger").iterdir():
        file.unlink()
    flip_a_bit(millpond.blob_file(LAYER), 1, keep_times=True)
    done = verify(millpond)
    assert done.returncode == 1
    assert f"damaged\t{LAYER}" in done.stdout
    assert f"{len(PARTS) - 1} intact, 1 damaged" in done.stdout


def test_without_a_directory_and_without_a_server_it_says_so(tmp_path: Path) -> None:
    config, port = tmp_path / "millpond.yaml", free_port()
    config.write_text(
        json.dumps({"admin": {"listen": f"127.0.0.1:{port}"}, "cache": {"directory": str(tmp_path / "no")}})
    )
    done = verify(config)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"millpond: {tmp_path}/no, which is cache.directory, is not there; and no Millpond answers at 127.0.0.1:{port}"
    )
    assert not (tmp_path / "no").exists()


def test_a_directory_whose_owner_does_not_answer_is_left_alone(tmp_path: Path) -> None:
    """A: two processes never work in one directory."""
    config, port = tmp_path / "millpond.yaml", free_port()
    config.write_text(json.dumps({"admin": {"listen": f"127.0.0.1:{port}"}, "cache": {"directory": str(tmp_path)}}))
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "partial").write_text("")
    lock = DirectoryLock(tmp_path)
    done = verify(config)
    lock.release()
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"millpond: {tmp_path}, which is cache.directory, is another millpond process's; and "
    )
    assert f"no Millpond answers at 127.0.0.1:{port}" in done.stderr
    assert (tmp_path / "incoming" / "partial").exists()


# The API


def post(millpond: Millpond, body: bytes = b"{}", kind: str = "application/json") -> Reply:
    return get(f"{millpond.admin_url}/api/v1/cache/verify", {"Content-Type": kind}, method="POST", content=body)


def test_the_api_refuses_what_makes_no_sense(millpond: Millpond) -> None:
    assert post(millpond, kind="text/plain").status == 415
    reply = post(millpond, b'{"all": true}')
    assert (reply.status, reply.json()) == (400, {"error": "the body is to be an object with no other keys than: none"})
    assert get(f"{millpond.admin_url}/api/v1/cache/verify").status == 405


def test_a_second_verification_is_refused_until_the_first_has_ended_or_its_client_has_left(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    # A file that takes its time: the interpreter makes it so at its start.
    (site / "sitecustomize.py").write_text(
        "import time\nfrom proxy.cache.files import Files\nhash_piece = Files.hash_piece\n"
        "def slow(self, *arguments):\n    time.sleep(3)\n    return hash_piece(self, *arguments)\n"
        "Files.hash_piece = slow\n"
    )
    millpond = start_millpond({"docker.io": upstream.upstream()}, env={"PYTHONPATH": f"{site}:{command.ROOT}"})
    body = b"".join(images.noise(16 * PIECE, 72))
    digest = upstream.add_blob(REPOSITORY, body)
    assert get(f"{base(millpond)}/blobs/{digest}", keep=False).digest == digest
    landed(millpond)
    connection = HTTPConnection("127.0.0.1", millpond.admin_port, timeout=30)
    connection.request("POST", "/api/v1/cache/verify", b"{}", {"Content-Type": "application/json"})
    assert b"bytes_done" in connection.getresponse().readline()
    refused = post(millpond)
    assert refused.status == 409
    assert "runs already" in refused.json()["error"]
    connection.close()

    def admitted() -> bool:
        again = HTTPConnection("127.0.0.1", millpond.admin_port, timeout=30)
        again.request("POST", "/api/v1/cache/verify", b"{}", {"Content-Type": "application/json"})
        status = again.getresponse().status
        again.close()
        return status == 200

    wait_until(admitted, "the first one has ended with its client")
    assert millpond.terminate() == 0  # nor does the end of the program wait for a large file

"""Images brought to the disk before anybody pulls them: over the running program, from a real registry."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.faults import Gate, change, refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import Download, get, opened, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
PATH: Final = "library/tool"
NAME: Final = f"{UPSTREAM}/{PATH}:1"
MIB: Final = 1 << 20

Row = dict[str, Any]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


def image_of(seed: int, size: int = 50_000, architecture: str = "amd64") -> Manifest:
    """An image of two layers, one of which every image has."""
    layers = [images.blob(b"".join(images.noise(size, each)), images.OCI_LAYER) for each in (0, seed)]
    return images.image(layers, architecture=architecture, note=f"{seed}")


@contextmanager
def warming(millpond: Millpond, names: Sequence[str], platforms: Any = "all") -> Iterator[Download]:
    """The answer to a request that has images brought."""
    body = json.dumps({"images": list(names), "platforms": platforms}).encode()
    with opened(
        f"{millpond.admin_url}/api/v1/warm", {"Content-Type": "application/json"}, method="POST", content=body
    ) as answer:
        yield answer


def rows_of(answer: Download) -> Iterator[Row]:
    line = b""
    while byte := answer.read(1):
        line += byte
        if byte == b"\n":
            if line.strip():
                yield json.loads(line)
            line = b""


def warm(millpond: Millpond, *names: str, platforms: Any = "all") -> tuple[dict[str, Row], Row]:
    """The last row of each image, and the summary."""
    with warming(millpond, names, platforms) as answer:
        assert answer.status == 200, answer.read(1000)
        *rows, last = rows_of(answer)
    for row in rows:
        assert row["bytes_done"] <= row["bytes_total"], row
        assert row["blobs_done"] <= row["blobs_total"], row
    return {row["image"]: row for row in rows}, last["summary"]


def base(millpond: Millpond, path: str = PATH) -> str:
    return f"{millpond.url}/v2/{UPSTREAM}/{path}"


def sources(millpond: Millpond, image: Manifest, path: str = PATH, reference: str = "1") -> set[str]:
    return {reply.headers["x-millpond"] for reply in pull(base(millpond, path), image, reference)}


def test_thirty_images_are_brought_from_a_real_registry_each_byte_once_and_then_served_without_it(
    start_millpond: StartMillpond, plain_registry: Registry
) -> None:
    made = {
        f"warm/image-{seed}": images.index([image_of(100 + seed), image_of(200 + seed, architecture="arm64")])
        for seed in range(30)
    }
    for path, image in made.items():
        plain_registry.push(image, path, "1")
    millpond = start_millpond({UPSTREAM: plain_registry.upstream(tag_ttl="1h")})
    blobs = {digest: blob.size for image in made.values() for digest, blob in image.all_blobs().items()}
    rows, summary = warm(millpond, *(f"{UPSTREAM}/{path}:1" for path in made))
    assert summary == {"done": 30, "failed": 0, "bytes": sum(blobs.values())}
    for path, image in made.items():
        row = rows[f"{UPSTREAM}/{path}:1"]
        assert (row["state"], row["reason"]) == ("done", "")
        count, size = len(image.all_blobs()), image.total_size
        assert (row["blobs_done"], row["blobs_total"]) == (count, count)
        assert (row["bytes_done"], row["bytes_total"]) == (size, size)
    with plain_registry.down():
        for path, image in made.items():
            assert sources(millpond, image, path) == {"hit"}
    # Run again, it has nothing to do.
    assert warm(millpond, *(f"{UPSTREAM}/{path}:1" for path in made))[1] == {"done": 30, "failed": 0, "bytes": 0}


def test_only_the_platforms_that_are_named_are_brought_with_their_index(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    amd64, arm64 = image_of(1), image_of(2, architecture="arm64")
    upstream.add(images.index([amd64, arm64]), PATH, "1")
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    rows, summary = warm(millpond, NAME, platforms=["linux/arm64"])
    assert (rows[NAME]["state"], rows[NAME]["blobs_total"]) == ("done", len(arm64.blobs))
    assert summary["bytes"] == sum(blob.size for blob in arm64.blobs)
    assert not upstream.seen(f"manifests/{amd64.digest}")
    rows, _ = warm(millpond, NAME, platforms=["windows/amd64"])
    assert rows[NAME]["state"] == "failed"
    assert rows[NAME]["reason"] == "it has none of the platforms windows/amd64; it has linux/amd64, linux/arm64"


def test_whoever_breaks_off_goes_on_where_it_was(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    """What was under way is brought to its end, and nothing of it comes twice."""
    image = image_of(1, size=3 * MIB)
    upstream.add(image, PATH, "1")
    slow, gate = image.blobs[2].digest, Gate()
    upstream.script(slow, change(gates={2 * MIB: gate}))
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    with warming(millpond, [NAME]) as answer:
        rows = rows_of(answer)
        assert next(row for row in rows if row["blobs_done"] == 2)["state"] == "pulling"
    gate.open()
    landed(millpond)
    rows_again, summary = warm(millpond, NAME)
    assert (rows_again[NAME]["state"], summary["bytes"]) == ("done", 0)
    assert [len(upstream.seen(blob.digest)) for blob in image.blobs] == [1, 1, 1]


def test_progress_is_told_while_a_blob_arrives(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    image = image_of(1, size=20 * MIB)
    upstream.add(image, PATH, "1")
    gate = Gate()
    upstream.script(image.blobs[2].digest, change(gates={16 * MIB: gate}))
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    with warming(millpond, [NAME]) as answer:
        rows = rows_of(answer)
        first = next(rows)
        assert (first["state"], first["bytes_done"]) in (("waiting", 0), ("pulling", 0))
        half = next(row for row in rows if row["blobs_done"] == 2 and row["bytes_done"] >= 32 * MIB)
        assert half["bytes_done"] < half["bytes_total"] == image.total_size
        gate.open()
        *_, last = rows
    assert last["summary"]["done"] == 1


def test_few_blobs_are_brought_at_a_time_by_one_connection_each_however_many_ask(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    gates: dict[str, Gate] = {}
    names = []
    for number in range(2):
        layers = [
            images.blob(b"".join(images.noise(33 * MIB, 10 * number + each)), images.OCI_LAYER) for each in (1, 2, 3)
        ]
        upstream.add(images.image(layers), f"library/image-{number}", "1")
        names.append(f"{UPSTREAM}/library/image-{number}:1")
        for layer in layers:
            gate = gates[layer.digest] = Gate()
            upstream.script(layer.digest, change(gates={MIB: gate}))
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    with warming(millpond, names[:1]) as one, warming(millpond, names[1:]) as other:
        rows = [rows_of(answer) for answer in (one, other)]
        for each in rows:
            assert next(row for row in each if row["blobs_done"] == 1)["blobs_total"] == 4  # its configuration
        wait_until(lambda: sum(gate.reached.is_set() for gate in gates.values()) == 4, "four blobs are on their way")
        assert sum(len(upstream.seen(digest)) for digest in gates) == 4
        flights = get(f"{millpond.admin_url}/api/v1/flights").json()["flights"]
        assert [(flight["spare"], flight["connections"]) for flight in flights] == [(True, 1)] * 4
        for gate in gates.values():
            gate.open()
        assert [list(each)[-1]["summary"]["done"] for each in rows] == [1, 1]


def test_no_blob_is_begun_while_a_client_is_served(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """For a while; here the while is long."""
    (tmp_path / "sitecustomize.py").write_text("import proxy.ecr.courtesy as c\nc.PATIENCE_SECONDS = 600.0\n")
    image, gate = image_of(1), Gate()
    upstream.add(image, PATH, "1")
    awaited = upstream.add_blob(PATH, b"".join(images.noise(4 * MIB, 5)))
    upstream.script(awaited, change(gates={3 * MIB: gate}))
    millpond = start_millpond(
        {UPSTREAM: upstream.upstream()}, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    )
    with opened(f"{base(millpond)}/blobs/{awaited}") as client, warming(millpond, [NAME]) as answer:
        client.read(1)
        rows = rows_of(answer)
        assert next(row for row in rows if row["blobs_total"] == 3)["blobs_done"] == 0
        assert millpond.metric("millpond_flights") == 1, "the client's own"
        gate.open()
        assert client.drain()
        assert list(rows)[-1]["summary"]["done"] == 1


def test_an_image_that_fails_does_not_stop_the_others_and_its_reason_is_told(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    good, broken = image_of(1), image_of(2)
    upstream.add(good, PATH, "1")
    upstream.add(broken, "library/broken", "1")
    upstream.script(broken.blobs[2].digest, then=refuse(404))
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    missing, partial = f"{UPSTREAM}/library/missing:1", f"{UPSTREAM}/library/broken:1"
    rows, summary = warm(millpond, missing, partial, NAME)
    assert (summary["done"], summary["failed"]) == (1, 2)
    assert rows[NAME]["state"] == "done"
    assert "404" in rows[missing]["reason"]
    assert "404 to a request for blobs" in rows[partial]["reason"]


def test_what_is_left_of_a_quota_is_for_clients_and_what_is_here_costs_none(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    here, new = image_of(1), image_of(2)
    upstream.add(here, PATH, "1")
    upstream.add(new, "library/new", "1")
    quota = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "20;w=21600"}
    upstream.script("manifests/", then=change(headers=quota))
    millpond = start_millpond({UPSTREAM: upstream.upstream(tag_ttl="0s")})
    assert get(f"{base(millpond)}/manifests/1").status == 200
    rows, _ = warm(millpond, NAME, f"{UPSTREAM}/library/new:1")
    assert rows[NAME]["state"] == "done"
    assert rows[f"{UPSTREAM}/library/new:1"]["state"] == "failed"
    assert "20 of 100 pulls are left, for clients only" in rows[f"{UPSTREAM}/library/new:1"]["reason"]
    assert not upstream.seen("library/new")


def test_an_upstream_that_limits_is_waited_for(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    image = image_of(1)
    upstream.add(image, PATH, "1")
    upstream.script("manifests/1", refuse(429, retry_after="2"))
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    with warming(millpond, [NAME]) as answer:
        rows = list(rows_of(answer))
    [limited] = {row["reason"] for row in rows if row.get("state") == "waiting" and row["reason"]}
    assert "limits requests for manifests" in limited
    assert rows[-1]["summary"]["done"] == 1


def test_what_the_disk_does_not_take_is_not_downloaded_for_nothing(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    image = image_of(1, size=2 * MIB)
    upstream.add(image, PATH, "1")
    millpond = start_millpond({UPSTREAM: upstream.upstream()}, cache={"max_size": "1MiB"})
    rows, summary = warm(millpond, NAME)
    assert (rows[NAME]["state"], summary["failed"]) == ("failed", 1)
    assert "the disk cache does not keep it" in rows[NAME]["reason"]
    assert upstream.sent_of(image.blobs[2].digest) == 0


def test_layers_that_no_registry_hands_out_are_left_out(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    foreign = images.foreign_layer("https://example.invalid/layer")
    image = images.image([images.blob(b"layer", images.OCI_LAYER), foreign])
    upstream.add(image, PATH, "1")
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    rows, _ = warm(millpond, NAME)
    assert (rows[NAME]["state"], rows[NAME]["blobs_total"]) == ("done", 2)
    assert not upstream.seen(foreign.digest)


@pytest.mark.parametrize(
    ("names", "platforms", "told"),
    [
        (["registry.example.com/x:1"], "all", "known are"),
        ([NAME], ["linux"], "os/architecture"),
        ([NAME], [], "no platforms are named"),
        ([f"{NAME}{number}" for number in range(2000)], "all", "2001 images are too many"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_begins(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, names: list[str], platforms: Any, told: str
) -> None:
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    with warming(millpond, [*names, NAME], platforms) as answer:
        assert answer.status == 400
        assert told in json.loads(answer.read(100_000))["error"]
    assert not upstream.requests

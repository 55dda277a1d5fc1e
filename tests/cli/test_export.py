"""`millpond export` and `millpond import`: images on a stick, between machines that no network joins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.cache.lock import DirectoryLock
from tests.cache.disks import bytes_on_disk, flip_a_bit, landed
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.command import millpond, on_terminal, refused, well
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.programs import program, require, run
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

BODY: Final = b"".join(images.noise(3_000_000, 41))
AMD64: Final = images.image([images.blob(BODY, images.OCI_LAYER)])
ARM64: Final = images.image([images.blob(BODY[:70_000], images.OCI_LAYER)], architecture="arm64")
SEVERAL: Final = images.index([AMD64, ARM64])
SINGLE: Final = images.image([images.blob(BODY[:50_000], images.OCI_LAYER)], note="single")
SIGNATURE_TAG, SIGNATURE = images.signature(SEVERAL)


def base(millpond: Millpond, name: str) -> str:
    return f"{millpond.url}/v2/docker.io/library/{name}"


@dataclass
class Sites:
    """One that reaches the upstream and has everything, and one that never reached anything."""

    here: Millpond
    there: Millpond
    stick: Path


@pytest.fixture
def sites(start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Sites]:
    upstream.add(SEVERAL, "library/several", "1", "latest")
    upstream.add(SINGLE, "library/single", "1")
    upstream.add(SIGNATURE, "library/several", SIGNATURE_TAG)
    here = start_millpond({"docker.io": upstream.upstream()})
    pull(base(here, "several"), SEVERAL, "1")
    pull(base(here, "several"), SIGNATURE, SIGNATURE_TAG)
    pull(base(here, "single"), SINGLE, "1")
    landed(here)
    assert here.terminate() == 0
    upstream.stop()
    there = Millpond({"upstreams": {"docker.io": upstream.upstream()}}, tmp_path / "there")
    yield Sites(here, there, tmp_path / "stick")
    there.stop()
    assert not there.complaints(), "\n".join(there.complaints())


def names_in(stick: Path) -> dict[str, str]:
    """Digests by the names of a layout."""
    entries = json.loads((stick / "index.json").read_text())["manifests"]
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}


def blobs_in(stick: Path) -> set[str]:
    return {f"sha256:{file.name}" for file in (stick / "blobs" / "sha256").iterdir()}


def parts(*trees: Manifest) -> set[str]:
    return {digest for tree in trees for digest in (*tree.all_blobs(), *(part.digest for part in tree.walk()))}


def blob_file(stick: Path, digest: str) -> Path:
    return stick / "blobs" / "sha256" / digest.partition(":")[2]


@pytest.mark.parametrize("served", [True, False], ids=["by the running program", "by itself"])
def test_what_is_exported_here_is_served_there_while_upstream_is_down(sites: Sites, served: bool) -> None:
    """P A: all of it, by tag and by digest, with the signature."""
    if served:
        sites.here.start()
        sites.there.start()
    shown = well("export", str(sites.stick), of=sites.here)
    assert shown.splitlines()[-1].startswith("3 images exported, 3.")
    assert names_in(sites.stick) == {
        "docker.io/library/several:1": SEVERAL.digest,
        f"docker.io/library/several:{SIGNATURE_TAG}": SIGNATURE.digest,
        "docker.io/library/single:1": SINGLE.digest,
    }
    assert blobs_in(sites.stick) == parts(SEVERAL, SINGLE, SIGNATURE)
    assert well("import", str(sites.stick), of=sites.there).splitlines()[-1].startswith("3 images imported, 3.")
    if not served:
        sites.there.start()
    pull(base(sites.there, "several"), SEVERAL, "1")
    pull(base(sites.there, "several"), SEVERAL, SEVERAL.digest)
    pull(base(sites.there, "several"), SIGNATURE, SIGNATURE_TAG)
    pull(base(sites.there, "single"), SINGLE, "1")
    assert get(f"{base(sites.there, 'other')}/blobs/{AMD64.blobs[1].digest}").status != 200, "S: under its name only"
    assert sites.there.metric("millpond_cache_bytes") == bytes_on_disk(sites.there.cache)
    assert not sites.there.incoming()


def test_what_is_there_already_is_neither_written_nor_sent_again(sites: Sites) -> None:
    well("export", str(sites.stick), "single:1", of=sites.here)
    written = blob_file(sites.stick, SINGLE.digest).stat().st_mtime_ns
    *_, last = map(json.loads, well("export", str(sites.stick), "--json", of=sites.here).splitlines())
    assert last["summary"]["done"] == 3
    assert last["summary"]["bytes"] == sum(map(size_of, parts(SEVERAL, SIGNATURE) - parts(SINGLE)))
    assert blob_file(sites.stick, SINGLE.digest).stat().st_mtime_ns == written
    assert len(names_in(sites.stick)) == 3
    well("import", str(sites.stick), "single:1", of=sites.there)
    *_, last = map(json.loads, well("import", str(sites.stick), "--json", of=sites.there).splitlines())
    assert last["summary"]["bytes"] == sum(map(size_of, parts(SEVERAL, SIGNATURE) - parts(SINGLE)))
    *_, last = map(json.loads, well("import", str(sites.stick), "--json", of=sites.there).splitlines())
    assert last == {"summary": {"done": 3, "failed": 0, "bytes": 0}}


def size_of(digest: str) -> int:
    sizes = {part.digest: len(part.body) for tree in (SEVERAL, SINGLE, SIGNATURE) for part in tree.walk()}
    sizes |= {each: blob.size for tree in (SEVERAL, SINGLE, SIGNATURE) for each, blob in tree.all_blobs().items()}
    return sizes[digest]


def test_an_image_comes_with_its_signature_and_without_its_neighbours(sites: Sites) -> None:
    well("export", str(sites.stick), "several:1", of=sites.here)
    assert set(names_in(sites.stick)) == {
        "docker.io/library/several:1",
        f"docker.io/library/several:{SIGNATURE_TAG}",
    }


def test_of_an_index_only_what_is_wanted_goes_along(sites: Sites) -> None:
    shown = well("export", str(sites.stick), "several:1", "--platform", "linux/arm64", of=sites.here)
    assert "without 1 of its platforms" in shown
    assert blobs_in(sites.stick) == parts(ARM64, SIGNATURE) | {SEVERAL.digest}
    assert "without 1 of its platforms" in well("import", str(sites.stick), of=sites.there)
    sites.there.start()
    pull(base(sites.there, "several"), ARM64, ARM64.digest)
    assert get(f"{base(sites.there, 'several')}/manifests/1").digest == SEVERAL.digest
    assert get(f"{base(sites.there, 'several')}/manifests/{AMD64.digest}").status in (502, 504)


def test_an_image_that_is_not_whole_is_named_and_the_others_are_exported(sites: Sites) -> None:
    """K: nobody takes half an image for one."""
    sites.here.blob_file(SINGLE.blobs[1].digest).unlink()
    done = millpond("export", str(sites.stick), of=sites.here)
    assert (done.returncode, done.stderr) == (1, "")
    line = next(line for line in done.stdout.splitlines() if line.startswith("failed"))
    assert line == (
        "failed\tdocker.io/library/single:1\t"
        "1 of its 2 blobs are not there; `millpond warm docker.io/library/single:1` brings what is missing"
    )
    assert done.stdout.splitlines()[-1].endswith(", 1 failed")
    assert "docker.io/library/single:1" not in names_in(sites.stick)


def test_damage_on_the_disk_does_not_go_along(sites: Sites) -> None:
    """P."""
    layer = AMD64.blobs[1].digest
    flip_a_bit(sites.here.blob_file(layer), 2_000_000, keep_times=True)
    done = millpond("export", str(sites.stick), of=sites.here)
    assert done.returncode == 1
    assert f"{layer} on disk is damaged; `millpond verify` evicts all that is" in done.stdout
    assert not blob_file(sites.stick, layer).exists()
    assert not list(sites.stick.rglob("*.part"))
    assert "docker.io/library/several:1" not in names_in(sites.stick)


@pytest.mark.parametrize("served", [True, False], ids=["by the running program", "by itself"])
def test_damage_on_the_stick_does_not_come_in(sites: Sites, served: bool) -> None:
    """P A: the image fails, the others come."""
    well("export", str(sites.stick), of=sites.here)
    layer = SINGLE.blobs[1].digest
    flip_a_bit(blob_file(sites.stick, layer), 40_000, keep_times=True)
    if served:
        sites.there.start()
    done = millpond("import", str(sites.stick), of=sites.there)
    assert (done.returncode, done.stderr) == (1, "")
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert len(failed) == 1
    assert f"single:1\t{layer} is damaged" in failed[0]
    assert not sites.there.blob_file(layer).exists()
    if not served:
        sites.there.start()
    assert get(f"{base(sites.there, 'single')}/manifests/1").status != 200
    pull(base(sites.there, "several"), SEVERAL, "1")
    assert sites.there.metric("millpond_cache_bytes") == bytes_on_disk(sites.there.cache)
    assert not sites.there.incoming()


def test_a_damaged_manifest_on_the_stick_does_not_come_in(sites: Sites) -> None:
    """P."""
    well("export", str(sites.stick), of=sites.here)
    flip_a_bit(blob_file(sites.stick, SINGLE.digest), 100, keep_times=True)
    done = millpond("import", str(sites.stick), of=sites.there)
    assert done.returncode == 1
    assert re.search(r"failed\tdocker.io/library/single:1\t.*" + SINGLE.digest, done.stdout)


def test_what_has_no_place_in_the_cache_is_refused_before_anything_goes(sites: Sites) -> None:
    """A: what is there is not thrown out for images that do not fit either way."""
    well("export", str(sites.stick), of=sites.here)
    sites.there.configure({**sites.there.config, "cache": {"max_size": 1_000_000}})
    told = refused("import", str(sites.stick), of=sites.there)
    assert re.search(r"\d MiB are more than cache.max_size; make that larger", told)
    assert bytes_on_disk(sites.there.cache) == 0


def test_a_terminal_shows_bars_and_what_has_ended(sites: Sites) -> None:
    code, shown = on_terminal("export", str(sites.stick), of=sites.here)
    assert code == 0
    assert re.search(r"done +docker.io/library/several:1 +2\.\d MiB", shown)
    assert "3 of 3 images" in shown
    assert "3 images exported" in shown.splitlines()[-1]


def rename(stick: Path, annotations: dict[str, Any]) -> None:
    """Call the only image of a layout something else."""
    document = json.loads((stick / "index.json").read_text())
    document["manifests"][0]["annotations"] = annotations
    (stick / "index.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ({}, "it has no whole name in the layout"),
        ({"org.opencontainers.image.ref.name": "1"}, "it has no whole name in the layout"),
        ({"io.containerd.image.name": "registry.example.test/app:1"}, "no upstream 'registry.example.test'"),
        ({"io.containerd.image.name": "docker.io/library/UPPER:1"}, "is not a repository name"),
        ({"io.containerd.image.name": f"single@sha256:{'0' * 64}"}, f"its name says sha256:{'0' * 64}, and it is"),
    ],
)
def test_an_image_that_nobody_knows_what_to_call_is_refused(
    sites: Sites, annotations: dict[str, Any], complaint: str
) -> None:
    """S: a tag is not taken for a repository, nor a name for what it is not."""
    well("export", str(sites.stick), "single:1", of=sites.here)
    rename(sites.stick, annotations)
    done = millpond("import", str(sites.stick), of=sites.there)
    assert done.returncode == 1
    assert complaint in done.stdout
    assert bytes_on_disk(sites.there.cache) == 0


def test_a_directory_that_is_no_layout_is_left_as_it_is(sites: Sites) -> None:
    sites.stick.mkdir()
    (sites.stick / "thesis.txt").write_text("")
    assert "is neither empty nor an OCI layout; name another directory" in refused(
        "export", str(sites.stick), of=sites.here
    )
    assert "is not an OCI layout: it has no oci-layout" in refused("import", str(sites.stick), of=sites.there)
    assert [file.name for file in sites.stick.iterdir()] == ["thesis.txt"]


def test_what_is_not_there_is_named(sites: Sites) -> None:
    told = refused("export", str(sites.stick), "nginx", of=sites.here)
    assert "docker.io/library/nginx:latest is not in the cache; `millpond warm" in told
    well("export", str(sites.stick), "single:1", of=sites.here)
    assert "the layout has no docker.io/library/nginx:latest" in refused(
        "import", str(sites.stick), "nginx", of=sites.there
    )


def test_a_directory_whose_owner_does_not_answer_is_left_alone(sites: Sites) -> None:
    """A: two processes never work in one directory."""
    well("export", str(sites.stick), of=sites.here)
    sites.there.cache.mkdir(parents=True)
    lock = DirectoryLock(sites.there.cache)
    assert "no Millpond answers" in refused("import", str(sites.stick), of=sites.there)
    lock.release()
    assert not (sites.there.cache / "blobs").exists()


def test_who_cannot_prove_to_be_its_operator_brings_nothing_in(sites: Sites) -> None:
    """S: on this machine others may change some things, but not what an image's name stands for."""
    sites.there.start()
    url = f"{sites.there.admin_url}/api/v1/import/manifest?image=single:1"
    kind = {"Content-Type": SINGLE.media_type}
    reply = get(url, kind, method="POST", content=SINGLE.body)
    assert reply.status == 401
    assert "an import needs the token of this server" in reply.json()["error"]
    proof = {"Authorization": f"Bearer {(sites.there.cache / 'admin-token').read_text()}"}
    assert get(url, {**kind, **proof}, method="POST", content=SINGLE.body).json() == {"kept": SINGLE.digest}
    wrong = get(f"{url}@sha256:{'0' * 64}", {**kind, **proof}, method="POST", content=SINGLE.body)
    assert wrong.status == 400
    wrong = get(
        f"{sites.there.admin_url}/api/v1/import/blob?digest={SINGLE.digest}",
        {"Content-Type": "application/octet-stream", **proof},
        method="POST",
        content=SINGLE.body + b" ",
    )
    assert wrong.status == 400
    assert "is damaged" in wrong.json()["error"]
    assert not sites.there.incoming()


def test_an_import_that_is_broken_off_leaves_nothing_behind_and_goes_on_later(sites: Sites) -> None:
    """A H."""
    well("export", str(sites.stick), of=sites.here)
    sites.there.start()
    layer = AMD64.blobs[1]
    connection = HTTPConnection("127.0.0.1", sites.there.admin_port, timeout=30)
    connection.putrequest("POST", f"/api/v1/import/blob?digest={layer.digest}")
    connection.putheader("Authorization", f"Bearer {(sites.there.cache / 'admin-token').read_text()}")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(layer.size))
    connection.endheaders(layer.read()[:2_000_000])
    wait_until(sites.there.incoming, "it is arriving")
    connection.close()
    wait_until(lambda: not sites.there.incoming(), "what has arrived is gone")
    assert sites.there.metric("millpond_cache_bytes") == bytes_on_disk(sites.there.cache) == 0
    well("import", str(sites.stick), of=sites.there)
    pull(base(sites.there, "several"), SEVERAL, "1")


@pytest.mark.clients
def test_skopeo_reads_what_we_write_and_we_read_what_skopeo_writes(sites: Sites, tmp_path: Path) -> None:
    require("skopeo")
    well("export", str(sites.stick), "single:1", of=sites.here)
    copy = tmp_path / "copy"
    run(
        [
            program("skopeo"),
            "copy",
            "--insecure-policy",
            "--preserve-digests",
            f"oci:{sites.stick}:docker.io/library/single:1",
            f"oci:{copy}:docker.io/library/renamed:2",
        ]
    )
    well("import", str(copy), of=sites.there)
    sites.there.start()
    pull(base(sites.there, "renamed"), SINGLE, "2")


def test_what_is_damaged_on_the_stick_is_written_anew_by_the_next_export(sites: Sites) -> None:
    well("export", str(sites.stick), of=sites.here)
    layer = SINGLE.blobs[1].digest
    flip_a_bit(blob_file(sites.stick, layer), 40_000, keep_times=True)
    well("export", str(sites.stick), of=sites.here)
    assert images.blob(blob_file(sites.stick, layer).read_bytes()).digest == layer


def test_a_file_of_the_cache_that_cannot_be_read_fails_its_image_only(sites: Sites) -> None:
    """A directory in its place: whoever runs the tests may be root, whom no mode keeps out."""
    file = sites.here.blob_file(SINGLE.blobs[1].digest)
    file.unlink()
    file.mkdir()
    done = millpond("export", str(sites.stick), of=sites.here)
    assert (done.returncode, done.stderr) == (1, "")
    assert "docker.io/library/several:1" in names_in(sites.stick)
    assert "cannot be read in cache.directory" in done.stdout

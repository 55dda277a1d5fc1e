"""`millpond ecr` as its operator runs it beside the whole program, with two accounts behind it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartMillpond
from tests.ecr.fleet import DEV, PROD, ROLE, Fleet, targets
from tests.support import command, images
from tests.support.ecr import EcrDouble
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.registry import Registry
from tests.support.waiting import wait_until

_ROOT: Final = Path(__file__).parents[2]
_SHORT: Final = len("sha256:") + 12  # of a digest, as the commands show it
_numbers = itertools.count()


@pytest.fixture
def fleet(cloud: EcrDouble, plain_registry: Registry) -> Fleet:
    return Fleet(cloud, plain_registry)


@pytest.fixture
def millpond(start_millpond: StartMillpond, fleet: Fleet, cloud: EcrDouble) -> Millpond:
    """A Millpond whose docker.io is the plain registry, with both accounts as targets."""
    return start_millpond({"docker.io": fleet.upstream.upstream()}, env=cloud.environment, ecr=targets(cloud))


def ecr(millpond: Millpond, *arguments: str, typed: str = "") -> command.Done:
    """Run `millpond ecr` with the configuration of the one that runs; nothing else tells it where that is."""
    return command.millpond("ecr", *arguments, of=millpond, typed=typed)


def status(millpond: Millpond) -> dict[str, Any]:
    """What `status --json` prints."""
    done = ecr(millpond, "status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def repository(name: str) -> str:
    """One that no other test has used: the upstream registry is shared."""
    return f"operating/{name}-{next(_numbers)}"


def test_a_sync_brings_images_that_nobody_pulled_to_where_the_plan_said(
    millpond: Millpond, fleet: Fleet, images_directory: Path
) -> None:
    index = images.index(
        [images.simple_image(images_directory, seed=810 + n, architecture=a) for n, a in enumerate(("amd64", "arm64"))]
    )
    made: dict[str, Manifest] = {
        repository("app"): images.simple_image(images_directory, seed=800, layers=2),
        repository("platforms"): index,
        repository("chart"): images.chart(seed=80),
    }
    for path, image in made.items():
        fleet.upstream.push(image, path, "1")
    plan = ecr(millpond, "plan", *made)
    assert (plan.returncode, plan.stderr) == (0, "")
    planned = [{found["name"] for found in target["repositories"]} for target in json.loads(plan.stdout)["targets"]]
    assert not any(registry.repositories for registry in fleet.registries)
    first, *others = made
    listed = "".join(f"docker.io/{path}:1\n" for path in others)
    done = ecr(millpond, "sync", f"{first}:1", "--file", "-", typed=f"# what we deploy\n\n{listed}")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "6 done, 0 failed"
    for path, image in made.items():
        for name in ("dev", "prod"):
            states = [line.split("\t")[0] for line in lines if line.split("\t")[1:3] == [name, f"docker.io/{path}:1"]]
            assert states[-1] == "done"
            assert set(states) <= {"queued", "pushing", "done"}
        assert not fleet.lacks(image, path, "1")
    assert [set(registry.repositories) for registry in fleet.registries] == planned


def test_a_sync_for_programs_has_lines_of_json_with_the_bytes_of_each_target(
    millpond: Millpond, fleet: Fleet, images_directory: Path
) -> None:
    path, image = repository("json"), images.simple_image(images_directory, seed=820, layers=3)
    fleet.upstream.push(image, path, "1")
    done = ecr(millpond, "sync", "--json", f"{path}:1", f"{path}:missing")
    assert (done.returncode, done.stderr) == (1, "")
    *rows, last = map(json.loads, done.stdout.splitlines())
    assert last == {"summary": {"done": 2, "failed": 1}}
    for name in ("dev", "prod"):
        *_, ended = [row for row in rows if row["target"] == name]
        assert (ended["image"], ended["state"]) == (f"docker.io/{path}:1", "done")
        assert ended["bytes_done"] == ended["bytes_total"] == image.total_size
    [missing] = [row for row in rows if row["target"] is None]
    assert (missing["image"], missing["state"]) == (f"docker.io/{path}:missing", "failed")
    assert missing["reason"]


def test_a_comparison_is_the_same_until_one_account_has_lost_an_image_and_again_after_a_sync(
    millpond: Millpond, fleet: Fleet, images_directory: Path
) -> None:
    path, image = repository("compared"), images.simple_image(images_directory, seed=830)
    name, digest = f"docker.io/{path}:1", image.digest[:_SHORT]
    fleet.upstream.push(image, path, "1")
    pull(f"{millpond.url}/v2/docker.io/{path}", image, "1")
    fleet.arrived(image, path, "1")
    same = f"same\t{name}\tdisk: {digest}\tupstream: {digest}\tdev: {digest}\tprod: {digest}"
    done = ecr(millpond, "verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [same, "1 same, 0 differs, 0 unverified"]
    _, prod = fleet.registries
    prod.repositories[f"docker.io/{path}"].lose_image(image.digest)
    done = ecr(millpond, "verify", name)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        same.replace("same", "differs").replace(f"prod: {digest}", "prod: not there"),
        "0 same, 1 differs, 0 unverified",
    ]
    done = ecr(millpond, "verify", "--json")
    assert done.returncode == 1
    row, summary = map(json.loads, done.stdout.splitlines())
    assert (row["verdict"], summary["summary"]["differs"]) == ("differs", 1)
    assert row["targets"]["dev"]["digest"] == row["upstream"]["digest"] == row["disk"]["digest"] == image.digest
    assert row["targets"]["prod"] == {"digest": None, "note": "not there", "failed": False}
    assert ecr(millpond, "sync", name).returncode == 0
    assert not fleet.lacks(image, path, "1")
    done = ecr(millpond, "verify", name, f"docker.io/{path}@{image.digest}")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 same, 0 differs, 0 unverified")


def test_a_comparison_with_an_account_that_does_not_answer_is_no_agreement(
    millpond: Millpond, fleet: Fleet, cloud: EcrDouble, images_directory: Path
) -> None:
    path, image = repository("silent"), images.simple_image(images_directory, seed=840)
    fleet.upstream.push(image, path, "1")
    assert ecr(millpond, "sync", f"{path}:1").returncode == 0
    cloud.deny("BatchGetImage", principal=ROLE)
    done = ecr(millpond, "verify", "--json", f"{path}:1")
    assert done.returncode == 1
    row, summary = map(json.loads, done.stdout.splitlines())
    assert summary == {"summary": {"same": 0, "differs": 0, "unverified": 1}}
    assert row["targets"]["prod"]["failed"]
    assert "AccessDeniedException" in row["targets"]["prod"]["note"]


def test_what_one_account_rejects_is_in_the_status_with_its_reason_and_gets_there_by_a_retry(
    millpond: Millpond, fleet: Fleet, cloud: EcrDouble, images_directory: Path
) -> None:
    path, image = repository("rejected"), images.simple_image(images_directory, seed=850)
    name = f"docker.io/{path}:1"
    fleet.upstream.push(image, path, "1")
    cloud.fail("PutImage", "InvalidParameterException", message="no such type here", account=PROD[0])
    done = ecr(millpond, "sync", name)
    assert (done.returncode, done.stderr) == (1, "")
    *lines, last = done.stdout.splitlines()
    assert last == "1 done, 1 failed"
    [rejected] = [line for line in lines if line.startswith(f"rejected\tprod\t{name}\t")]
    assert "no such type here" in rejected

    found = status(millpond)
    accounts = [(one["name"], one["registry"], one["state"], one["done"], one["rejected"]) for one in found["targets"]]
    assert accounts == [
        ("dev", f"{DEV[0]}.dkr.ecr.{DEV[1]}.amazonaws.com", "ok", 1, 0),
        ("prod", f"{PROD[0]}.dkr.ecr.{PROD[1]}.amazonaws.com", "ok", 0, 1),
    ]
    first, second = found["jobs"]
    assert (first["target"], first["state"], first["tags"]) == ("prod", "rejected", ["1"])
    assert "no such type here" in first["reason"]
    assert (second["target"], second["state"], second["reason"]) == ("dev", "done", "")
    lines = ecr(millpond, "status").stdout.splitlines()
    [failed] = [line for line in lines if line.startswith("job\tprod\t")]
    assert failed.split("\t")[2:4] == [f"{name}@{image.digest[:_SHORT]}", "rejected"]

    done = ecr(millpond, "retry", "--target", "prod", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 image begins at once\n", "")
    fleet.arrived(image, path, "1")
    wait_until(lambda: [job["state"] for job in status(millpond)["jobs"]] == ["done", "done"], "the status says so")
    assert ecr(millpond, "retry").stdout == "0 images begin at once\n"


def test_an_account_that_refuses_does_not_keep_a_sync_waiting(
    millpond: Millpond, fleet: Fleet, cloud: EcrDouble, images_directory: Path
) -> None:
    path, image = repository("refused"), images.simple_image(images_directory, seed=860)
    fleet.upstream.push(image, path, "1")
    cloud.deny("*", principal=ROLE)
    done = ecr(millpond, "sync", f"{path}:1")
    assert (done.returncode, done.stderr) == (1, "")
    *lines, last = done.stdout.splitlines()
    assert last == "1 done, 1 failed"
    [waiting] = [line for line in lines if line.startswith("waiting\tprod\t")]
    assert "AccessDeniedException" in waiting
    [prod] = [line for line in ecr(millpond, "status").stdout.splitlines() if line.startswith("target\tprod\t")]
    assert ROLE in prod.split("\t")[3]
    cloud.behave()
    assert ecr(millpond, "retry").stdout == "1 image begins at once\n"
    fleet.arrived(image, path, "1")


def test_what_was_pushed_a_moment_ago_is_read_from_ecr_though_it_was_missing_before(
    start_millpond: StartMillpond, fleet: Fleet, cloud: EcrDouble, images_directory: Path, tmp_path: Path
) -> None:
    """A push that ends makes the readers forget what they missed, which is made to last for ever here."""
    (tmp_path / "sitecustomize.py").write_text("import proxy.pull.near\nproxy.pull.near.MISS_SECONDS = 1e6\n")
    unforgetting = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}"}
    upstreams = {"docker.io": fleet.upstream.upstream()}
    millpond = start_millpond(upstreams, env=cloud.environment | unforgetting, ecr=targets(cloud))
    path, image = repository("again"), images.simple_image(images_directory, seed=830, layers=2)
    fleet.upstream.push(image, path, "1")
    base = f"{millpond.url}/v2/docker.io/{path}"
    pull(base, image, "1")
    fleet.arrived(image, path, "1")
    wait_until(lambda: status(millpond)["targets"][0]["done"] == 1, "the push to dev has ended")
    layer = image.blobs[-1]
    millpond.blob_file(layer.digest).write_bytes(b"damaged")
    fleet.upstream.forget()
    reply = get(f"{base}/blobs/{layer.digest}")
    assert (reply.headers["x-millpond"], reply.body) == ("ecr", layer.read())
    assert fleet.upstream.served(f"/{path}/", "GET") == []

"""Rows 38 and 42 to 48 through the whole program: ECR fails, refuses, lies or is slow, and no client notices."""

from __future__ import annotations

import copy
import itertools
import math
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.ecr.calls import TRIES
from proxy.ecr.worker import FIRST_PAUSE
from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.ecr.fleet import DEV, PROD, ROLE, Fleet, lose_the_disk, noted, targets
from tests.support import images
from tests.support.ecr import Call, EcrDouble
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, opened, pull
from tests.support.registry import Registry
from tests.support.waiting import wait_until

HELM: Final = "application/vnd.cncf.helm.config.v1+json"
# A pull that ECR makes wait has this long, in seconds: three times the deadline that `impatient` sets, and a cold pull
# on a busy machine. Without a deadline it would take a minute.
BOUND: Final = 10.0

LIFECYCLE: Final = (
    '{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "untagged", "countType": "sinceImagePushed", '
    '"countUnit": "days", "countNumber": 9}, "action": {"type": "expire"}}]}'
)
ACCESS: Final = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "ecr:*"}]}'

_numbers = itertools.count()


@dataclass
class Site:
    """Two accounts, the upstream, and Millponds before them."""

    fleet: Fleet
    start_millpond: StartMillpond
    directory: Path

    @property
    def cloud(self) -> EcrDouble:
        return self.fleet.cloud

    def start(self, environment: dict[str, str] | None = None, **prod: Any) -> Millpond:
        """One more Millpond; `environment` is set beside that of the cloud, `prod` for that target alone."""
        section = targets(self.cloud)
        section["targets"][1].update(prod)
        return self.start_millpond(
            {"docker.io": self.fleet.upstream.upstream()},
            env={**self.cloud.environment, **(environment or {})},
            ecr=section,
        )

    def impatient(self) -> dict[str, str]:
        """The environment of a Millpond that tries again soon where it usually pauses for long.

        The program is the real one; only these constants are others, which the interpreter sets at start.
        """
        directory = self.directory / "impatient"
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(
            "import proxy.ecr.calls, proxy.ecr.repositories, proxy.ecr.worker, proxy.pull.near\n"
            "proxy.ecr.calls.FIRST_WAIT, proxy.ecr.calls.LONGEST_WAIT = 0.02, 0.1\n"
            "proxy.ecr.worker.LAST_PAUSE = 2.0\n"
            "proxy.ecr.worker.OFF_PAUSE = proxy.ecr.repositories.OFF_SECONDS = 1.0\n"
            "proxy.pull.near.ECR_DEADLINE = 0.5\n"
        )
        return {"PYTHONPATH": f"{directory}{os.pathsep}{Path(__file__).parents[2]}"}

    def image(self, name: str, image: Manifest) -> str:
        """Have upstream hold the image as `1` in a repository that no other test uses, whose path comes back."""
        path = f"faults/{name}-{next(_numbers)}"
        self.fleet.upstream.push(image, path, "1")
        return path

    def calls(self, operation: str, account: str | None = None) -> Counter[str]:
        """How many calls there have been, by outcome."""
        found = [call for call in list(self.cloud.calls) if call.operation == operation]
        return Counter(call.outcome for call in found if account in (None, call.account))


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as made:
        yield made


@pytest.fixture
def site(cloud: EcrDouble, plain_registry: Registry, start_millpond: StartMillpond, tmp_path: Path) -> Site:
    return Site(Fleet(cloud, plain_registry), start_millpond, tmp_path)


def base(millpond: Millpond, path: str) -> str:
    return f"{millpond.url}/v2/docker.io/{path}"


def status(millpond: Millpond) -> dict[str, Any]:
    reply = get(f"{millpond.admin_url}/api/v1/ecr")
    assert reply.status == 200
    found: dict[str, Any] = reply.json()
    return found


def target(millpond: Millpond, name: str) -> dict[str, Any]:
    [found] = [found for found in status(millpond)["targets"] if found["name"] == name]
    return dict(found)


def jobs(millpond: Millpond, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The jobs of this repository that have these fields."""
    found = [job for job in status(millpond)["jobs"] if job["repository"] == f"docker.io/{path}"]
    return [job for job in found if all(job[name] == value for name, value in fields.items())]


def until_jobs(millpond: Millpond, path: str, count: int = 2, **fields: Any) -> list[dict[str, Any]]:
    """Wait until so many jobs of the repository have these fields; they come back."""

    def found() -> list[dict[str, Any]]:
        these = jobs(millpond, path, **fields)
        return these if len(these) == count else []

    try:
        return wait_until(found, f"{count} jobs with {fields}")
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {jobs(millpond, path)}") from None


def known(millpond: Millpond, *made: Manifest) -> bool:
    """Whether the cache has noted all of these images."""
    keys = on_disk(millpond, "ledger")
    manifests, blobs = ({key[-1] for key in keys if key[0] == kind} for kind in "mb")
    return all(image.digest in manifests and image.all_blobs().keys() <= blobs for image in made)


def on_disk(millpond: Millpond, ledger: str) -> list[list[str]]:
    """The keys that one of its ledgers has on the disk, as words; none while it is being written."""
    try:
        with closing(sqlite3.connect(f"file:{millpond.cache}/{ledger}/cache.db?mode=ro", uri=True)) as database:
            return [key.split(" ") for (key,) in database.execute("SELECT key FROM Cache")]
    except sqlite3.OperationalError:
        return []


def retry(millpond: Millpond, **body: str) -> int:
    """What was rejected or waits begins at once; how many."""
    content = "{" + ", ".join(f'"{key}": "{value}"' for key, value in body.items()) + "}"
    reply = get(
        f"{millpond.admin_url}/api/v1/ecr/retry",
        {"Content-Type": "application/json"},
        method="POST",
        content=content.encode(),
    )
    assert reply.status == 200, reply.text
    return int(reply.json()["retried"])


def small(directory: Path, seed: int, layers: int = 1) -> Manifest:
    return images.simple_image(directory, seed=seed, layers=layers, size=20_000)


def tiers_of(replies: list[Reply], image: Manifest) -> dict[str, str]:
    """Where each part of one pull came from, by digest."""
    found = {reply.headers["docker-content-digest"]: reply.headers["x-millpond"] for reply in replies}
    assert set(found) == {image.digest, *image.all_blobs()}
    return found


def test_a_blob_that_ecr_holds_for_one_repository_is_not_given_to_clients_of_another(
    site: Site, images_directory: Path
) -> None:
    """Row 38; S: neither while upstream says no, nor while it cannot be asked."""
    private, public = small(images_directory, 700), small(images_directory, 701)
    hidden, shown = site.image("private", private), site.image("public", public)
    millpond = site.start()
    for path, image in ((hidden, private), (shown, public)):
        pull(base(millpond, path), image, "1")
        site.fleet.arrived(image, path, "1")
    lose_the_disk(millpond)
    secret = private.blobs[1].digest
    assert get(f"{base(millpond, shown)}/blobs/{secret}").status == 404
    with site.fleet.upstream.down():
        lose_the_disk(millpond)
        reply = get(f"{base(millpond, shown)}/blobs/{secret}")
        assert (reply.status, len(reply.body) < 1000) == (502, True)
        assert get(f"{base(millpond, hidden)}/blobs/{secret}").digest == secret


def test_a_throttled_ecr_makes_the_queue_back_off_and_no_client_notices(site: Site, images_directory: Path) -> None:
    """Row 42; B K."""
    site.cloud.throttle("PutImage", per_second=0)
    site.cloud.throttle("UploadLayerPart", per_second=2)
    image = small(images_directory, 710, layers=3)
    path = site.image("throttled", image)
    millpond = site.start(site.impatient())
    replies = pull(base(millpond, path), image, "1")
    wait_until(lambda: site.calls("PutImage", DEV[0])["ThrottlingException"] > TRIES, "a second attempt")
    put = [call for call in list(site.cloud.calls) if call.operation == "PutImage" and call.account == DEV[0]]
    assert max(later.time - call.ended for call, later in itertools.pairwise(put)) >= FIRST_PAUSE / 2
    wait_until(lambda: all(job["attempts"] for job in jobs(millpond, path)), "both accounts have failed it once")
    assert all("too many calls" in job["reason"] for job in jobs(millpond, path))
    assert target(millpond, "dev")["state"] == "ok"  # it is no refusal: other images go on
    replies += pull(base(millpond, path), image, image.digest)
    assert not site.calls("PutImage")["ok"]
    site.cloud.behave()
    site.fleet.arrived(image, path, "1")
    assert {reply.status for reply in replies} == {200}
    assert millpond.metric("millpond_ecr_calls_total", operation="UploadLayerPart", outcome="throttled") > 0
    wait_until(lambda: millpond.metric("millpond_ecr_images_total", outcome="pushed") == 2, "both pushes have ended")


def test_an_image_that_ecr_has_already_is_a_success_whoever_put_it(site: Site, images_directory: Path) -> None:
    """Row 43, the same digest: it was there before; somebody put it a moment ago."""
    known, raced = small(images_directory, 720), small(images_directory, 721)
    paths = site.image("known", known), site.image("raced", raced)
    for registry in site.fleet.registries:
        registry.add(known, f"docker.io/{paths[0]}", "1")
    site.cloud.break_off("PutImage", times=2, done=True)  # so that the second try finds the image there
    millpond = site.start()
    for path, image in zip(paths, (known, raced), strict=True):
        pull(base(millpond, path), image, "1")
        until_jobs(millpond, path, state="done", attempts=0, reason="", note="")
    assert not site.fleet.lacks(raced, paths[1], "1")
    put = [call for call in site.cloud.calls if call.operation == "PutImage"]
    assert {call.resource for call in put} == {f"docker.io/{paths[1]}"}
    assert site.calls("PutImage") == {"broken": 2, "ImageAlreadyExistsException": 2}
    assert millpond.metric("millpond_ecr_images_total", outcome="present") == 2
    assert millpond.metric("millpond_ecr_tag_clashes_total") == 0


def test_a_tag_that_an_immutable_repository_has_for_another_image_stays_and_the_new_one_is_kept_by_its_digest(
    site: Site, images_directory: Path
) -> None:
    """Row 43, another digest; K: counted, shown, nothing deleted, and not tried for ever."""
    old, new = small(images_directory, 722), small(images_directory, 723)
    path = site.image("immutable", new)
    for registry in site.fleet.registries:
        repository = registry.add(old, f"docker.io/{path}", "1")
        repository.settings["imageTagMutability"] = "IMMUTABLE"
    millpond = site.start()
    replies = pull(base(millpond, path), new, "1")
    assert {reply.status for reply in replies} == {200}
    for job in until_jobs(millpond, path, state="done", digest=new.digest):
        assert job["note"].startswith("not under the tag 1: this repository is immutable and has it for another image")
    for registry in site.fleet.registries:
        stored = registry.repositories[f"docker.io/{path}"]
        assert stored.tags == {"1": old.digest}
        assert set(stored.images) == {old.digest, new.digest}
        assert not stored.missing(old.digest) + stored.missing(new.digest)
    assert [millpond.metric("millpond_ecr_tag_clashes_total", target=name) for name in ("dev", "prod")] == [1, 1]
    pull(base(millpond, path), new, "1")
    millpond.restart()
    pull(base(millpond, path), new, "1")
    other = small(images_directory, 724)
    later = site.image("later", other)
    pull(base(millpond, later), other, "1")
    site.fleet.arrived(other, later, "1")
    assert site.calls("PutImage")["ImageTagAlreadyExistsException"] == 2
    until_jobs(millpond, path, state="done", tags=[])
    assert retry(millpond, image=f"docker.io/{path}") == 2
    wait_until(lambda: site.calls("PutImage")["ImageTagAlreadyExistsException"] == 4, "it is tried again on demand")


def test_two_millponds_that_create_one_repository_at_once_are_both_content(site: Site, images_directory: Path) -> None:
    """Row 44: two processes, each with its own disk, and both accounts."""
    image = small(images_directory, 730, layers=3)
    path = site.image("two", image)
    stall = site.cloud.stall("CreateRepository")
    millponds = [site.start(), site.start()]
    with ThreadPoolExecutor(2) as pool:
        for pulled in [pool.submit(pull, base(millpond, path), image, "1") for millpond in millponds]:
            pulled.result()
    wait_until(lambda: stall.held == 4, "each of them is creating it in each account")
    stall.release()
    site.fleet.arrived(image, path, "1")
    for millpond in millponds:
        until_jobs(millpond, path, state="done", reason="")
    assert site.calls("CreateRepository") == {"ok": 2, "RepositoryAlreadyExistsException": 2}


@pytest.mark.parametrize("asked", [True, False])
def test_a_repository_that_may_not_be_created_is_off_alone_until_it_may(
    site: Site, images_directory: Path, asked: bool
) -> None:
    """Row 44; B: shown with its reason; tried again on demand, or by itself after a while."""
    image, other = small(images_directory, 731), small(images_directory, 732)
    path, allowed = site.image("forbidden", image), site.image("allowed", other)
    name = f"docker.io/{path}"
    site.cloud.deny("CreateRepository", resource=name)
    millpond = site.start(None if asked else site.impatient())
    replies = pull(base(millpond, path), image, "1") + pull(base(millpond, allowed), other, "1")
    site.fleet.arrived(other, allowed, "1")
    for job in until_jobs(millpond, path, state="queued"):
        assert f"the repository {name} does not exist, and cannot be created" in job["reason"]
        assert "ecr:CreateRepository" in job["reason"]
    if asked:  # the impatient one may have forgotten it at this moment, and asks again in the next
        for found in status(millpond)["targets"]:
            assert (found["state"], list(found["repositories_off"])) == ("ok", [name])
        replies += pull(base(millpond, path), image, image.digest)
        assert site.calls("CreateRepository")["AccessDeniedException"] == 2
    site.cloud.behave()
    if asked:
        assert retry(millpond, image=name) == 2
    site.fleet.arrived(image, path, "1")
    assert {reply.status for reply in replies} == {200}
    until_jobs(millpond, path, state="done", reason="")
    assert [found["repositories_off"] for found in status(millpond)["targets"]] == [{}, {}]


def test_a_push_that_was_killed_after_three_of_five_layers_goes_on_with_the_others(
    site: Site, images_directory: Path
) -> None:
    """Row 45; P K: no manifest before its blobs, at no time, and what was there is not sent again."""
    image = small(images_directory, 740, layers=5)
    path = site.image("killed", image)
    for account in (DEV[0], PROD[0]):
        site.cloud.break_off("CompleteLayerUpload", times=math.inf, after=3, account=account)
    millpond = site.start()
    pull(base(millpond, path), image, "1")
    wait_until(lambda: site.calls("CompleteLayerUpload")["broken"] >= 2, "three layers are there, and no more come")
    wait_until(lambda: site.calls("CompleteLayerUpload")["ok"] == 6, "so they are in both accounts")
    millpond.kill()
    for registry in site.fleet.registries:
        stored = registry.repositories[f"docker.io/{path}"]
        assert (len(stored.layers), stored.images, stored.tags) == (3, {}, {})
    assert not site.calls("PutImage")
    site.cloud.behave()
    millpond.start()
    site.fleet.arrived(image, path, "1")
    until_jobs(millpond, path, state="done")
    assert site.calls("CompleteLayerUpload")["ok"] == 2 * len(image.blobs)
    assert not site.calls("CompleteLayerUpload")["LayerAlreadyExistsException"]
    assert site.calls("PutImage") == {"ok": 2}


def test_the_keys_of_an_assumed_role_that_expire_are_renewed_once(site: Site, images_directory: Path) -> None:
    """Row 46: in the middle of a push, and between two."""
    first, second = small(images_directory, 750, layers=2), small(images_directory, 751)
    stall = site.cloud.stall("CompleteLayerUpload")
    millpond = site.start()
    path = site.image("expiring", first)
    replies = pull(base(millpond, path), first, "1")
    wait_until(lambda: stall.held == 2 * len(first.blobs), "both accounts are about to get the last of each layer")
    assumed = site.cloud.count("AssumeRole")
    site.cloud.expire_credentials()
    stall.release()
    site.fleet.arrived(first, path, "1")
    until_jobs(millpond, path, state="done")
    site.cloud.expire_credentials()
    later = site.image("expired", second)
    replies += pull(base(millpond, later), second, "1")
    site.fleet.arrived(second, later, "1")
    assert {reply.status for reply in replies} == {200}
    assert site.cloud.count("AssumeRole") == assumed + 2
    assert target(millpond, "prod")["state"] == "ok"
    expired = [call for call in site.cloud.calls if call.outcome == "ExpiredTokenException"]
    assert 2 <= len(expired) <= 6  # each call that was under way met it once
    assert {call.principal for call in expired} == {ROLE}


def test_an_account_that_answers_403_is_left_alone_while_everything_else_goes_on(
    site: Site, images_directory: Path
) -> None:
    """Row 46; B: its breaker opens, the other account and every client are none the worse."""
    made = [small(images_directory, seed) for seed in range(752, 757)]
    site.cloud.deny("*", principal=ROLE)
    millpond = site.start()
    replies, paths, asked = [], [], 0
    for number, image in enumerate(made):
        paths.append(site.image("refused", image))
        replies += pull(base(millpond, paths[-1]), image, "1")
        if not number:
            wait_until(lambda: target(millpond, "prod")["state"] != "ok", "prod is known to refuse")
            asked = len(_refused(site))
    until_jobs(millpond, paths[-1], 1, target="dev", state="done")
    dev, prod = site.fleet.registries
    assert not [path for image, path in zip(made, paths, strict=True) if dev.missing(f"docker.io/{path}", image.digest)]
    assert not prod.repositories
    assert len(_refused(site)) == asked <= 2  # and not once for each image
    found = target(millpond, "prod")
    assert "AccessDeniedException" in found["state"]
    assert ROLE in found["state"]
    assert (found["queued"], found["done"], found["rejected"]) == (len(made), 0, 0)
    assert (target(millpond, "dev")["state"], target(millpond, "dev")["done"]) == ("ok", len(made))
    assert {reply.status for reply in replies} == {200}
    assert site.cloud.credentials().secret_key not in millpond.log_text()
    site.cloud.behave()
    assert retry(millpond, target="prod") == len(made)
    for image, path in zip(made, paths, strict=True):
        site.fleet.arrived(image, path, "1")
    wait_until(lambda: target(millpond, "prod")["state"] == "ok", "prod is known to be well")


def _refused(site: Site) -> list[Call]:
    return [call for call in list(site.cloud.calls) if call.outcome == "AccessDeniedException"]


def test_wrong_bytes_from_ecr_are_replaced_by_upstreams_within_the_same_pull(
    site: Site, images_directory: Path
) -> None:
    """Row 47; W P: a layer and a manifest."""
    image, damaged = small(images_directory, 760, layers=3), small(images_directory, 761)
    path, other = site.image("wrong", image), site.image("wrong-manifest", damaged)
    millpond = site.start(read=False)  # of prod: one account is read
    for where, what in ((path, image), (other, damaged)):
        pull(base(millpond, where), what, "1")
        site.fleet.arrived(what, where, "1")
    lose_the_disk(millpond)
    wrong = image.blobs[2].digest
    site.cloud.corrupt_layer(wrong)
    site.cloud.corrupt_image(damaged.digest)
    expected = {digest: "upstream" if digest == wrong else "ecr" for digest in (image.digest, *image.all_blobs())}
    assert tiers_of(pull(base(millpond, path), image, "1"), image) == expected
    assert tiers_of(pull(base(millpond, other), damaged, "1"), damaged)[damaged.digest] == "upstream"
    assert site.cloud.count("DownloadLayer", layerDigest=wrong) == 1
    assert millpond.metric("millpond_verification_failures_total", where="ecr") >= 1
    landed(millpond)
    assert set(tiers_of(pull(base(millpond, path), image, image.digest), image).values()) == {"hit"}


def test_wrong_bytes_from_both_accounts_are_replaced_too_and_the_answer_says_by_whom(
    site: Site, images_directory: Path
) -> None:
    """Row 47; W P."""
    image = small(images_directory, 763)
    path, wrong = site.image("both-wrong", image), image.blobs[1].digest
    millpond = site.start()
    pull(base(millpond, path), image, "1")
    site.fleet.arrived(image, path, "1")
    lose_the_disk(millpond)
    site.cloud.corrupt_layer(wrong)
    replies = pull(base(millpond, path), image, "1")
    assert site.cloud.count("DownloadLayer", layerDigest=wrong) == 2
    assert millpond.metric("millpond_verification_failures_total", where="ecr") == 2
    assert tiers_of(replies, image)[wrong] == "upstream"


def test_wrong_bytes_that_have_begun_to_flow_never_end_and_the_next_pull_is_right(
    site: Site, images_directory: Path
) -> None:
    """Row 47; W P: a layer that is too large to be held back as a whole."""
    image = images.simple_image(images_directory, seed=762, size=6_000_000)
    path, layer = site.image("flowing", image), image.blobs[1]
    millpond = site.start(read=False)
    pull(base(millpond, path), image, "1")
    site.fleet.arrived(image, path, "1")
    lose_the_disk(millpond)
    site.cloud.corrupt_layer(layer.digest)
    assert get(f"{base(millpond, path)}/manifests/1").headers["x-millpond"] == "ecr"
    with opened(f"{base(millpond, path)}/blobs/{layer.digest}") as download:
        assert not download.drain()
    assert layer.digest in {reply.digest for reply in pull(base(millpond, path), image, "1")}
    assert site.cloud.count("DownloadLayer", layerDigest=layer.digest) == 1
    assert not site.fleet.lacks(image, path, "1")


def test_a_media_type_that_ecr_rejects_is_remembered_and_tried_again_on_demand_only(
    site: Site, images_directory: Path
) -> None:
    """Row 48; B: over pulls and a restart, with its reason."""
    chart, image = images.chart(seed=77), small(images_directory, 770)
    path, later = site.image("chart", chart), site.image("beside", image)
    site.cloud.refuse_media_type(HELM)
    millpond = site.start()
    replies = pull(base(millpond, path), chart, "1")
    for job in until_jobs(millpond, path, state="rejected"):
        assert f"unsupported media type '{HELM}'" in job["reason"]
        assert (job["digest"], job["tags"], job["next_try"]) == (chart.digest, ["1"], None)
    assert site.calls("PutImage") == {"InvalidParameterException": 2}
    reasons = [job["reason"] for job in jobs(millpond, path)]
    millpond.restart()
    assert [job["reason"] for job in until_jobs(millpond, path, state="rejected")] == reasons
    replies += pull(base(millpond, path), chart, "1") + pull(base(millpond, path), chart, chart.digest)
    pull(base(millpond, later), image, "1")
    site.fleet.arrived(image, later, "1")  # what came after it has been pushed
    assert site.calls("PutImage") == {"InvalidParameterException": 2, "ok": 2}
    assert [target(millpond, name)["rejected"] for name in ("dev", "prod")] == [1, 1]
    assert retry(millpond, image=f"docker.io/{path}:1", target="dev") == 1
    wait_until(lambda: site.calls("PutImage", DEV[0])["InvalidParameterException"] == 2, "it is tried again")
    until_jobs(millpond, path, state="rejected")
    assert site.calls("PutImage", PROD[0])["InvalidParameterException"] == 1
    assert {reply.status for reply in replies} == {200}


def test_a_kill_between_a_repository_and_its_policies_leaves_them_to_the_next_push(
    site: Site, images_directory: Path, tmp_path: Path
) -> None:
    """Row 45; K: and what was set by hand meanwhile stays."""
    made = {name: small(images_directory, 745 + number) for number, name in enumerate(("policies", "by-hand"))}
    paths = {name: site.image(name, image) for name, image in made.items()}
    files = {"lifecycle_policy_file": LIFECYCLE, "policy_file": ACCESS}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for operation in ("PutLifecyclePolicy", "SetRepositoryPolicy"):
        site.cloud.break_off(operation, times=math.inf)
    millpond = site.start(repository={name: str(tmp_path / name) for name in files})
    for name, image in made.items():
        pull(base(millpond, paths[name]), image, "1")
    _, prod = site.fleet.registries
    wait_until(lambda: len(prod.repositories) == 2, "both repositories are there")
    wait_until(lambda: site.calls("PutLifecyclePolicy")["broken"] >= 2, "a policy is on its way to each")
    millpond.kill()
    unset, by_hand = (prod.repositories[f"docker.io/{path}"] for path in paths.values())
    assert [unset.lifecycle_policy, unset.policy, by_hand.lifecycle_policy, by_hand.policy] == [None] * 4
    by_hand.lifecycle_policy = changed = LIFECYCLE.replace("9", "7")
    site.cloud.behave()
    millpond.start()
    for name, image in made.items():
        site.fleet.arrived(image, paths[name], "1")
    assert (unset.lifecycle_policy, unset.policy) == (LIFECYCLE, ACCESS)
    assert (by_hand.lifecycle_policy, by_hand.policy) == (changed, ACCESS)


def test_pulls_that_a_kill_has_left_without_a_job_are_pushed_after_the_start(
    site: Site, images_directory: Path
) -> None:
    """Row 45; K: one by its tag, beside one that was noted, and one by its digest. Nobody pulls them again."""
    old, new, pinned = (small(images_directory, seed) for seed in (747, 748, 749))
    tagged, by_digest = site.image("tagged", old), site.image("pinned", pinned)
    millpond = site.start()
    pull(base(millpond, tagged), old, "1")
    site.fleet.arrived(old, tagged, "1")
    wait_until(lambda: len(jobs(millpond, tagged, state="done")) == 2, "both pushes have ended")
    noted(millpond, 2)
    shutil.copytree(millpond.cache / "queue", site.directory / "queue")
    site.cloud.break_off("BatchGetImage", times=math.inf)
    site.fleet.upstream.push(new, tagged, "2")
    pull(base(millpond, tagged), new, "2")
    pull(base(millpond, by_digest), pinned, pinned.digest)
    wait_until(lambda: known(millpond, new, pinned), "the cache has noted them")
    millpond.kill()
    # As a kill leaves it that comes before their jobs are on the disk.
    shutil.rmtree(millpond.cache / "queue")
    shutil.copytree(site.directory / "queue", millpond.cache / "queue")
    site.cloud.behave()
    millpond.start()
    site.fleet.arrived(new, tagged, "2")
    site.fleet.arrived(pinned, by_digest)
    event = "the program was killed before all pulls were noted for ECR"
    wait_until(lambda: millpond.log_lines(event=event, images=2), "the log says how many there were")


def test_a_target_whose_name_is_wrong_for_one_start_gets_what_waited_for_it(site: Site, images_directory: Path) -> None:
    """K: jobs of a target that is not configured are kept, and the log says so."""
    image = small(images_directory, 751)
    path = site.image("renamed", image)
    site.cloud.deny("BatchGetImage")
    millpond = site.start()
    pull(base(millpond, path), image, "1")
    noted(millpond, 2)
    right, wrong = millpond.config, copy.deepcopy(millpond.config)
    wrong["ecr"]["targets"][0]["name"] = "dve"
    millpond.terminate()
    millpond.configure(wrong)
    millpond.start()
    assert [(job["target"], job["state"]) for job in jobs(millpond, path)] in (
        [("prod", "queued")],
        [("prod", "pushing")],
    )
    event = "an ECR target is not configured any more: what waits for it is kept for a while"
    wait_until(lambda: millpond.log_lines(event=event, target="dev", unpushed=1), "the log says what waits")
    millpond.terminate()
    site.cloud.behave()
    millpond.configure(right)
    millpond.start()
    site.fleet.arrived(image, path, "1")


@pytest.mark.parametrize("how", ["answers 503", "hangs", "has gone"])
def test_an_ecr_that_is_down_costs_clients_no_failure_and_little_time_and_gets_everything_later(
    site: Site, images_directory: Path, how: str
) -> None:
    """Rows 42 and 46; B K: reads and pushes alike, and the queue survives a kill meanwhile."""
    made = [small(images_directory, seed, layers=2) for seed in (780, 781, 782)]
    paths = [site.image("down", image) for image in made]
    millpond = site.start(site.impatient())
    with ExitStack() as outage:
        if how == "answers 503":
            outage.enter_context(site.cloud.unavailable())
        elif how == "hangs":
            outage.callback(site.cloud.stall("*").release)
            outage.callback(site.cloud.stall("AssumeRole").release)
        else:
            site.cloud.stop()
            outage.callback(site.cloud.start)
        for path, image in zip(paths, made, strict=True):
            before = time.monotonic()
            replies = pull(base(millpond, path), image, "1")
            assert time.monotonic() - before < BOUND
            assert {(reply.status, reply.headers["x-millpond"]) for reply in replies} <= {
                (200, "upstream"),
                (200, "joined"),
                (200, "hit"),
            }
            until_jobs(millpond, path)
        noted(millpond, 2 * len(made))
        wait_until(lambda: known(millpond, *made), "the cache has noted them, too")
        millpond.kill()
        millpond.start()
        before = time.monotonic()
        assert {reply.headers["x-millpond"] for reply in pull(base(millpond, paths[0]), made[0], "1")} == {"hit"}
        assert time.monotonic() - before < BOUND
        assert not any(registry.repositories for registry in site.fleet.registries)
    for path, image in zip(paths, made, strict=True):
        site.fleet.arrived(image, path, "1")
    wait_until(lambda: millpond.metric("millpond_ecr_queue", state="done") == 2 * len(made), "all jobs are done")


def test_an_end_in_the_middle_of_a_push_is_prompt_and_the_queue_goes_on_after_the_start(
    site: Site, images_directory: Path
) -> None:
    """Row 32; K H: nobody waits for a call to ECR that hangs."""
    image = small(images_directory, 790, layers=3)
    path = site.image("ending", image)
    stall = site.cloud.stall("UploadLayerPart")
    millpond = site.start()
    pull(base(millpond, path), image, "1")
    wait_until(lambda: stall.held >= 2, "parts are under way")
    before = time.monotonic()
    assert millpond.terminate() == 0
    assert time.monotonic() - before < 15  # of a grace period of 25
    assert millpond.log_lines(event="stopped")
    assert ["!ended"] in on_disk(millpond, "queue")  # so that the next start knows that nothing got lost
    stall.release()
    millpond.start()
    site.fleet.arrived(image, path, "1")
    for job in until_jobs(millpond, path, state="done"):
        assert (job["attempts"], job["reason"]) == (0, "")
    assert site.calls("PutImage") == {"ok": 2}

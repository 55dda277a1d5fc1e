"""`millpond ecr`, as its operator runs it: in a pipe, on a terminal, and without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import StartMillpond
from tests.ecr.office import Office
from tests.support.command import millpond, on_terminal
from tests.support.ecr import EcrDouble
from tests.support.ports import free_port
from tests.support.scripted import ScriptedUpstream

CONFIGURED: Final = """
upstreams: {quay.io: null, 444455556666.dkr.ecr.eu-west-1.amazonaws.com: {auth: ecr}, public.ecr.aws: {auth: ecr}}
ecr:
  targets:
    - {name: prod, account: '111122223333', region: us-east-1, role_arn: 'arn:aws:iam::111122223333:role/push'}
    - {name: dev, account: '444455556666', region: eu-west-1, upstreams: [docker.io], repository_prefix: 'mirror/'}
"""


@pytest.fixture
def office(cloud: EcrDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    with Office(cloud, tmp_path).open() as opened:
        yield opened


def test_a_plan_needs_neither_a_server_nor_aws(tmp_path: Path) -> None:
    config = tmp_path / "millpond.yaml"
    config.write_text(CONFIGURED)
    done = millpond("ecr", "plan", "nginx:1.27", "ghcr.io/org/app", of=config)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    prod, dev = document["targets"]
    assert [found["name"] for found in prod["repositories"]] == ["docker.io/library/nginx", "ghcr.io/org/app"]
    assert [found["name"] for found in dev["repositories"]] == ["mirror/library/nginx"]
    own, role = document["policies"]
    assert role["identity"] == "arn:aws:iam::111122223333:role/push"
    (push,) = [one for one in own["policy"]["Statement"] if one["Sid"] == "Pushdev"]
    assert push["Resource"] == ["arn:aws:ecr:eu-west-1:444455556666:repository/mirror/*"]
    pulls = [one["Resource"] for one in own["policy"]["Statement"] if one["Sid"].startswith("Pull")]
    assert pulls == [["arn:aws:ecr:eu-west-1:444455556666:repository/*"]]
    assert "LogInPublic" in [one["Sid"] for one in own["policy"]["Statement"]]


def test_a_plan_on_a_terminal_is_for_people_unless_json_is_wanted(tmp_path: Path) -> None:
    config = tmp_path / "millpond.yaml"
    config.write_text(CONFIGURED)
    code, shown = on_terminal("ecr", "plan", "nginx", of=config)
    assert code == 0
    assert "prod: 111122223333.dkr.ecr.us-east-1.amazonaws.com, by arn:aws:iam::111122223333:role/push" in shown
    assert re.search(r"docker\.io/library/nginx +mirror/library/nginx", shown)
    assert "IAM policy for the identity that Millpond runs with" in shown
    code, shown = on_terminal("ecr", "plan", "--json", of=config)
    assert (code, len(json.loads(shown)["policies"])) == (0, 2)


@pytest.mark.parametrize(
    ("image", "says"), [("nowhere.test/a", "no upstream 'nowhere.test' is configured here"), ("a:b:c", "is not a tag")]
)
def test_an_image_that_cannot_be_read_is_named_on_standard_error(tmp_path: Path, image: str, says: str) -> None:
    config = tmp_path / "millpond.yaml"
    config.write_text(CONFIGURED)
    done = millpond("ecr", "plan", image, of=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("millpond: ")
    assert says in done.stderr


@pytest.mark.parametrize("command", [["status"], ["retry"], ["sync", "nginx"], ["verify"]])
def test_without_a_server_a_command_says_where_it_looked_and_how_to_start_one(
    tmp_path: Path, command: list[str]
) -> None:
    config, port = tmp_path / "millpond.yaml", free_port()
    config.write_text(f"admin: {{listen: '0.0.0.0:{port}'}}")
    done = millpond("ecr", *command, of=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"millpond: no Millpond answers at 0.0.0.0:{port}, which is admin.listen (Connection refused); start it with "
        "`millpond serve`, or name the configuration of the one that runs with --config\n"
    )


def test_a_server_without_targets_says_so(start_millpond: StartMillpond) -> None:
    with ScriptedUpstream() as upstream:
        running = start_millpond({"docker.io": upstream.upstream()})
        for command in (["status"], ["retry"], ["sync", "nginx"], ["verify"]):
            done = millpond("ecr", *command, of=running)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == "millpond: there are no ecr.targets in the configuration of this server\n"


def test_a_port_that_the_system_chooses_cannot_be_found(tmp_path: Path) -> None:
    config = tmp_path / "millpond.yaml"
    config.write_text("admin: {listen: '127.0.0.1:0'}")
    done = millpond("ecr", "status", of=config)
    assert done.returncode == 2
    assert "admin.listen has port 0, which is another one at each start; write a port" in done.stderr


def test_something_else_at_the_port_is_not_taken_for_a_millpond(tmp_path: Path) -> None:
    config = tmp_path / "millpond.yaml"
    with ScriptedUpstream() as other:
        config.write_text(f"admin: {{listen: '{other.url.removeprefix('http://')}'}}")
        done = millpond("ecr", "status", of=config)
    assert done.returncode == 2
    assert "is no Millpond of this version" in done.stderr


def test_a_sync_prints_a_line_for_each_change_and_ends_well(office: Office) -> None:
    office.shelf.add("docker.io/nginx")
    office.shelf.add("ghcr.io/app", "v1", b"two")
    listed = "# what we need\n\nghcr.io/app:v1\n"
    done = millpond("ecr", "sync", "nginx", "--file", "-", of=office, typed=listed)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "3 done, 0 failed"
    for ended in (
        "done\tprod\tdocker.io/library/nginx:latest\t",
        "done\tdev\tdocker.io/library/nginx:latest\t",
        "done\tprod\tghcr.io/app:v1\t",
    ):
        assert lines.count(ended) == 1
    assert office.cloud.registry().image("ghcr.io/app", "v1") is not None


def test_a_sync_that_did_not_bring_everything_exits_with_1(office: Office) -> None:
    done = millpond("ecr", "sync", "missing", of=office)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "failed\tall targets\tdocker.io/library/missing:latest\tthere is no latest in docker.io/library/missing",
        "0 done, 1 failed",
    ]
    done = millpond("ecr", "sync", "--json", "missing", of=office)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1]) == {"summary": {"done": 0, "failed": 1}}


def test_a_sync_without_an_image_is_a_wrong_command_line(office: Office) -> None:
    done = millpond("ecr", "sync", of=office)
    assert done.returncode == 2
    assert "name an IMAGE, or a file of them with --file" in done.stderr


def test_a_sync_shows_a_bar_for_each_target_on_a_terminal(office: Office) -> None:
    office.shelf.add("docker.io/nginx", content=b"x" * 100_000)
    code, shown = on_terminal("ecr", "sync", "nginx", "missing", of=office)
    assert code == 1
    assert re.search(r"prod .*100\.0/100\.0 kB .* 1 of 1 images", shown)
    assert re.search(r"dev .*100\.0/100\.0 kB .* 1 of 1 images", shown)
    assert "failed  all targets  docker.io/library/missing:latest  there is no latest" in shown
    assert shown.splitlines()[-1] == "2 done, 1 failed"


def test_a_status_has_failures_with_their_reasons_first(office: Office) -> None:
    office.shelf.add("docker.io/nginx")
    image = office.shelf.add("ghcr.io/app", "v1", b"two")
    millpond("ecr", "sync", "nginx", of=office)
    office.cloud.fail("PutImage", "InvalidParameterException")
    millpond("ecr", "sync", "ghcr.io/app:v1", of=office)
    done = millpond("ecr", "status", of=office)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, failed, *others = done.stdout.splitlines()
    assert first == "target\tprod\t111122223333.dkr.ecr.us-east-1.amazonaws.com\tok\t0\t0\t1\t1"
    assert second == "target\tdev\t111122223333.dkr.ecr.eu-west-1.amazonaws.com\tok\t0\t0\t1\t0"
    assert failed.startswith(f"job\tprod\tghcr.io/app:v1@{image.digest[:19]}\trejected\t")
    assert "InvalidParameterException" in failed
    assert [line.split("\t")[3] for line in others] == ["done", "done"]
    assert len(json.loads(millpond("ecr", "status", "--json", of=office).stdout)["jobs"]) == 3
    code, shown = on_terminal("ecr", "status", of=office)
    assert code == 0
    assert re.search(r"target +registry +state +queued +pushing +done +rejected", shown)
    assert shown.index("InvalidParameterException") < shown.index("docker.io/library/nginx:latest@")


def test_a_retry_says_how_many_images_begin(office: Office) -> None:
    office.shelf.add("ghcr.io/app")
    office.cloud.fail("PutImage", "InvalidParameterException")
    millpond("ecr", "sync", "ghcr.io/app", of=office)
    done = millpond("ecr", "retry", "--target", "prod", "ghcr.io/app", of=office)
    assert (done.returncode, done.stdout) == (0, "1 image begins at once\n")
    done = millpond("ecr", "retry", "--target", "stage", of=office)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "millpond: there is no ECR target 'stage'; one of: prod, dev\n"


def test_a_comparison_exits_with_1_when_something_differs(office: Office) -> None:
    image = office.shelf.add("docker.io/nginx")
    millpond("ecr", "sync", "nginx", of=office)
    digest = image.digest[:19]
    done = millpond("ecr", "verify", of=office)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"same\tdocker.io/library/nginx:latest\tdisk: {digest}\tupstream: {digest}\tprod: {digest}\tdev: {digest}",
        "1 same, 0 differs, 0 unverified",
    ]
    office.cloud.registry().repositories["docker.io/library/nginx"].lose_image(image.digest)
    office.shelf.down = True
    done = millpond("ecr", "verify", "--json", "nginx", of=office)
    assert done.returncode == 1
    row, last = map(json.loads, done.stdout.splitlines())
    assert (row["verdict"], row["upstream"]["note"]) == ("differs", "docker.io is down")
    assert row["targets"]["prod"] == {"digest": None, "note": "not there", "failed": False}
    assert last == {"summary": {"same": 0, "differs": 1, "unverified": 0}}
    code, shown = on_terminal("ecr", "verify", of=office)
    assert code == 1
    assert re.search(
        rf"differs +docker\.io/library/nginx:latest +{digest} +docker\.io is down +not there +{digest}", shown
    )


def test_a_server_that_breaks_off_is_not_taken_for_a_good_end(office: Office) -> None:
    office.shelf.add("ghcr.io/app")
    stall = office.cloud.stall("PutImage")
    office.draining.set()
    done = millpond("ecr", "sync", "ghcr.io/app", of=office)
    stall.release()
    assert done.returncode == 2
    assert "the server is about to end" in done.stderr

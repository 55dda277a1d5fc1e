"""The program `millpond`: `--version`, `check`, and how it refuses a configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy import __version__
from proxy.cli.check import cache_state, upstream_state
from proxy.ecr.login import Login
from proxy.ecr.session import Sessions
from proxy.settings import Cache, Size, Upstream
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint
from tests.support.command import millpond
from tests.support.ecr import EcrDouble
from tests.support.faults import refuse
from tests.support.ports import free_port
from tests.support.scripted import ScriptedUpstream

ROOT = Path(__file__).parents[2]


def config(tmp_path: Path, upstreams: dict[str, Any], **cache: str) -> str:
    """The path of a configuration that has these upstreams and no other."""
    removed: dict[str, Any] = dict.fromkeys(["docker.io", "ghcr.io", "registry.k8s.io", "quay.io"])
    file = tmp_path / "millpond.yaml"
    document = {
        "upstreams": removed | upstreams,
        "default_upstream": next(iter(upstreams)),
        "cache": {"directory": str(tmp_path / "cache"), "min_free": 0, **cache},
    }
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(file)


def test_the_version_is_printed() -> None:
    done = millpond("--version")
    assert (done.returncode, done.stdout) == (0, f"millpond, version {__version__}\n")


def test_the_version_needs_neither_the_server_nor_the_http_client() -> None:
    code = "import sys, proxy.cli; sys.exit(bool({'httpx', 'aiohttp', 'uvicorn', 'diskcache'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_configuration_that_is_wrong_ends_the_program_with_2_and_teaches(command: str, tmp_path: Path) -> None:
    file = tmp_path / "millpond.yaml"
    file.write_text("cache: {max_szie: 1GiB}")
    done = millpond(command, "--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "millpond: the configuration has one problem:\n  cache.max_szie -> unknown key; did you mean max_size?\n"
    )


def test_an_environment_that_is_wrong_ends_the_program_with_2() -> None:
    done = millpond("serve", env={"MILLPOND_CACHE__MAX_SIZE": "big"})
    assert done.returncode == 2
    assert "cache.max_size (set by MILLPOND_CACHE__MAX_SIZE): 'big' -> not a size" in done.stderr


def test_check_finds_all_well(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        done = millpond("check", "--config", config(tmp_path, {"lan": {"url": upstream.url}}))
    assert done.returncode == 0, done.stderr
    cache, lan = done.stdout.splitlines()
    assert cache.startswith(f"ok\tcache.directory\t{tmp_path / 'cache'} will be created; up to ")
    assert lan == f"ok\tupstream lan\t{upstream.url} answers"
    assert done.stderr == ""
    assert not (tmp_path / "cache").exists()


def test_check_tries_each_upstream_and_says_what_failed(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    with ScriptedUpstream() as upstream:
        file = config(tmp_path, {"gone": {"url": gone}, "lan": {"url": upstream.url}})
        done = millpond("check", "--config", file)
    assert done.returncode == 1
    _, failed, well = (line.split("\t") for line in done.stdout.splitlines())
    assert failed[:2] == ["FAILED", "upstream gone"]
    assert "127.0.0.1" in failed[2]
    assert well[:2] == ["ok", "upstream lan"]


TARGET: Final = {"name": "prod", "account": "111122223333", "region": "us-east-1"}
ROLE: Final = "arn:aws:iam::111122223333:role/push"


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as double:
        yield double


def check_target(tmp_path: Path, cloud: EcrDouble, **target: Any) -> tuple[int, list[str]]:
    """The exit code of `millpond check`, and what it says of the one target: ok or FAILED, subject, detail."""
    with ScriptedUpstream() as upstream:
        file = config(tmp_path, {"lan": {"url": upstream.url}})
        targets = json.dumps([{**TARGET, **target}])
        done = millpond("check", "--config", file, env={**cloud.environment, "MILLPOND_ECR__TARGETS": targets})
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()[-1].split("\t")


def test_check_tries_an_ecr_target_and_changes_nothing_there(tmp_path: Path, cloud: EcrDouble) -> None:
    for role in (None, ROLE):
        code, line = check_target(tmp_path, cloud, role_arn=role)
        assert (code, line) == (
            0,
            ["ok", "ecr target prod", "111122223333.dkr.ecr.us-east-1.amazonaws.com answers"],
        )
    assert not cloud.registry().repositories
    assert cloud.count("CreateRepository") == 0


def test_check_says_whose_credentials_they_are_when_it_is_another_account(tmp_path: Path, cloud: EcrDouble) -> None:
    code, line = check_target(tmp_path, cloud, account="444455556666")
    assert code == 0
    assert line[2].endswith(" answers; as account 111122223333, which its repositories must allow")


def test_check_names_a_role_that_cannot_be_assumed(tmp_path: Path, cloud: EcrDouble) -> None:
    cloud.deny("AssumeRole")
    code, line = check_target(tmp_path, cloud, role_arn=ROLE)
    assert (code, line[:2]) == (1, ["FAILED", "ecr target prod"])
    assert line[2].startswith(f"ecr.targets[0].role_arn: '{ROLE}' -> ")
    assert "cannot be assumed" in line[2]
    assert "sts:AssumeRole" in line[2]


def test_check_names_a_target_whose_repositories_may_not_be_used(tmp_path: Path, cloud: EcrDouble) -> None:
    cloud.deny("BatchCheckLayerAvailability")
    code, line = check_target(tmp_path, cloud)
    assert (code, line[:2]) == (1, ["FAILED", "ecr target prod"])
    assert line[2].startswith("ecr.targets[0].account: '111122223333' -> ")
    assert "`millpond ecr plan` prints what is needed" in line[2]


def test_check_names_an_endpoint_that_does_not_answer(tmp_path: Path, cloud: EcrDouble) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    code, line = check_target(tmp_path, cloud, endpoint_url=gone)
    assert (code, line[:2]) == (1, ["FAILED", "ecr target prod"])
    assert line[2].startswith(f"ecr.targets[0].endpoint_url: '{gone}' -> ")


@pytest.mark.anyio
async def test_check_names_the_role_with_which_an_upstream_cannot_be_logged_in_to(
    cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    cloud.deny("AssumeRole")
    with ScriptedUpstream() as registry:
        registry.script("/v2/", refuse(401, **{"WWW-Authenticate": 'Basic realm="ecr"'}), then=refuse(401))
        upstream = Upstream(url=registry.url, auth="ecr", region="us-east-1", role_arn=ROLE)
        sessions = Sessions()
        login = Login(sessions.client("ecr", "us-east-1", ROLE, None))
        client = Registry(Endpoint("own", registry.url, login=login.credentials, forget=login.forget))
        finding = await upstream_state("own", upstream, client)
        await client.aclose()
        await sessions.aclose()
    assert not finding.ok
    assert finding.subject == "upstream own"
    assert finding.detail.startswith(f"upstreams.own.role_arn: '{ROLE}' -> ")
    assert "cannot be assumed" in finding.detail


def test_a_cache_directory_that_is_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "cache"
    file.write_text("")
    finding = cache_state(Cache(directory=file / "below"))
    assert not finding.ok
    assert finding.detail == f"{file} is not a directory; move it away or write another cache.directory"


def test_a_cache_directory_that_may_not_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = cache_state(Cache(directory=tmp_path))
    assert not finding.ok
    assert "is not writable by user id" in finding.detail


def test_a_file_system_that_is_too_full_is_found(tmp_path: Path) -> None:
    finding = cache_state(Cache(directory=tmp_path, min_free=Size.parse("100%")))
    assert not finding.ok
    assert finding.detail.endswith("make room or lower cache.min_free")

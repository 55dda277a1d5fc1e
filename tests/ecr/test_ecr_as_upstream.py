"""The company's own images through the same cache: an upstream with `auth: ecr`, from the real program's outside."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.ecr.fleet import Fleet, targets
from tests.support import command, images
from tests.support.certificates import Authority
from tests.support.ecr import EcrDouble
from tests.support.faults import Answer, Request, refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.programs import require
from tests.support.pulls import Reply, get, pull, pull_together
from tests.support.registry import PASSWORD, Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.tokens import TokenServer
from tests.support.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
OWN: Final = "own.test"  # the upstream's name
REGION: Final = "eu-west-1"
ROLE: Final = "arn:aws:iam::444455556666:role/pull"
LOGIN: Final = "GetAuthorizationToken"
# What is said of a call that is not allowed.
DENIED: Final = {
    "AssumeRole": f"role {ROLE} cannot be assumed",
    LOGIN: f"allow it in the policy of role {ROLE}",
}
USER: Final = "AWS"  # whom ECR calls everybody who has a password


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Registry]:
    """The company's registry: over TLS, it wants AWS and PASSWORD."""
    require("docker-registry")
    registry = Registry(tmp_path_factory.mktemp("own"), authority, passwords=True, user=USER).start()
    yield registry
    registry.stop()


@pytest.fixture
def aws(cloud: EcrDouble) -> EcrDouble:
    """The cloud, which gives everybody PASSWORD."""
    cloud.password = PASSWORD
    return cloud


@pytest.fixture
def scripted(aws: EcrDouble) -> Iterator[ScriptedUpstream]:
    """A registry that refuses as ECR does: it lets the newest password in, but to nothing that is forbidden."""
    aws.password = None

    def answered(request: Request, answer: Answer) -> Answer:
        header = request.headers.get("authorization")
        if header is None:
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="ecr",service="ecr.amazonaws.com"'}, ranged=False)
        if "forbidden" not in request.path and header in [basic(password) for password in aws.passwords[-1:]]:
            return answer
        return refuse(403, "Your authorization token has expired. Reauthenticate and try again.")(request, answer)

    with ScriptedUpstream() as upstream:
        for method in ("GET", "HEAD"):
            upstream.script("/v2/", then=answered, method=method)
        yield upstream


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'{USER}:{password}'.encode()).decode()}"


def login(aws: EcrDouble, **settings: Any) -> dict[str, Any]:
    """What an upstream's configuration says about it."""
    return {"auth": "ecr", "region": REGION, "role_arn": ROLE, "endpoint_url": aws.url, **settings}


def with_constants(directory: Path, aws: EcrDouble, **constants: object) -> dict[str, str]:
    """The environment of a Millpond in which these are others (`proxy__ecr__login__DEADLINE`), set at its start."""
    directory.mkdir()
    lines = []
    for name, value in constants.items():
        module, _, constant = name.replace("__", ".").rpartition(".")
        lines.append(f"import {module}\n{module}.{constant} = {value!r}\n")
    (directory / "sitecustomize.py").write_text("".join(lines))
    return {**aws.environment, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}


def at(millpond: Millpond, path: str) -> str:
    return f"{millpond.url}/v2/{OWN}/{path}"


def asked(millpond: Millpond, path: str) -> Reply:
    """One manifest, by tag."""
    return get(f"{at(millpond, path)}/manifests/1")


def refusals(millpond: Millpond) -> float:
    """How often the upstream has answered that it wants a password."""
    return millpond.metric("millpond_upstream_requests_total", upstream=OWN, status="401")


def pushed(own: Registry, path: str, image: Manifest) -> Manifest:
    own.push(image, path, "1")
    return image


def test_an_image_is_pulled_with_a_role_and_its_password_is_shown_nowhere(
    start_millpond: StartMillpond, aws: EcrDouble, own: Registry, images_directory: Path
) -> None:
    image = pushed(own, "team/service", images.simple_image(images_directory, seed=700, layers=3))
    millpond = start_millpond({OWN: own.upstream(**login(aws))}, env=aws.environment, log={"level": "debug"})
    pull(at(millpond, "team/service"), image, "1")
    assert aws.count("AssumeRole", RoleArn=ROLE, outcome="ok") == 1
    assert aws.count(LOGIN, principal=ROLE, region=REGION, outcome="ok") == 1
    landed(millpond)
    with own.down():
        assert {reply.headers["x-millpond"] for reply in pull(at(millpond, "team/service"), image, "1")} == {"hit"}
    assert millpond.terminate() == 0
    assert "team/service" in millpond.log_text()
    for secret in (PASSWORD, basic(PASSWORD).split()[1], aws.credentials().secret_key):
        assert secret not in millpond.log_text()


def test_many_cold_pulls_of_many_repositories_log_in_once(
    start_millpond: StartMillpond, aws: EcrDouble, own: Registry
) -> None:
    paths = [f"storm/service-{number}" for number in range(12)]
    charts = {path: pushed(own, path, images.chart(seed=number)) for number, path in enumerate(paths)}
    millpond = start_millpond({OWN: own.upstream(**login(aws))}, env=aws.environment)
    stall = aws.stall(LOGIN)
    with ThreadPoolExecutor(len(paths)) as pool:
        pulls = [pool.submit(pull_together, 3, at(millpond, path), chart, "1") for path, chart in charts.items()]
        wait_until(stall.reached.is_set, "the password is being fetched")
        wait_until(lambda: refusals(millpond) == len(paths), "every repository has been asked for a password")
        stall.release()
        for done in pulls:
            done.result()
    assert (aws.count("AssumeRole"), aws.count(LOGIN)) == (1, 1)


def test_the_password_is_fetched_anew_before_its_end_without_a_refusal(
    start_millpond: StartMillpond, aws: EcrDouble, own: Registry, tmp_path: Path
) -> None:
    pushed(own, "team/chart", images.chart())
    aws.password_seconds = 1.0
    env = with_constants(tmp_path / "constants", aws, proxy__ecr__login__SHORTEST_LIFE=0.5)
    # Each pull asks upstream, so that each needs the password.
    millpond = start_millpond({OWN: own.upstream(**login(aws), tag_ttl="0s")}, env=env)
    wait_until(
        lambda: asked(millpond, "team/chart").status == 200 and aws.count(LOGIN) >= 4, "it has been fetched four times"
    )
    assert refusals(millpond) == 1, "the first one"
    assert aws.count("AssumeRole") == 1, "the role's keys last longer"


def test_a_403_for_a_password_that_has_expired_is_answered_with_another_one(
    start_millpond: StartMillpond, aws: EcrDouble, scripted: ScriptedUpstream, tmp_path: Path
) -> None:
    for path in ("team/first", "team/second", "forbidden"):
        scripted.add(images.chart(), path, "1")
    env = with_constants(tmp_path / "constants", aws, proxy__upstream__auth__FRESH=0.0)
    millpond = start_millpond({OWN: scripted.upstream(**login(aws))}, env=env)
    pull(at(millpond, "team/first"), images.chart(), "1")
    aws.passwords.append("what the registry now wants, and Millpond does not have")
    pull(at(millpond, "team/second"), images.chart(), "1")
    assert aws.count(LOGIN) == 2
    refused = asked(millpond, "forbidden")
    assert (refused.status, refused.error_code) == (403, "DENIED")
    assert f"upstreams.{OWN}.role_arn" in refused.text
    assert "ecr:BatchGetImage" in refused.text
    assert aws.count(LOGIN) == 3


def test_a_forbidden_repository_costs_the_others_nothing_while_aws_is_down(
    start_millpond: StartMillpond, aws: EcrDouble, scripted: ScriptedUpstream, tmp_path: Path
) -> None:
    for path in ("team/first", "team/second"):
        scripted.add(images.chart(), path, "1")
    env = with_constants(tmp_path / "constants", aws, proxy__upstream__auth__FRESH=0.0)
    millpond = start_millpond({OWN: scripted.upstream(**login(aws))}, env=env)
    pull(at(millpond, "team/first"), images.chart(), "1")
    with aws.unavailable():
        assert asked(millpond, "forbidden").status == 403
        assert aws.count(LOGIN) == 2, "another password was asked for"
        pull(at(millpond, "team/second"), images.chart(), "1")
        wait_until(lambda: millpond.log_lines(event="ECR login not renewed"), "the operator is told")


@pytest.mark.parametrize("operation", DENIED)
def test_a_login_that_aws_denies_is_said_to_clients_with_the_role_and_costs_no_other_upstream(
    operation: str, start_millpond: StartMillpond, aws: EcrDouble, own: Registry, plain_registry: Registry
) -> None:
    pushed(own, "team/chart", images.chart())
    path = f"ecr-denied/{operation.lower()}"
    plain_registry.push(images.chart(), path, "1")
    upstreams = {OWN: own.upstream(**login(aws)), "docker.io": plain_registry.upstream()}
    millpond = start_millpond(upstreams, env=aws.environment)
    aws.deny(operation)
    denied = asked(millpond, "team/chart")
    assert (denied.status, denied.error_code) == (403, "DENIED")
    assert DENIED[operation] in denied.text
    pull(f"{millpond.url}/v2/docker.io/{path}", images.chart(), "1")
    aws.behave()
    wait_until(lambda: asked(millpond, "team/chart").status == 200, "what is allowed again works without a restart")


def test_an_aws_that_is_down_is_no_refusal(start_millpond: StartMillpond, aws: EcrDouble, own: Registry) -> None:
    pushed(own, "team/chart", images.chart())
    millpond = start_millpond({OWN: own.upstream(**login(aws))}, env=aws.environment)
    with aws.unavailable():
        failed = asked(millpond, "team/chart")
        assert (failed.status, failed.error_code) == (502, "UNAVAILABLE")
    assert asked(millpond, "team/chart").status == 200


def test_its_images_are_not_pushed_to_the_targets(
    start_millpond: StartMillpond, aws: EcrDouble, own: Registry, plain_registry: Registry, images_directory: Path
) -> None:
    image = images.simple_image(images_directory, seed=701)
    pushed(own, "team/service", image)
    plain_registry.push(image, "ecr-own/other", "1")
    upstreams = {OWN: own.upstream(**login(aws)), "docker.io": plain_registry.upstream()}
    millpond = start_millpond(upstreams, env=aws.environment, ecr=targets(aws))
    pull(at(millpond, "team/service"), image, "1")
    pull(f"{millpond.url}/v2/docker.io/ecr-own/other", image, "1")
    fleet = Fleet(aws, plain_registry)
    fleet.arrived(image, "ecr-own/other", "1")
    jobs = get(f"{millpond.admin_url}/api/v1/ecr").json()["jobs"]
    assert [job["repository"] for job in jobs if "team/service" in job["repository"]] == []
    assert [list(registry.repositories) for registry in fleet.registries] == [["docker.io/ecr-own/other"]] * 2


@pytest.fixture
def public_tokens(authority: Authority) -> Iterator[TokenServer]:
    """ECR Public's: it gives tokens to AWS with PASSWORD, and to nobody for what is below `private/`."""
    server = TokenServer(authority, users={USER: PASSWORD}).start()
    yield server
    server.stop()


def test_ecr_public_is_logged_in_to_at_its_token_server(
    start_millpond: StartMillpond, aws: EcrDouble, public_tokens: TokenServer, authority: Authority, tmp_path: Path
) -> None:
    require("docker-registry")
    registry = Registry(tmp_path / "public", authority, public_tokens).start()
    try:
        paths = [f"private/chart-{number}" for number in range(6)]
        charts = {path: pushed(registry, path, images.chart(seed=number)) for number, path in enumerate(paths)}
        # By its host it is known: this one is here.
        env = with_constants(tmp_path / "constants", aws, proxy__settings__login__PUBLIC_HOST="127.0.0.1")
        settings = login(aws, region=None, role_arn=None)
        millpond = start_millpond({OWN: registry.upstream(**settings)}, env=env)
        with ThreadPoolExecutor(len(paths)) as pool:
            list(pool.map(lambda path: pull(at(millpond, path), charts[path], "1"), paths))
    finally:
        registry.stop()
    assert aws.count(LOGIN, region="us-east-1") == len(aws.passwords) == 1
    assert {(request.user, request.status) for request in public_tokens.requests} == {(USER, 200)}
    assert len(public_tokens.requests) == len(paths)


@pytest.fixture
def check(tmp_path: Path, aws: EcrDouble, own: Registry) -> Callable[[], tuple[int, list[str]]]:
    """Runs `millpond check`; its exit code, and what it says of the one upstream: ok or FAILED, subject, detail."""
    made = Millpond(
        {
            "upstreams": dict.fromkeys(["docker.io", "ghcr.io", "registry.k8s.io", "quay.io"])
            | {OWN: own.upstream(**login(aws))},
            "default_upstream": OWN,
        },
        tmp_path / "check",
    )

    def run() -> tuple[int, list[str]]:
        done = command.millpond("check", of=made, env=aws.environment)
        assert done.stderr == ""
        assert PASSWORD not in done.stdout
        return done.returncode, done.stdout.splitlines()[-1].split("\t")

    return run


def test_check_logs_in_to_it(check: Callable[[], tuple[int, list[str]]], aws: EcrDouble, own: Registry) -> None:
    assert check() == (0, ["ok", f"upstream {OWN}", f"{own.url} answers"])
    assert aws.count("AssumeRole", RoleArn=ROLE) == 1


def test_check_says_what_keeps_it_from_logging_in(check: Callable[[], tuple[int, list[str]]], aws: EcrDouble) -> None:
    aws.deny(LOGIN)
    code, line = check()
    assert (code, line[:2]) == (1, ["FAILED", f"upstream {OWN}"])
    assert line[2].startswith(f"upstreams.{OWN}.role_arn: '{ROLE}' -> ")
    assert f"allow it in the policy of role {ROLE}" in line[2]
    aws.behave()
    aws.password = "not what the registry wants"
    code, line = check()
    assert (code, line[:2]) == (1, ["FAILED", f"upstream {OWN}"])
    assert "the repository's own policy" in line[2]

"""What the ECR tier gets of the settings: targets with their upstreams and policies, logins with their region."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.ecr.target import Target
from proxy.oci.names import Repository
from proxy.settings import ecr_targets
from tests.settings.conftest import Load, Refusal

TARGET = "name: prod, account: '111122223333', region: us-east-1"
OWN = "111122223333.dkr.ecr.eu-west-1.amazonaws.com"


def test_without_targets_there_is_nothing_to_build(loaded: Load) -> None:
    assert ecr_targets(loaded()) == ()


def test_a_target_takes_every_upstream_that_is_not_an_ecr(loaded: Load) -> None:
    settings = loaded(f"upstreams: {{{OWN}: {{auth: ecr}}, quay.io: null}}\necr: {{targets: [{{{TARGET}}}]}}")
    assert ecr_targets(settings) == (
        Target("prod", "111122223333", "us-east-1", frozenset({"docker.io", "ghcr.io", "registry.k8s.io"})),
    )


def test_a_target_takes_the_upstreams_that_it_names(loaded: Load) -> None:
    text = f"upstreams: {{{OWN}: {{auth: ecr}}}}\necr: {{targets: [{{{TARGET}, upstreams: [quay.io, {OWN}]}}]}}"
    (target,) = ecr_targets(loaded(text))
    assert target.upstreams == {"quay.io", OWN}
    (target,) = ecr_targets(loaded(text, MILLPOND_ECR__TARGETS__0__UPSTREAMS="docker.io, ghcr.io"))
    assert target.upstreams == {"docker.io", "ghcr.io"}


def test_everything_that_a_target_says_arrives_and_policies_are_read(loaded: Load, tmp_path: Path) -> None:
    lifecycle, policy = tmp_path / "lifecycle.json", tmp_path / "policy.json"
    lifecycle.write_text('{"rules": []' + " " * 100 + "}")
    policy.write_text('{"Statement": []}')
    (target,) = ecr_targets(
        loaded(
            f"ecr: {{targets: [{{{TARGET}, role_arn: 'arn:aws:iam::111122223333:role/push', read: false,"
            "endpoint_url: 'http://127.0.0.1:1', repository_prefix: 'm/{upstream}/', platforms: [linux/amd64],"
            "repository: {kms_key: alias/images, scan_on_push: false, tag_mutability: IMMUTABLE_WITH_EXCLUSION,"
            f"exclusions: [latest], lifecycle_policy_file: {lifecycle}, policy_file: {policy}, tags: {{a: b}}}}}}]}}"
        )
    )
    assert (target.role_arn, target.endpoint_url) == ("arn:aws:iam::111122223333:role/push", "http://127.0.0.1:1")
    assert (target.read, target.platforms) == (False, ("linux/amd64",))
    assert target.repository_name(Repository("docker.io", "library/nginx")) == "m/docker.io/library/nginx"
    made = target.repository
    assert (made.kms_key, made.scan_on_push, made.tag_mutability) == ("alias/images", False, "IMMUTABLE_WITH_EXCLUSION")
    assert (made.exclusions, dict(made.tags)) == (("latest",), {"a": "b"})
    assert (made.lifecycle_policy, made.policy) == (lifecycle.read_text(), policy.read_text())


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("", "library/nginx"),
        ("mirror/", "mirror/library/nginx"),
        ("{name}", "library/nginx"),
        ("mirror/{name}/copy", "mirror/library/nginx/copy"),
        ("{upstream}/{name}", "docker.io/library/nginx"),
        ("from-{upstream}/", "from-docker.io/library/nginx"),
        ("{name}/{upstream}", "library/nginx/docker.io"),
    ],
)
def test_the_image_s_own_name_stands_where_the_prefix_says(loaded: Load, prefix: str, name: str) -> None:
    text = f"ecr: {{targets: [{{{TARGET}, upstreams: [docker.io], repository_prefix: '{prefix}'}}]}}"
    (target,) = ecr_targets(loaded(text))
    assert target.repository_name(Repository("docker.io", "library/nginx")) == name


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (OWN, "eu-west-1"),
        ("111122223333.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("111122223333.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("111122223333.dkr-ecr.us-east-2.on.aws", "us-east-2"),
        ("public.ecr.aws", "us-east-1"),
    ],
)
def test_a_registry_of_ecr_needs_its_name_only(loaded: Load, host: str, region: str) -> None:
    upstream = loaded(f"upstreams: {{{host}: {{auth: ecr}}}}").upstreams[host]
    assert (upstream.url, upstream.region) == (f"https://{host}", region)
    assert upstream.is_ecr_public == (host == "public.ecr.aws")


def test_a_registry_of_ecr_behind_another_name_says_its_region(loaded: Load) -> None:
    role = "arn:aws:iam::111122223333:role/pull"
    text = f"upstreams: {{own: {{url: 'http://10.0.0.1', auth: ecr, region: eu-north-1, role_arn: '{role}'}}}}"
    upstream = loaded(text).upstreams["own"]
    assert (upstream.region, upstream.role_arn, upstream.endpoint_url) == ("eu-north-1", role, None)


def test_an_upstream_logs_in_with_a_password_or_not_at_all_unless_it_says_otherwise(loaded: Load) -> None:
    upstreams = loaded(f"upstreams: {{{OWN}: {{}}}}").upstreams
    assert {upstream.auth for upstream in upstreams.values()} == {None}
    assert upstreams[OWN].region is None


def test_the_credential_for_the_balancer_comes_from_its_file_or_the_environment(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("planted\n")
    text = "ecr: {balancer: 'http://millpond:5000', balancer_username: me"
    for settings in (
        loaded(f"{text}, balancer_password_file: {file}}}"),
        loaded(text + "}", MILLPOND_ECR__BALANCER_PASSWORD="planted"),
    ):
        assert settings.ecr.balancer_username == "me"
        assert settings.ecr.balancer_password is not None
        assert settings.ecr.balancer_password.get_secret_value() == "planted"
        assert "planted" not in repr(settings)


def test_half_a_credential_for_the_balancer_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("planted")
    (line,) = refusal("ecr: {balancer_username: me}")
    assert line.startswith("ecr.balancer_password_file: null -> a credential has two halves and this one is missing")
    (line,) = refusal(f"ecr: {{balancer_password_file: {file}}}")
    assert line.startswith("ecr.balancer_username: null -> a credential has two halves and this one is missing")


def test_the_password_for_the_balancer_does_not_belong_into_the_file(refusal: Refusal) -> None:
    (line,) = refusal("ecr: {balancer_username: me, balancer_password: planted}")
    assert line.startswith("ecr.balancer_password: (hidden) -> a balancer_password does not belong into this file")
    assert "balancer_password_file" in line
    assert "MILLPOND_ECR__BALANCER_PASSWORD" in line

"""What `millpond ecr plan` says: repositories that would be created, and the least that IAM has to allow."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from proxy.ecr.plan import OWN_IDENTITY, Login, plan
from proxy.ecr.target import RepositoryTemplate, Target
from proxy.oci.names import Image, Repository, Tag

ROLE: Final = "arn:aws:iam::111122223333:role/push"
HUB: Final = frozenset({"docker.io"})
ARN: Final = "arn:aws:ecr:us-east-1:111122223333:repository/"


def target(name: str = "prod", *, upstreams: frozenset[str] = HUB, **changes: Any) -> Target:
    return Target(**{"name": name, "account": "111122223333", "region": "us-east-1", "upstreams": upstreams, **changes})


def image(text: str) -> Image:
    upstream, _, path = text.partition("/")
    return Image(Repository.parse(upstream, path), Tag("latest"), None)


def statements(*targets: Target, logins: tuple[Login, ...] = (), identity: str = OWN_IDENTITY) -> dict[str, Any]:
    """The identity's statements by their Sid; the whole document has been found valid."""
    document = plan(targets, logins, [])
    (policy,) = [entry["policy"] for entry in document["policies"] if entry["identity"] == identity]
    return {statement["Sid"]: statement for statement in _valid(policy)}


def _valid(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """The grammar of IAM's JSON policies, as far as we use it."""
    assert set(policy) == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids) > 0
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert re.fullmatch(r"[A-Za-z0-9]+", statement["Sid"])
        assert statement["Effect"] == "Allow"
        assert statement["Action"] == sorted(set(statement["Action"])) != []
        assert all(re.fullmatch(r"(?:ecr|ecr-public|kms|sts):[A-Z][A-Za-z]+", action) for action in statement["Action"])
        assert statement["Resource"] != []
        for resource in statement["Resource"]:
            assert resource == "*" or re.fullmatch(
                r"arn:aws[a-z-]*:(?:ecr|kms|iam):[a-z0-9-]*:(?:\d{12}|\*):.+", resource
            )
    return list(policy["Statement"])


def test_without_targets_and_logins_nothing_is_needed() -> None:
    assert plan([], [], [image("docker.io/nginx")]) == {"targets": [], "policies": []}


def test_a_target_may_log_in_and_push_below_its_prefix_and_nothing_else() -> None:
    allowed = statements(target(upstreams=frozenset({"docker.io", "ghcr.io"}), read=False))
    assert set(allowed) == {"LogIn", "Pushprod"}
    assert (allowed["LogIn"]["Action"], allowed["LogIn"]["Resource"]) == (["ecr:GetAuthorizationToken"], ["*"])
    assert allowed["Pushprod"]["Action"] == [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:CompleteLayerUpload",
        "ecr:CreateRepository",
        "ecr:InitiateLayerUpload",
        "ecr:PutImage",
        "ecr:UploadLayerPart",
    ]
    assert allowed["Pushprod"]["Resource"] == [f"{ARN}docker.io/*", f"{ARN}ghcr.io/*"]


@pytest.mark.parametrize(
    ("changes", "actions"),
    [
        ({"read": True}, {"ecr:GetDownloadUrlForLayer"}),
        ({"repository": RepositoryTemplate(tags={"team": "a"})}, {"ecr:TagResource"}),
        (
            {"repository": RepositoryTemplate(lifecycle_policy="{}")},
            {"ecr:GetLifecyclePolicy", "ecr:PutLifecyclePolicy"},
        ),
        ({"repository": RepositoryTemplate(policy="{}")}, {"ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy"}),
    ],
)
def test_an_action_is_allowed_only_where_the_configuration_needs_it(changes: dict[str, Any], actions: set[str]) -> None:
    without = statements(target(read=False))["Pushprod"]["Action"]
    with_it = statements(target(**{"read": False, **changes}))["Pushprod"]["Action"]
    assert set(with_it) - set(without) == actions


@pytest.mark.parametrize(
    ("prefix", "resource"),
    [
        ("", "*"),
        ("mirror/", "mirror/*"),
        ("mirror/{upstream}/{name}", "mirror/docker.io/*"),
        ("{upstream}/{name}/copy", "docker.io/*/copy"),
    ],
)
def test_a_resource_is_what_the_prefix_can_yield(prefix: str, resource: str) -> None:
    assert statements(target(repository_prefix=prefix))["Pushprod"]["Resource"] == [ARN + resource]


@pytest.mark.parametrize(
    ("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("eu-west-1", "aws")]
)
def test_an_arn_is_of_the_region_s_own_partition(region: str, partition: str) -> None:
    (resource,) = statements(target(region=region))["Pushprod"]["Resource"]
    assert resource == f"arn:{partition}:ecr:{region}:111122223333:repository/docker.io/*"


def test_a_role_gets_what_it_does_and_the_caller_may_assume_it() -> None:
    assumed, own = target("prod", role_arn=ROLE), target("dev-2", account="444455556666")
    mine = statements(assumed, own)
    assert mine["AssumeRoles"] == {
        "Sid": "AssumeRoles",
        "Effect": "Allow",
        "Action": ["sts:AssumeRole"],
        "Resource": [ROLE],
    }
    assert set(mine) == {"AssumeRoles", "LogIn", "PushdevX2d2"}
    assert set(statements(assumed, own, identity=ROLE)) == {"LogIn", "Pushprod"}


def test_a_caller_that_does_all_through_one_role_may_assume_it_only() -> None:
    assert set(statements(target("a", role_arn=ROLE), target("b", role_arn=ROLE))) == {"AssumeRoles"}
    assert set(statements(target("a", role_arn=ROLE), target("b", role_arn=ROLE), identity=ROLE)) == {
        "LogIn",
        "Pusha",
        "Pushb",
    }


@pytest.mark.parametrize(
    ("key", "resource"),
    [
        ("arn:aws:kms:us-east-1:999999999999:key/1a-2b", "arn:aws:kms:us-east-1:999999999999:key/1a-2b"),
        ("1a-2b", "arn:aws:kms:us-east-1:111122223333:key/1a-2b"),
    ],
)
def test_a_key_may_be_used_by_way_of_ecr_only(key: str, resource: str) -> None:
    allowed = statements(target(repository=RepositoryTemplate(kms_key=key)))["Encryptprod"]
    assert allowed["Action"] == ["kms:CreateGrant", "kms:DescribeKey"]
    assert allowed["Resource"] == [resource]
    assert allowed["Condition"] == {"StringLike": {"kms:ViaService": "ecr.us-east-1.amazonaws.com*"}}


@pytest.mark.parametrize("key", ["alias/images", "arn:aws:kms:us-east-1:111122223333:alias/images"])
def test_a_key_by_its_alias_is_picked_by_a_condition(key: str) -> None:
    allowed = statements(target(repository=RepositoryTemplate(kms_key=key)))["Encryptprod"]
    assert allowed["Resource"] == ["arn:aws:kms:us-east-1:111122223333:key/*"]
    assert allowed["Condition"]["ForAnyValue:StringEquals"] == {"kms:ResourceAliases": "alias/images"}


def test_an_upstream_that_is_an_ecr_may_be_pulled_from() -> None:
    own = Login("own", "eu-west-1", "444455556666", ROLE)
    anywhere, public = Login("lan", "eu-west-1"), Login("public.ecr.aws", "us-east-1", public=True)
    mine = statements(logins=(own, anywhere, public))
    assert set(mine) == {"AssumeRoles", "LogIn", "LogInPublic", "Pulllan"}
    assert mine["LogInPublic"]["Action"] == ["ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"]
    assert mine["Pulllan"]["Resource"] == ["arn:aws:ecr:eu-west-1:*:repository/*"]
    pulled = statements(logins=(own, anywhere, public), identity=ROLE)["Pullown"]
    assert pulled["Resource"] == ["arn:aws:ecr:eu-west-1:444455556666:repository/*"]
    assert "ecr:PutImage" not in pulled["Action"]


def test_each_target_lists_the_repositories_of_its_own_upstreams_once() -> None:
    images = [image("docker.io/nginx"), image("docker.io/library/nginx"), image("ghcr.io/org/app")]
    both, hub = target("both", upstreams=frozenset({"docker.io", "ghcr.io"})), target("hub", repository_prefix="")
    first, second = plan([both, hub], [], images)["targets"]
    assert (first["name"], first["registry"]) == ("both", "111122223333.dkr.ecr.us-east-1.amazonaws.com")
    assert first["identity"] == OWN_IDENTITY
    assert [repository["name"] for repository in first["repositories"]] == [
        "docker.io/library/nginx",
        "ghcr.io/org/app",
    ]
    assert [repository["name"] for repository in second["repositories"]] == ["library/nginx"]


def test_a_repository_has_the_settings_of_the_configuration() -> None:
    template = RepositoryTemplate("alias/k", False, "IMMUTABLE", (), '{"rules": []}', '{"Statement": []}', {"a": "b"})
    (found,) = plan([target(repository=template)], [], [image("docker.io/nginx")])["targets"][0]["repositories"]
    assert found["settings"] == {
        "encryption": {"type": "KMS", "key": "alias/k"},
        "scan_on_push": False,
        "tag_mutability": "IMMUTABLE",
        "exclusions": [],
        "lifecycle_policy": {"rules": []},
        "policy": {"Statement": []},
        "tags": {"a": "b"},
    }
    (plain,) = plan([target()], [], [image("docker.io/nginx")])["targets"][0]["repositories"]
    assert plain["settings"]["encryption"] == {"type": "AES256"}


def test_an_image_whose_name_ecr_refuses_is_shown_with_the_reason() -> None:
    (found,) = plan([target()], [], [image(f"docker.io/{'a/' * 126}a")])["targets"][0]["repositories"]
    assert "name" not in found
    assert "ECR allows 2 to 256; shorten repository_prefix of prod" in found["problem"]

"""What a configuration would do in AWS, and the least permissions that it needs there. Asks nobody: pure functions.

Actions: the service authorization reference of Amazon ECR. KMS: ECR's user guide, "Encryption at rest": whoever
creates a repository has its key described and two grants made on it; grants are retired at its deletion only, which
Millpond never does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.ecr.errors import Rejected
from proxy.ecr.target import Target, expand
from proxy.oci.names import Image, Repository

POLICY_VERSION: Final = "2012-10-17"
"""The current version of IAM's policy language; without it, AWS takes the one of 2008."""

OWN_IDENTITY: Final = "the identity that Millpond runs with"

# Each is called for every image: what is there, the upload, the manifest, and the first look whether all is done.
PUSH: Final = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
)
READ: Final = ("ecr:GetDownloadUrlForLayer",)
SCANS: Final = ("ecr:DescribeImageScanFindings",)
# What a pull through the registry's own HTTP API is checked for.
PULL: Final = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
PUBLIC: Final = ("ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken")

Statement = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Login:
    """An upstream that is logged in to with AWS credentials. `account` is None where its URL does not say."""

    upstream: str
    region: str
    account: str | None = None
    role_arn: str | None = None
    public: bool = False


def plan(targets: Sequence[Target], logins: Sequence[Login], images: Iterable[Image]) -> dict[str, Any]:
    """JSON: for each target its registry and the repositories of `images`, and one IAM policy for each identity."""
    repositories = sorted({image.repository for image in images})
    return {
        "targets": [
            {
                "name": target.name,
                "registry": target.registry,
                "identity": target.role_arn or OWN_IDENTITY,
                "repositories": [
                    _repository(target, repository)
                    for repository in repositories
                    if repository.upstream in target.upstreams
                ],
            }
            for target in targets
        ],
        "policies": [
            {"identity": identity, "policy": {"Version": POLICY_VERSION, "Statement": statements}}
            for identity, statements in policies(targets, logins).items()
        ],
    }


def policies(targets: Sequence[Target], logins: Sequence[Login]) -> dict[str, list[Statement]]:
    """The statements that each identity needs: Millpond's own first, then each assumed role."""
    found: dict[str, list[Statement]] = {OWN_IDENTITY: []}
    users = [target.role_arn for target in targets] + [login.role_arn for login in logins]
    roles = list(dict.fromkeys(role for role in users if role))
    if roles:
        found[OWN_IDENTITY].append(_allow("AssumeRoles", ["sts:AssumeRole"], roles))
    for identity in (None, *roles):
        statements = found.setdefault(identity or OWN_IDENTITY, [])
        mine = [target for target in targets if target.role_arn == identity]
        pulled = [login for login in logins if login.role_arn == identity and not login.public]
        if mine or pulled:
            statements.append(_allow("LogIn", ["ecr:GetAuthorizationToken"], ["*"]))
        if any(login.public and login.role_arn == identity for login in logins):
            statements.append(_allow("LogInPublic", PUBLIC, ["*"]))
        for target in mine:
            statements.extend(_for_target(target))
        for login in pulled:
            sid = _sid("Pull", login.upstream)
            statements.append(_allow(sid, PULL, [_arn(login.region, login.account or "*", "*")]))
    return {identity: statements for identity, statements in found.items() if statements}


def _for_target(target: Target) -> Iterable[Statement]:
    template, account, region = target.repository, target.account, target.region
    actions = [*PUSH, *(READ if target.read else ()), *(SCANS if target.gate else ()), "ecr:CreateRepository"]
    if template.tags:
        actions.append("ecr:TagResource")
    if template.lifecycle_policy is not None:
        actions += ["ecr:GetLifecyclePolicy", "ecr:PutLifecyclePolicy"]
    if template.policy is not None:
        actions += ["ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy"]
    names = sorted({expand(target.repository_prefix, Repository(upstream, "*")) for upstream in target.upstreams})
    yield _allow(_sid("Push", target.name), sorted(actions), [_arn(region, account, name) for name in names])
    if template.kms_key is not None:
        yield _key(target, template.kms_key)


def _key(target: Target, key: str) -> Statement:
    partition, region = _partition(target.region), target.region
    prefix = f"arn:{partition}:kms:{region}:{target.account}:"
    conditions: dict[str, dict[str, Any]] = {"StringLike": {"kms:ViaService": f"ecr.{region}.amazonaws.com*"}}
    arn, kind, name = key.rpartition("alias/")
    if kind:
        # IAM does not know a key by its alias: the resource is every key, the condition picks the one.
        resource = f"{arn.removesuffix(kind) or prefix}key/*"
        conditions["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": f"alias/{name}"}
    else:
        resource = key if key.startswith("arn:") else f"{prefix}key/{key}"
    statement = _allow(_sid("Encrypt", target.name), ["kms:CreateGrant", "kms:DescribeKey"], [resource])
    return {**statement, "Condition": conditions}


def _repository(target: Target, repository: Repository) -> dict[str, Any]:
    try:
        name = target.repository_name(repository)
    except Rejected as error:
        return {"image": str(repository), "problem": str(error)}
    return {"image": str(repository), "name": name, "settings": _settings(target)}


def _settings(target: Target) -> Mapping[str, Any]:
    template = target.repository
    return {
        "encryption": {"type": "KMS", "key": template.kms_key} if template.kms_key else {"type": "AES256"},
        "scan_on_push": template.scan_on_push,
        "tag_mutability": template.tag_mutability,
        "exclusions": list(template.exclusions),
        "lifecycle_policy": json.loads(template.lifecycle_policy) if template.lifecycle_policy else None,
        "policy": json.loads(template.policy) if template.policy else None,
        "tags": dict(template.tags),
    }


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str]) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def _arn(region: str, account: str, name: str) -> str:
    return f"arn:{_partition(region)}:ecr:{region}:{account}:repository/{name}"


def _partition(region: str) -> str:
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def _sid(verb: str, name: str) -> str:
    """IAM takes letters and digits only, and each name once: what else a name has stands as its code."""
    return verb + "".join(letter if letter.isalnum() else f"X{ord(letter):x}" for letter in name)

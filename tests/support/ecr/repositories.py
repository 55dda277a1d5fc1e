"""The operations on repositories, and the registry's password."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from tests.support.ecr.desk import Desk, Operation
from tests.support.ecr.errors import AwsError, invalid_parameter
from tests.support.ecr.manifests import page
from tests.support.ecr.registry import FakeRepository

MAX_TAGS: Final = 50
"""Tags of a resource; AWS's quota."""
MAX_RULES: Final = 50
"""Rules of a lifecycle policy; AWS's quota."""
_MAX_WILDCARDS: Final = 2  # of one exclusion filter


def create(desk: Desk) -> dict[str, Any]:
    """CreateRepository."""
    asked = desk.parameters
    name, mutability = asked["repositoryName"], asked.get("imageTagMutability", "MUTABLE")
    filters, tags = asked.get("imageTagMutabilityExclusionFilters", []), asked.get("tags", [])
    if bool(filters) != mutability.endswith("_WITH_EXCLUSION"):
        raise invalid_parameter(
            "imageTagMutabilityExclusionFilters", f"filters and {mutability} do not go with each other"
        )
    if any(entry["filter"].count("*") > _MAX_WILDCARDS for entry in filters):
        raise invalid_parameter("imageTagMutabilityExclusionFilters", f"more than {_MAX_WILDCARDS} wildcards")
    if len(tags) > MAX_TAGS:
        raise AwsError("TooManyTagsException", f"{len(tags)} tags")
    if len({tag["Key"] for tag in tags}) < len(tags) or any(tag["Key"].startswith("aws:") for tag in tags):
        raise AwsError("InvalidTagParameterException", "a key twice, or a reserved one")
    if tags:
        desk.permit("TagResource")
    if name in desk.registry.repositories:
        raise AwsError(
            "RepositoryAlreadyExistsException",
            f"The repository with name '{name}' already exists in the registry with id '{desk.registry.account}'",
        )
    settings = {
        "imageTagMutability": mutability,
        "imageScanningConfiguration": asked.get("imageScanningConfiguration", {"scanOnPush": False}),
        "encryptionConfiguration": _encryption(desk),
        "tags": tags,
        **({"imageTagMutabilityExclusionFilters": filters} if filters else {}),
    }
    made = FakeRepository(name, desk.registry.account, desk.registry.region, settings)
    desk.registry.repositories[name] = made
    return {"repository": _described(desk, made)}


def describe(desk: Desk) -> dict[str, Any]:
    """DescribeRepositories."""
    held = desk.registry.repositories
    names = desk.parameters.get("repositoryNames", sorted(held))
    for name in names:
        if name not in held:
            raise AwsError("RepositoryNotFoundException", f"The repository with name '{name}' does not exist")
    return page(desk, "repositories", [_described(desk, held[name]) for name in names])


def put_lifecycle_policy(desk: Desk) -> dict[str, Any]:
    """PutLifecyclePolicy."""
    repository, text = desk.repository, desk.parameters["lifecyclePolicyText"]
    rules = _object("lifecyclePolicyText", text).get("rules")
    if not isinstance(rules, list) or not 1 <= len(rules) <= MAX_RULES:
        raise invalid_parameter("lifecyclePolicyText", f"Lifecycle policy validation failure: 1 to {MAX_RULES} rules")
    for rule in rules:
        if not {"rulePriority", "selection", "action"} <= set(rule):
            raise invalid_parameter("lifecyclePolicyText", "Lifecycle policy validation failure: an incomplete rule")
    if len({rule["rulePriority"] for rule in rules}) < len(rules):
        raise invalid_parameter("lifecyclePolicyText", "Lifecycle policy validation failure: a priority twice")
    repository.lifecycle_policy = text
    return desk.answer(repository, lifecyclePolicyText=text)


def get_lifecycle_policy(desk: Desk) -> dict[str, Any]:
    """GetLifecyclePolicy."""
    repository = desk.repository
    if repository.lifecycle_policy is None:
        raise AwsError("LifecyclePolicyNotFoundException", "Lifecycle policy does not exist")
    return desk.answer(repository, lifecyclePolicyText=repository.lifecycle_policy)


def set_policy(desk: Desk) -> dict[str, Any]:
    """SetRepositoryPolicy."""
    repository, text = desk.repository, desk.parameters["policyText"]
    if not _object("policyText", text).get("Statement"):
        raise invalid_parameter("policyText", "Invalid repository policy provided")
    repository.policy = text
    return desk.answer(repository, policyText=text)


def get_policy(desk: Desk) -> dict[str, Any]:
    """GetRepositoryPolicy."""
    repository = desk.repository
    if repository.policy is None:
        raise AwsError("RepositoryPolicyNotFoundException", "Repository policy does not exist")
    return desk.answer(repository, policyText=repository.policy)


def authorization_token(desk: Desk) -> dict[str, Any]:
    """GetAuthorizationToken."""
    accounts = desk.parameters.get("registryIds", [desk.registry.account])
    hosts = [f"{account}.dkr.ecr.{desk.registry.region}.amazonaws.com" for account in accounts]
    return {"authorizationData": [{**_password(desk), "proxyEndpoint": f"https://{host}"} for host in hosts]}


def public_authorization_token(desk: Desk) -> dict[str, Any]:
    """GetAuthorizationToken of ECR Public: one entry where the other has a list, and no endpoint."""
    return {"authorizationData": _password(desk)}


REPOSITORIES: Final[dict[str, Operation]] = {
    "CreateRepository": create,
    "DescribeRepositories": describe,
    "PutLifecyclePolicy": put_lifecycle_policy,
    "GetLifecyclePolicy": get_lifecycle_policy,
    "SetRepositoryPolicy": set_policy,
    "GetRepositoryPolicy": get_policy,
    "GetAuthorizationToken": authorization_token,
}


def _password(desk: Desk) -> dict[str, Any]:
    password, expires = desk.grant_password()
    return {"authorizationToken": base64.b64encode(f"AWS:{password}".encode()).decode(), "expiresAt": expires}


def _encryption(desk: Desk) -> dict[str, str]:
    chosen: dict[str, str] = dict(desk.parameters.get("encryptionConfiguration", {"encryptionType": "AES256"}))
    if chosen["encryptionType"] == "AES256" and "kmsKey" in chosen:
        raise invalid_parameter("encryptionConfiguration", "a kmsKey needs the encryption type KMS")
    if chosen["encryptionType"] != "AES256":
        own = f"arn:aws:kms:{desk.registry.region}:{desk.registry.account}:key/aws-managed"
        chosen.setdefault("kmsKey", own)
    return chosen


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise invalid_parameter(name, "Invalid JSON syntax")
    return document


def _described(desk: Desk, repository: FakeRepository) -> dict[str, Any]:
    host = f"{repository.account}.dkr.ecr.{repository.region}.amazonaws.com"
    return desk.answer(
        repository,
        repositoryArn=repository.arn,
        repositoryUri=f"{host}/{repository.name}",
        createdAt=repository.created,
        **{name: value for name, value in repository.settings.items() if name != "tags"},
    )

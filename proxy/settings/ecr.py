"""The `ecr` section: registries of AWS accounts that images are written through to. Checked without calling AWS."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr, model_validator

from proxy.settings.base import Misfit, Section, as_list, entries
from proxy.settings.secret import take_credential
from proxy.settings.values import base_url, readable_file

# ECR's own limits (PutLifecyclePolicy, SetRepositoryPolicy, TagResource, image tag mutability filters).
LIFECYCLE_POLICY: Final = (100, 30_720)  # characters
REPOSITORY_POLICY: Final = (2, 10_240)  # characters
MAX_TAGS: Final = 50
MAX_EXCLUSIONS: Final = 5
MAX_EXCLUSION: Final = 128
MAX_TAG_KEY: Final = 128
MAX_TAG_VALUE: Final = 256
MAX_REPOSITORY_NAME: Final = 256

PLACEHOLDER: Final = "{upstream}"
NAME: Final = "{name}"
# With the placeholders filled in: parts of the repository grammar, each closed by a slash. The image's own name
# follows, or is a whole part: joined to another one, two images could get one repository.
_PREFIX: Final = re.compile(r"(?:[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*/)*")
_NAME_PLACED: Final = re.compile(r"(?:[^{}]*/)?\{name\}(?:/[^{}]*)?")
_ROLE: Final = re.compile(r"arn:aws(?:-[a-z]+)*:iam::\d{12}:role/[\w+=,.@/-]{1,512}")
_KMS_KEY: Final = re.compile(r"(?:arn:aws(?:-[a-z]+)*:kms:[a-z0-9-]+:\d{12}:(?:key|alias)/|alias/)?[\w/-]{1,256}")
_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def _text(pattern: str | re.Pattern[str], message: str) -> PlainValidator:
    """A validator of text that matches the whole of `pattern`."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(message)
        return value

    return PlainValidator(check)


def _prefix(value: Any) -> str:
    hint = f'write parts of a repository name, each with a slash after it, such as "mirror/{PLACEHOLDER}/"'
    filled = value.replace(PLACEHOLDER, "u") if isinstance(value, str) else ""
    if NAME in filled:
        fits = _NAME_PLACED.fullmatch(filled) and _PREFIX.fullmatch(filled.replace(NAME, "n") + "/")
    else:
        fits = _PREFIX.fullmatch(filled)
    if not isinstance(value, str) or not fits:
        raise ValueError(f"not the beginning of a repository name; {hint}")
    if len(value) > MAX_REPOSITORY_NAME // 2:
        raise ValueError(f"too long: ECR allows {MAX_REPOSITORY_NAME} characters for the whole name; {hint}")
    return value


def _platforms(value: Any) -> str | tuple[str, ...]:
    if value in ("all", "pulled"):
        return str(value)
    listed = as_list(value)
    if (
        isinstance(listed, list)
        and listed
        and all(isinstance(item, str) and _PLATFORM.fullmatch(item) for item in listed)
    ):
        return tuple(listed)
    raise ValueError("not a choice of platforms; write all, pulled, or a list such as [linux/amd64, linux/arm64/v8]")


def _policy(low: int, high: int) -> AfterValidator:
    """A validator of a file that holds a JSON object of so many characters."""

    def check(file: Path) -> Path:
        try:
            text = file.read_text(encoding="utf-8")
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("this file is not JSON; write the policy document as JSON") from None
        if not isinstance(document, dict):
            raise ValueError("this file is not a policy; write a JSON object")
        if not low <= len(text) <= high:
            raise ValueError(f"this file has {len(text)} characters; ECR takes {low} to {high}")
        return file

    return AfterValidator(check)


def _tags(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise ValueError("not a mapping of text to text; write team: platform, numbers in quotes")
    if len(value) > MAX_TAGS:
        raise ValueError(f"{len(value)} tags are too many; ECR takes {MAX_TAGS}")
    for key, text in value.items():
        if not 1 <= len(key) <= MAX_TAG_KEY or len(text) > MAX_TAG_VALUE or key.lower().startswith("aws:"):
            raise ValueError(
                f"the tag {key[:MAX_TAG_KEY]!r} is refused by AWS; a key has 1 to {MAX_TAG_KEY} characters and does "
                f"not begin with aws:, a value has at most {MAX_TAG_VALUE}"
            )
    return MappingProxyType(dict(value))


def _some_upstreams(value: Any) -> tuple[str, ...]:
    listed = as_list(value)
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(item, str) for item in listed):
        raise ValueError("not a list of upstreams; write their names, such as [docker.io, ghcr.io], or leave it out")
    return tuple(listed)


Role = Annotated[str, _text(_ROLE, "not a role; write its ARN, arn:aws:iam::111122223333:role/name")]
Region = Annotated[str, _text(r"[a-z]{2,}(?:-[a-z]+)+-\d{1,2}", "not an AWS region; write its code, such as us-east-1")]
Exclusion = Annotated[
    str,
    _text(
        rf"[A-Za-z0-9._*-]{{1,{MAX_EXCLUSION}}}",
        'not a tag pattern; write letters, digits, . _ - and the wildcard *, such as "latest*"',
    ),
]


class RepositoryTemplate(Section):
    """How a repository that is missing in ECR is created."""

    kms_key: Annotated[str, _text(_KMS_KEY, 'not a KMS key; write its ARN, its id or "alias/..."')] | None = None
    scan_on_push: bool = True
    tag_mutability: Literal["MUTABLE", "IMMUTABLE", "IMMUTABLE_WITH_EXCLUSION", "MUTABLE_WITH_EXCLUSION"] = "MUTABLE"
    exclusions: Annotated[tuple[Exclusion, ...], BeforeValidator(as_list), Field(max_length=MAX_EXCLUSIONS)] = ()
    lifecycle_policy_file: Annotated[Path, PlainValidator(readable_file), _policy(*LIFECYCLE_POLICY)] | None = None
    policy_file: Annotated[Path, PlainValidator(readable_file), _policy(*REPOSITORY_POLICY)] | None = None
    tags: Annotated[Mapping[str, str], PlainValidator(_tags)] = Field(default_factory=lambda: MappingProxyType({}))

    @model_validator(mode="after")
    def _exclusions_match_mutability(self) -> Self:
        if self.tag_mutability.endswith("_WITH_EXCLUSION") != bool(self.exclusions):
            raise Misfit(
                ("exclusions",),
                list(self.exclusions),
                f"does not fit tag_mutability {self.tag_mutability}; *_WITH_EXCLUSION takes 1 to {MAX_EXCLUSIONS} "
                "tag patterns, the others take none",
            )
        return self


class Target(Section):
    """One registry: an account and a region."""

    name: Annotated[str, _text(_NAME, "not a name; write lower-case letters, digits and dashes, such as prod")]
    account: Annotated[str, _text(r"\d{12}", 'not an AWS account; write its 12 digits in quotes, "111122223333"')]
    region: Region
    role_arn: Role | None = None
    endpoint_url: Annotated[str, PlainValidator(base_url)] | None = None
    repository_prefix: Annotated[str, PlainValidator(_prefix)] = f"{PLACEHOLDER}/"
    platforms: Annotated[Literal["all", "pulled"] | tuple[str, ...], PlainValidator(_platforms)] = "all"
    read: bool = True
    upstreams: Annotated[tuple[str, ...], PlainValidator(_some_upstreams)] | None = None
    repository: RepositoryTemplate = Field(default_factory=RepositoryTemplate)

    @model_validator(mode="after")
    def _key_is_near(self) -> Self:
        key = self.repository.kms_key or ""
        if key.startswith("arn:") and key.split(":")[3] != self.region:
            message = f"this key is in another region; ECR takes one of {self.region}"
            raise Misfit(("repository", "kms_key"), key, message)
        return self


class Ecr(Section):
    """No target means no ECR. `balancer` is the address of what stands before several instances."""

    balancer: Annotated[str, PlainValidator(base_url)] | None = None
    balancer_username: Annotated[str, Field(min_length=1)] | None = None
    balancer_password: SecretStr | None = None  # from the environment, or what its file held when it was loaded
    balancer_password_file: Annotated[Path, PlainValidator(readable_file)] | None = None
    targets: Annotated[tuple[Target, ...], BeforeValidator(entries)] = ()

    @model_validator(mode="after")
    def _credential(self) -> Self:
        take_credential(self, "balancer_")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for index, target in enumerate(self.targets):
            if target.name in seen:
                raise Misfit(("targets", index, "name"), target.name, "two targets have this name; give each its own")
            seen.add(target.name)
        return self

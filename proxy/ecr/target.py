"""One registry of ECR: an account and a region, and how repositories are named and made there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from proxy.ecr.errors import Rejected
from proxy.oci.errors import NameInvalid
from proxy.oci.names import Repository

MIN_NAME: Final = 2
MAX_NAME: Final = 256
"""Characters of a repository name (CreateRepository)."""

Platforms = Literal["all", "pulled"] | tuple[str, ...]
"""Which images of an index are pushed: every one, what was pulled, or those of the listed os/architecture[/variant]."""


@dataclass(frozen=True, slots=True)
class RepositoryTemplate:
    """How a missing repository is created. Policies are their JSON text; None: ECR's default, or no policy."""

    kms_key: str | None = None
    scan_on_push: bool = True
    tag_mutability: str = "MUTABLE"
    exclusions: tuple[str, ...] = ()
    lifecycle_policy: str | None = None
    policy: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_policies(self) -> bool:
        """Whether a repository is not whole with its creation: policies are calls of their own."""
        return self.lifecycle_policy is not None or self.policy is not None


@dataclass(frozen=True, slots=True)
class Target:
    """Where images are written through to. `upstreams` are the names of those that are."""

    name: str
    account: str
    region: str
    upstreams: frozenset[str]
    role_arn: str | None = None
    endpoint_url: str | None = None
    repository_prefix: str = "{upstream}/"
    platforms: Platforms = "all"
    read: bool = True
    gate: bool = False  # its scans decide about pulls
    repository: RepositoryTemplate = field(default_factory=RepositoryTemplate)

    @property
    def registry(self) -> str:
        """The registry's host, as image names have it."""
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return f"{self.account}.dkr.ecr.{self.region}.{suffix}"

    def repository_name(self, repository: Repository) -> str:
        """What the repository is called in ECR.

        Raises:
            Rejected: ECR has no such names.
        """
        name = expand(self.repository_prefix, repository)
        try:
            Repository.parse("", name[: MAX_NAME - 1])
        except NameInvalid:
            raise Rejected(f"{name!r} is no name that ECR allows; change repository_prefix of {self.name}") from None
        if not MIN_NAME <= len(name) <= MAX_NAME:
            raise Rejected(
                f"{name!r} has {len(name)} characters, ECR allows {MIN_NAME} to {MAX_NAME}; shorten repository_prefix "
                f"of {self.name}"
            )
        return name


def expand(prefix: str, repository: Repository) -> str:
    """`prefix` with {upstream} and {name} filled in; the name goes to its end where it is not placed."""
    template = prefix if "{name}" in prefix else prefix + "{name}"
    return template.replace("{upstream}", repository.upstream).replace("{name}", repository.path)

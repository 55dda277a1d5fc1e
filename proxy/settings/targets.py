"""ECR targets beside the upstreams: which images each one gets, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Final

from proxy.ecr.errors import Rejected
from proxy.ecr.target import RepositoryTemplate, Target
from proxy.oci.names import Repository
from proxy.settings import ecr
from proxy.settings.base import Misfit

if TYPE_CHECKING:
    from proxy.settings.model import Settings

SHORT: Final = "a/b"
"""An image's own name for a trial: what is wrong with its repository is wrong with every one of its upstream."""


def ecr_targets(settings: Settings) -> tuple[Target, ...]:
    """The configured targets as the ECR tier takes them, in order: defaults filled in, policies read."""
    auth = {name: upstream.auth for name, upstream in settings.upstreams.items()}
    gate = settings.policy.scan_gate
    return tuple(
        replace(_built(target, upstreams_of(target, auth)), gate=gate is not None and gate.target == target.name)
        for target in settings.ecr.targets
    )


def upstreams_of(target: ecr.Target, auth: Mapping[str, str | None]) -> tuple[str, ...]:
    """The names of the upstreams whose images go to `target`. What comes out of an ECR is in an ECR already."""
    if target.upstreams is not None:
        return tuple(dict.fromkeys(target.upstreams))
    return tuple(name for name, kind in auth.items() if kind != "ecr")


def targets_fit(targets: Sequence[ecr.Target], auth: Mapping[str, str | None]) -> None:
    """Raises Misfit, with the key's path from the top, unless every target can take all of its upstreams.

    `auth` is each upstream's own, by name.
    """
    for index, target in enumerate(targets):
        _one_fits(("ecr", "targets", index), target, auth)
    for (_, one), (index, other) in combinations(enumerate(targets), 2):
        same = all(getattr(one, key) == getattr(other, key) for key in ("account", "region", "repository_prefix"))
        shared = set(upstreams_of(one, auth)) & set(upstreams_of(other, auth))
        if same and (shared or ecr.PLACEHOLDER not in other.repository_prefix):
            message = f"the target {one.name} writes to the same repositories; change this, or remove one of the two"
            raise Misfit(("ecr", "targets", index, "repository_prefix"), other.repository_prefix, message)


def _one_fits(path: tuple[str | int, ...], target: ecr.Target, auth: Mapping[str, str | None]) -> None:
    names = upstreams_of(target, auth)
    for name in names:
        if name not in auth:
            known = ", ".join(auth) or "none is left"
            raise Misfit((*path, "upstreams"), name, f"there is no such upstream; write names of these: {known}")
    if not names:
        message = "no upstream is left for this target; add one that is not an ECR, or name those that it is to hold"
        raise Misfit((*path, "upstreams"), None, message)
    key, prefix = (*path, "repository_prefix"), target.repository_prefix
    if ecr.PLACEHOLDER not in prefix and len(names) > 1:
        message = (
            f"images of {names[0]} and {names[1]} would share repositories; put {ecr.PLACEHOLDER} into it, "
            "or name one upstream in upstreams"
        )
        raise Misfit(key, prefix, message)
    built = _built(target, names, policies=False)
    for name in names:
        try:
            built.repository_name(Repository(name, SHORT))
        except Rejected:
            message = (
                f"the upstream {name} would be in repositories whose names ECR refuses; "
                f"leave it out of this target's upstreams, or write a prefix without {ecr.PLACEHOLDER}"
            )
            raise Misfit(key, prefix, message) from None


def _built(target: ecr.Target, upstreams: Sequence[str], *, policies: bool = True) -> Target:
    template = target.repository
    lifecycle, policy = template.lifecycle_policy_file, template.policy_file
    return Target(
        name=target.name,
        account=target.account,
        region=target.region,
        upstreams=frozenset(upstreams),
        role_arn=target.role_arn,
        endpoint_url=target.endpoint_url,
        repository_prefix=target.repository_prefix,
        platforms=target.platforms,
        read=target.read,
        repository=RepositoryTemplate(
            kms_key=template.kms_key,
            scan_on_push=template.scan_on_push,
            tag_mutability=template.tag_mutability,
            exclusions=template.exclusions,
            lifecycle_policy=lifecycle.read_text(encoding="utf-8") if policies and lifecycle else None,
            policy=policy.read_text(encoding="utf-8") if policies and policy else None,
            tags=template.tags,
        ),
    )

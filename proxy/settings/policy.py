"""The `policy` section: which images may be pulled, whoever asks. Made into the rules that `proxy.pull` carries out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, PlainValidator, model_validator

from proxy.ecr.scan import Severity
from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid
from proxy.pull.rules import Cooldown as CooldownRule
from proxy.pull.rules import Globs, Rules, ScanRule
from proxy.settings.base import Misfit, Section, as_list, entries
from proxy.settings.patterns import patterns_fit
from proxy.settings.values import positive_duration

if TYPE_CHECKING:
    from proxy.settings.model import Settings

# A name has 255 characters and a tag 128; a digest is as long as both.
MAX_PATTERN: Final = 512
MAX_REASON: Final = 500  # it stands in every refusal: a sentence and a link
DAY: Final = 86400.0

_DATE_HINT: Final = "write a day or a moment, such as 2026-12-01 or 2026-12-01T12:00:00Z; without a zone it is UTC"


def _pattern(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{1,{MAX_PATTERN}}}", value):
        raise ValueError("not a pattern of image names; write one such as docker.io/library/*")
    return value


def _exemption(value: Any) -> str:
    pattern = _pattern(value)
    if ":" not in pattern and not pattern.endswith("*"):
        raise ValueError("this names no tag or digest; write image:tag or image@digest, or image:* for all of it")
    return pattern


def _some(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError("no image is meant; write patterns, or leave the key out for every image")
    return patterns


def _digest(value: Any) -> Digest:
    try:
        return Digest.parse(value) if isinstance(value, str) else Digest.parse("")
    except DigestInvalid:
        raise ValueError(
            "not a digest; write sha256: and 64, or sha512: and 128 lower-case hexadecimal digits"
        ) from None


def _moment(value: Any) -> float:
    """Wall time in seconds. YAML has read a date already, an environment variable has not."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"not a date; {_DATE_HINT}") from None
    if not isinstance(value, date):
        raise ValueError(f"not a date; {_DATE_HINT}")
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _reason(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_REASON or not value.isprintable():
        raise ValueError(f"not a reason; write one line of at most {MAX_REASON} characters for whoever is refused")
    return value.strip()


Pattern = Annotated[str, PlainValidator(_pattern)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(as_list)]
SomePatterns = Annotated[tuple[Pattern, ...], BeforeValidator(as_list), AfterValidator(_some)]
Exemptions = Annotated[tuple[Annotated[str, PlainValidator(_exemption)], ...], BeforeValidator(as_list)]
ALL: Final = ("*",)


class Cooldown(Section):
    """Tags of `images` are followed to a new digest once Millpond has known it for `min_age`."""

    images: SomePatterns = ALL
    min_age: Annotated[float, PlainValidator(positive_duration)] = 7 * DAY
    exempt: Exemptions = ()
    trusted_until: Annotated[float, PlainValidator(_moment)] | None = None


class Block(Section):
    """A digest that nobody gets, and why."""

    digest: Annotated[Digest, PlainValidator(_digest)]
    reason: Annotated[str, PlainValidator(_reason)]


class ScanGate(Section):
    """What ECR's scan says decides about `images`."""

    target: str
    severity: Severity = "CRITICAL"
    images: SomePatterns = ALL
    unscanned: Literal["allow", "refuse"] = "allow"


class Policy(Section):
    """Nothing configured: every image may be pulled."""

    cooldown: Annotated[tuple[Cooldown, ...], BeforeValidator(entries)] = ()
    require_digest: Patterns = ()
    block: Annotated[tuple[Block, ...], BeforeValidator(entries)] = ()
    scan_gate: ScanGate | None = None

    @model_validator(mode="after")
    def _blocked_once(self) -> Self:
        seen: set[str] = set()
        for index, block in enumerate(self.block):
            if block.digest in seen:
                raise Misfit(("block", index, "digest"), block.digest, "this is blocked already; keep one of the two")
            seen.add(block.digest)
        return self


def policy_fits(policy: Policy, names: Mapping[str, str], targets: Collection[str]) -> None:
    """Raises Misfit, with the key's path from the top, where a rule could never apply. `names` are all names of the
    upstreams, each with the one that it means; `targets` are those of ECR."""
    for index, rule in enumerate(policy.cooldown):
        patterns_fit(("policy", "cooldown", index, "images"), rule.images, names)
        patterns_fit(("policy", "cooldown", index, "exempt"), rule.exempt, names)
    patterns_fit(("policy", "require_digest"), policy.require_digest, names)
    gate = policy.scan_gate
    if gate is None:
        return
    patterns_fit(("policy", "scan_gate", "images"), gate.images, names)
    if gate.target not in targets:
        known = ", ".join(targets) or "none is configured"
        message = f"there is no such ECR target; write the name of one in ecr.targets: {known}"
        raise Misfit(("policy", "scan_gate", "target"), gate.target, message)


def policy_rules(settings: Settings) -> Rules:
    """The configured rules as `proxy.pull` takes them."""
    policy, gate = settings.policy, settings.policy.scan_gate
    return Rules(
        cooldown=tuple(
            CooldownRule(Globs(rule.images), rule.min_age, Globs(rule.exempt), rule.trusted_until or 0.0)
            for rule in policy.cooldown
        ),
        require_digest=Globs(policy.require_digest) if policy.require_digest else None,
        block={block.digest: block.reason for block in policy.block},
        scan_gate=ScanRule(gate.target, gate.severity, Globs(gate.images), gate.unscanned == "refuse")
        if gate
        else None,
    )

"""The policy section: what is refused, what its defaults are, and the rules that it makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.oci.digest import Digest
from proxy.settings import ecr_targets, load, policy_rules
from tests.settings.conftest import Load, Refusal

BAD: Final = "sha256:" + "0" * 64
TARGETS: Final = "ecr: {targets: [{name: prod, account: '111122223333', region: us-east-1}]}"


def test_without_a_policy_there_are_no_rules(loaded: Load) -> None:
    rules = policy_rules(loaded("policy:"))
    assert (rules.cooldown, rules.require_digest, dict(rules.block), rules.scan_gate) == ((), None, {}, None)


def test_everything_that_a_policy_says_arrives(loaded: Load) -> None:
    rules = policy_rules(
        loaded(
            "policy:\n  cooldown:\n"
            "    - {images: ghcr.io/*, min_age: 1d12h, exempt: ['ghcr.io/org/app:1.2'], trusted_until: 2026-12-01}\n"
            "    - {}\n"
            "  require_digest: [quay.io/*]\n"
            f"  block: [{{digest: '{BAD}', reason: CVE-2024-3094}}]\n"
            f"  scan_gate: {{target: prod, severity: HIGH, images: [docker.io/*], unscanned: refuse}}\n{TARGETS}"
        )
    )
    first, second = rules.cooldown
    assert (first.min_age, first.trusted_until) == (129_600.0, 1_796_083_200.0)
    assert (first.images.match("ghcr.io/org/app"), first.images.match("docker.io/org/app")) == (True, False)
    assert (first.exempt.match("ghcr.io/org/app:1.2"), first.exempt.match("ghcr.io/org/app:1.20")) == (True, False)
    assert (second.min_age, second.trusted_until, second.images.match("docker.io/library/nginx")) == (604_800, 0, True)
    assert rules.require_digest
    assert rules.require_digest.match("quay.io/a/b")
    assert rules.block == {Digest.parse(BAD): "CVE-2024-3094"}
    gate = rules.scan_gate
    assert gate
    assert (gate.target, gate.severity, gate.refuse_unscanned) == ("prod", "HIGH", True)
    assert gate.images.match("docker.io/library/nginx")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-12-01", 1_796_083_200.0),
        ("2026-12-01T12:00:00Z", 1_796_126_400.0),
        ("2026-12-01T12:00:00+02:00", 1_796_119_200.0),
        ("'2026-12-01 12:00'", 1_796_126_400.0),
    ],
)
def test_a_day_or_a_moment_is_read_in_a_file_and_in_a_variable(loaded: Load, text: str, seconds: float) -> None:
    by_file = loaded(f"policy: {{cooldown: [{{trusted_until: {text}}}]}}")
    by_variable = loaded(MILLPOND_POLICY__COOLDOWN__0__TRUSTED_UNTIL=text.strip("'"))
    assert [settings.policy.cooldown[0].trusted_until for settings in (by_file, by_variable)] == [seconds, seconds]


def test_rules_can_be_set_by_the_environment(loaded: Load) -> None:
    settings = loaded(
        MILLPOND_POLICY__REQUIRE_DIGEST="docker.io/*, quay.io/*",
        MILLPOND_POLICY__BLOCK=f'[{{"digest": "{BAD}", "reason": "bad"}}]',
    )
    assert settings.policy.require_digest == ("docker.io/*", "quay.io/*")
    assert settings.policy.block[0].digest == BAD


def test_only_the_target_of_the_gate_is_asked_for_scans(loaded: Load) -> None:
    targets = TARGETS.replace("}]}", "}, {name: dev, account: '111122223333', region: eu-west-1}]}")
    settings = loaded(f"policy: {{scan_gate: {{target: dev}}}}\n{targets}")
    assert [target.gate for target in ecr_targets(settings)] == [False, True]
    assert [target.gate for target in ecr_targets(loaded(targets))] == [False, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cooldown: 7d", "policy.cooldown: '7d' -> not a list; write a list such as [a, b]"),
        ("cooldown: [{min_age: 0}]", "policy.cooldown[0].min_age: 0 -> a deadline must be above zero; write"),
        ("cooldown: [{min_age: soon}]", "policy.cooldown[0].min_age: 'soon' -> not a duration; write \"30s\""),
        (
            "cooldown: [{for: 7d}]",
            "policy.cooldown[0].for -> unknown key; known here: images, min_age, exempt, trusted",
        ),
        ("cooldown: [{images: []}]", "policy.cooldown[0].images: [] -> no image is meant; write patterns, or leave"),
        (
            "cooldown: [{images: [5]}]",
            "policy.cooldown[0].images[0]: 5 -> not a pattern of image names; write one such",
        ),
        ("cooldown: [{images: [a b]}]", "policy.cooldown[0].images[0]: 'a b' -> not a pattern of image names; write"),
        (
            "cooldown: [{images: [nginx]}]",
            "policy.cooldown[0].images[0]: 'nginx' -> no image is like it, as it begins with no upstream; write",
        ),
        (
            "cooldown: [{exempt: ['docker.io/nginx:1']}]",
            "policy.cooldown[0].exempt[0]: 'docker.io/nginx:1' -> an official image's full name is another one; write",
        ),
        (
            "cooldown: [{exempt: [docker.io/library/nginx]}]",
            "policy.cooldown[0].exempt[0]: 'docker.io/library/nginx' -> this names no tag or digest; write image:tag",
        ),
        ("cooldown: [{trusted_until: soon}]", "policy.cooldown[0].trusted_until: 'soon' -> not a date; write a day"),
        (
            "cooldown: [{trusted_until: 5}]",
            "policy.cooldown[0].trusted_until: 5 -> not a date; write a day or a moment",
        ),
        (
            "require_digest: [index.docker.io/*]",
            "policy.require_digest[0]: 'index.docker.io/*' -> an image's full name is another one; write docker.io/*",
        ),
        (
            "block: [{digest: sha256:abc, reason: x}]",
            "policy.block[0].digest: 'sha256:abc' -> not a digest; write sha256:",
        ),
        (f"block: [{{digest: '{BAD}'}}]", "policy.block[0].reason -> this key is required; add it"),
        (f"block: [{{digest: '{BAD}', reason: ' '}}]", "policy.block[0].reason: ' ' -> not a reason; write one line"),
        (
            f"block: [{{digest: '{BAD}', reason: a}}, {{digest: '{BAD}', reason: b}}]",
            f"policy.block[1].digest: '{BAD}' -> this is blocked already; keep one of the two",
        ),
        ("scan_gate: {}", "policy.scan_gate.target -> this key is required; add it"),
        (
            "scan_gate: {target: prod}",
            "policy.scan_gate.target: 'prod' -> there is no such ECR target; write the name of one in ecr.targets",
        ),
        (
            "scan_gate: {target: prod, severity: high}",
            "policy.scan_gate.severity: 'high' -> not one of the choices; write 'INFORMATIONAL', 'LOW'",
        ),
        (
            "scan_gate: {target: a, unscanned: ask}",
            "policy.scan_gate.unscanned: 'ask' -> not one of the choices; write",
        ),
    ],
)
def test_a_policy_that_cannot_work_is_refused(refusal: Refusal, text: str, problem: str) -> None:
    (line,) = refusal(f"policy: {{{text}}}")
    assert line.startswith(problem)


def test_the_optional_keys_in_millpond_yaml_are_the_defaults(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "config" / "millpond.yaml").read_text()
    section: dict[str, Any] = yaml.safe_load(re.sub(r"^#(?!#)", "", text, flags=re.MULTILINE))["policy"]
    (block,), gate = section["block"], section["scan_gate"]
    file = tmp_path / "millpond.yaml"
    targets = yaml.safe_load(TARGETS)
    made = []
    for policy in (section, {"cooldown": [{}], "block": [block], "scan_gate": {"target": gate["target"]}}):
        file.write_text(yaml.safe_dump({"policy": policy, **targets}))
        made.append(load(file, {}).policy)
    assert made[0] == made[1]

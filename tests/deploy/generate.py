"""`python -m tests.deploy.generate` writes the chart's files that follow from others; `--check` only compares.

- values.schema.json: from values.yaml (names, types, comments), the rules below, and Millpond's own settings
- README.md, the table of values: from values.yaml
- files/haproxy.cfg.tpl: from deploy/haproxy/haproxy.cfg, so that there is one text to test
- files/dashboard.json and files/rules.yaml: copies of deploy/grafana/millpond.json and deploy/prometheus/rules.yaml
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.config_schema import Schema, config_schema
from tests.deploy.haproxy_template import ROOT, haproxy_template

CHART: Final = ROOT / "deploy" / "helm" / "millpond"
_BEGIN, _END = "<!-- values: begin -->\n", "<!-- values: end -->"

_PORT: Final = {"minimum": 1, "maximum": 65535}
_COUNT: Final = {"minimum": 1}
_SHARE: Final = {"type": ["integer", "string"], "pattern": r"^\d{1,3}%$", "minimum": 1}
_DIGEST: Final = {"pattern": r"^(sha256:[0-9a-f]{64})?$"}
_NAME: Final = {"pattern": r"^([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?)?$"}
_RETAIN: Final = {"enum": ["Retain", "Delete"]}
_POLICY: Final = {"enum": ["", "Cluster", "Local"]}
_GO_DURATION: Final = {"pattern": r"^(\d+(h|m|s))*$"}
_URL: Final = {"pattern": r"^(https?://[^/@?#\s]+)?$"}
_TEXTS: Final = {"items": {"type": "string", "minLength": 1}}
_OBJECTS: Final = {"items": {"type": "object"}}
_PATH: Final = {"pattern": "^/[^:]+$"}
_LABELS: Final = {"additionalProperties": {"type": "string"}}

# What a default cannot say of its value. "*." is every section that has this key.
_RULES: Final[Mapping[str, Schema]] = {
    "mode": {"enum": ["central", "node"]},
    "existingSecrets": {
        "items": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]{0,54}[a-z0-9])?$"}},
        }
    },
    "*.digest": _DIGEST,
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.pullSecrets": _OBJECTS,
    "nameOverride": _NAME,
    "fullnameOverride": _NAME,
    "*.replicas": _COUNT,
    "central.persistence.size": {"pattern": r"^\d+(\.\d+)?([KMGTP]i?)?$"},
    "central.persistence.whenDeleted": _RETAIN,
    "central.persistence.whenScaled": _RETAIN,
    "central.podDisruptionBudget.maxUnavailable": _SHARE,
    "node.hostPort": _PORT,
    "node.hostIP": {"pattern": r"^[0-9a-fA-F.:]*$"},
    "node.hostPath": _PATH,
    "node.parent": {"pattern": r"^(https?://[^@?#\s]+)?$"},
    "node.maxUnavailable": _SHARE,
    "haproxy.hashBalanceFactor": {"anyOf": [{"const": 0}, {"minimum": 101}]},
    "haproxy.drainSeconds": _COUNT,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": _PORT,
    "service.clusterIP": {"pattern": r"^([0-9a-fA-F.:]*|None)$"},
    "service.nodePort": {"anyOf": [{"const": 0}, {"minimum": 30000, "maximum": 32767}]},
    "service.externalTrafficPolicy": _POLICY,
    "service.internalTrafficPolicy": _POLICY,
    "service.trafficDistribution": {"enum": ["", "PreferClose", "PreferSameZone", "PreferSameNode"]},
    "service.ipFamilyPolicy": {"enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "service.loadBalancerSourceRanges": _TEXTS,
    "tls.certManager.dnsNames": _TEXTS,
    "tls.certManager.ipAddresses": _TEXTS,
    "tls.certManager.duration": _GO_DURATION,
    "tls.certManager.renewBefore": _GO_DURATION,
    "ingress.hosts": _TEXTS,
    "ingress.tls": _OBJECTS,
    "httpRoute.parentRefs": _OBJECTS,
    "httpRoute.hostnames": _TEXTS,
    "networkPolicy.clients": _OBJECTS,
    "networkPolicy.monitoring": _OBJECTS,
    "networkPolicy.egress": _OBJECTS,
    "autoscaling.kind": {"enum": ["none", "hpa", "vpa"]},
    "autoscaling.hpa.minReplicas": _COUNT,
    "autoscaling.hpa.maxReplicas": _COUNT,
    "autoscaling.hpa.targetCPUUtilizationPercentage": {"minimum": 1, "maximum": 100},
    "autoscaling.vpa.updateMode": {"enum": ["Off", "Initial", "Recreate", "Auto", "InPlaceOrRecreate"]},
    "terminationGracePeriodSeconds": _COUNT,
    "*.tolerations": _OBJECTS,
    "*.topologySpreadConstraints": _OBJECTS,
    "extraEnv": {"items": {"type": "object", "required": ["name"]}},
    "extraEnvFrom": _OBJECTS,
    "extraVolumes": {"items": {"type": "object", "required": ["name"]}},
    "extraVolumeMounts": {"items": {"type": "object", "required": ["name", "mountPath"]}},
    "*.annotations": _LABELS,
    "*.labels": _LABELS,
    "podAnnotations": _LABELS,
    "podLabels": _LABELS,
    "commonLabels": _LABELS,
    "*.nodeSelector": _LABELS,
    "serviceMonitor.interval": _GO_DURATION,
    "nodeMirror.address": _URL,
    "nodeMirror.registries": _TEXTS,
    "nodeMirror.directory": _PATH,
    "test.timeoutSeconds": {"minimum": 10},
}
_TYPES: Final[Mapping[type, str]] = {
    bool: "boolean",
    int: "integer",
    str: "string",
    list: "array",
    dict: "object",
}


@dataclass(slots=True)
class Value:
    """One key of values.yaml. A section has keys with comments of their own below it; anything else is a value."""

    path: str
    comment: str
    default: Any = None
    below: list[Value] = field(default_factory=list)


def read_values() -> list[Value]:
    """values.yaml with its comments: a "## " block belongs to the key that follows it."""
    text = (CHART / "values.yaml").read_text()
    top = Value("", "")
    open_sections: list[tuple[int, Value]] = [(-1, top)]
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("## "):
            comment.append(line.lstrip()[3:])
        elif match := re.match(r"( *)([\w-]+):", line):
            indent, name = len(match[1]), match[2]
            while open_sections[-1][0] >= indent:
                open_sections.pop()
            above = open_sections[-1][1]
            made = Value(f"{above.path}.{name}".lstrip("."), " ".join(comment))
            # What is below a value, and not a section, is a part of its default.
            if comment or indent == 0 or not above.comment:
                above.below.append(made)
                open_sections.append((indent, made))
            comment = []
    document = yaml.safe_load(text)
    for value in _all(top.below):
        found = document
        for part in value.path.split("."):
            found = found[part]
        value.default = found
    return top.below


def _all(values: list[Value]) -> Iterator[Value]:
    for value in values:
        yield value
        yield from _all(value.below)


def leaves(values: list[Value]) -> Iterator[Value]:
    """The values, without the sections."""
    return (value for value in _all(values) if not value.below)


def schema() -> str:
    """values.schema.json"""
    values = read_values()
    unused = set(_RULES) - {rule for value in leaves(values) for rule in _rule_names(value.path)}
    if unused:
        raise LookupError(f"rules for no value: {sorted(unused)}")
    whole = _section_schema(values)
    # Helm puts the values of a parent chart here.
    whole["properties"]["global"] = {"type": "object"}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **whole}, indent=2) + "\n"


def _rule_names(path: str) -> list[str]:
    return [path, f"*.{path.rpartition('.')[2]}"]


def _section_schema(values: list[Value]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path.rpartition(".")[2]: _value_schema(value) for value in values},
    }


def _value_schema(value: Value) -> Schema:
    if value.path == "config":
        return {"description": value.comment, **config_schema(), "type": "object"}
    if value.below:
        return _section_schema(value.below)
    rules = next((_RULES[name] for name in _rule_names(value.path) if name in _RULES), {})
    kind = {"type": _TYPES[type(value.default)]} if "enum" not in rules else {}
    return {"description": value.comment, **kind, **rules}


def readme(text: str) -> str:
    """README.md with the table of values in its place."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in leaves(read_values()):
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{value.path}` | `{default}` | {value.comment.replace('|', '&#124;')} |")
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise LookupError("README.md has no place for the table of values")
    return f"{head}{_BEGIN}" + "\n".join(rows) + f"\n{_END}{tail}"


def generated() -> dict[Path, str]:
    """Every file that this module writes, as it has to be."""
    page = CHART / "README.md"
    return {
        CHART / "values.schema.json": schema(),
        page: readme(page.read_text()),
        CHART / "files" / "haproxy.cfg.tpl": haproxy_template(),
        CHART / "files" / "dashboard.json": (ROOT / "deploy" / "grafana" / "millpond.json").read_text(),
        CHART / "files" / "rules.yaml": (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text(),
    }


def main() -> None:
    """Write, or with --check end with 1 when something is out of date."""
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT), "is out of date" if "--check" in sys.argv else "written")
        if "--check" not in sys.argv:
            path.write_text(text)
    sys.exit(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    main()

"""Rendered objects against what Kubernetes takes, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import kubernetes_validate
from jsonschema import Draft202012Validator

from tests.deploy.helm import Object

# The oldest that Chart.yaml admits, the newest, and one between.
VERSIONS: Final = ("1.31", "1.34", "1.37")

_NAMES: Final = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
_DURATION: Final = {"type": "string", "pattern": r"^(\d+(h|m|s))+$"}


_RESTRICTED_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)


def _shape(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


# Custom resources: the parts of their definitions that we use, from the projects' own API references.
_CUSTOM: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _shape(
        "selector",
        "endpoints",
        selector={"type": "object", "required": ["matchLabels"]},
        namespaceSelector=_shape("matchNames", matchNames=_NAMES),
        jobLabel={"type": "string"},
        endpoints={
            "type": "array",
            "minItems": 1,
            "items": _shape("port", port={"type": "string"}, path={"pattern": "^/"}, interval=_DURATION),
        },
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _shape(
        "groups",
        groups={
            "type": "array",
            "minItems": 1,
            "items": _shape(
                "name",
                "rules",
                name={"type": "string"},
                rules={
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        **_shape("alert", "expr", "labels", "annotations"),
                        "properties": {
                            "alert": {"type": "string", "pattern": "^Millpond[A-Za-z]+$"},
                            "expr": {"type": "string"},
                            "for": _DURATION,
                            "labels": _shape("severity", severity={"enum": ["warning", "critical"]}),
                            "annotations": _shape(
                                "summary", "description", summary={"type": "string"}, description={"type": "string"}
                            ),
                        },
                    },
                },
            ),
        },
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _shape(
        "parentRefs",
        "rules",
        parentRefs={"type": "array", "minItems": 1, "items": {"type": "object", "required": ["name"]}},
        hostnames=_NAMES,
        rules={
            "type": "array",
            "minItems": 1,
            "items": _shape(
                "backendRefs",
                matches={
                    "type": "array",
                    "items": _shape(
                        path=_shape("type", "value", type={"const": "PathPrefix"}, value={"pattern": "^/"})
                    ),
                },
                timeouts=_shape(request={"type": "string", "pattern": r"^(\d{1,5}(h|m|s|ms)){1,4}$"}),
                backendRefs={
                    "type": "array",
                    "items": _shape("name", "port", name={"type": "string"}, port={"type": "integer"}),
                },
            ),
        },
    ),
    ("cert-manager.io/v1", "Certificate"): _shape(
        "secretName",
        "issuerRef",
        "dnsNames",
        secretName={"type": "string"},
        issuerRef={"type": "object", "required": ["name"]},
        dnsNames=_NAMES,
        ipAddresses=_NAMES,
        duration=_DURATION,
        renewBefore=_DURATION,
        usages=_NAMES,
        privateKey=_shape(rotationPolicy={"enum": ["Never", "Always"]}),
    ),
    ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler"): _shape(
        "targetRef",
        targetRef=_shape("apiVersion", "kind", "name", apiVersion={}, kind={}, name={}),
        updatePolicy=_shape(updateMode={"enum": ["Off", "Initial", "Recreate", "Auto", "InPlaceOrRecreate"]}),
        resourcePolicy=_shape(
            containerPolicies={"type": "array", "items": {"type": "object", "required": ["containerName"]}}
        ),
    ),
}


def check(item: Object, kubernetes: str) -> None:
    """Raise a validation error if Kubernetes of this version would not take `item` or has no field that it names."""
    _check(json.dumps(item), kubernetes)


@cache  # most objects of most renderings are the same, and the schemas are large
def _check(text: str, kubernetes: str) -> None:
    item = json.loads(text)
    known = _CUSTOM.get((item["apiVersion"], item["kind"]))
    if known is None:
        kubernetes_validate.validate(item, kubernetes, strict=True)
    else:
        assert item["metadata"]["name"]
        Draft202012Validator(known).validate(item["spec"])


def restricted_violations(pod: Object) -> Iterator[str]:
    """What of a pod's spec PodSecurity's level "restricted" forbids (its standard of Kubernetes 1.31)."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"} | {
        "projected",
        "secret",
    }
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= allowed:
            yield f"volume {volume['name']}"
    outer = pod.get("securityContext", {})
    for each in [*pod.get("initContainers", []), *pod["containers"]]:
        security = {**outer, **each.get("securityContext", {})}
        name = each["name"]
        if not security.get("runAsNonRoot") or security.get("runAsUser") == 0:
            yield f"{name} may be root"
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield f"{name} may gain privileges"
        capabilities = security.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name} has capabilities"
        if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"
        if any("hostPort" in port for port in each.get("ports", [])):
            yield f"{name} has a host port"

"""The matrix of values for the chart: each feature on, or off, alone, in both modes, and all at once."""

from __future__ import annotations

from typing import Any, Final

from tests.deploy.helm import Values

TARGET: Final = {"name": "prod", "account": "111122223333", "region": "us-east-1"}
_ROLE: Final = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/millpond"}
SPREAD: Final = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
_AFFINITY: Final = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}]
        }
    }
}
TLS: Final = {"tls": {"enabled": True, "existingSecret": "millpond-cert"}}
_CERT_MANAGER: Final = {
    "tls": {
        "enabled": True,
        "certManager": {
            "enabled": True,
            "issuerRef": {"name": "internal", "kind": "ClusterIssuer"},
            "dnsNames": ["millpond.example.com"],
            "ipAddresses": ["10.0.0.1"],
            "duration": "2160h",
            "renewBefore": "360h",
        },
    }
}

# Each is something that a user may turn on, or off, alone.
COMMON: Final[dict[str, Values]] = {
    "configuration": {"config": {"upstreams": {"quay.io": None, "corp": {"url": "https://registry.example.com"}}}},
    "users": {"config": {"access": {"htpasswd_file": "/run/users"}}, "test": {"existingSecret": "puller"}},
    "ECR": {"config": {"ecr": {"targets": [TARGET]}}, "serviceAccount": {"annotations": _ROLE}},
    "secrets": {
        "existingSecrets": [{"name": "docker-hub"}, {"name": "corp.example"}],
        "config": {
            "upstreams": {
                "docker.io": {
                    "url": "https://registry-1.docker.io",
                    "username": "me",
                    "password_file": "/run/secrets/millpond/docker-hub/password",
                }
            }
        },
    },
    "image": {"image": {"digest": f"sha256:{'0' * 64}", "pullPolicy": "Always", "pullSecrets": [{"name": "pull"}]}},
    "own name": {"nameOverride": "pond", "commonLabels": {"team": "platform"}},
    "own service account": {"serviceAccount": {"create": False, "name": "shared"}},
    "TLS": TLS,
    "TLS with client certificates": {"tls": {**TLS["tls"], "clientCaSecret": "clients"}},
    "TLS by cert-manager": _CERT_MANAGER,
    "no network policy": {"networkPolicy": {"enabled": False}},
    "tight network policy": {
        "networkPolicy": {
            "clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "monitoring": [],
            "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443, "protocol": "TCP"}]}],
        }
    },
    "vertical autoscaling": {
        "autoscaling": {"kind": "vpa", "vpa": {"containerPolicy": {"maxAllowed": {"memory": "8Gi"}}}}
    },
    "scheduling": {
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"disk": "nvme"},
        "tolerations": [{"key": "storage", "operator": "Exists"}],
        "affinity": _AFFINITY,
        "podAnnotations": {"a/b": "c"},
        "podLabels": {"d": "e"},
    },
    "no resources": {"resources": {"requests": None, "limits": None}},
    "extras": {
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "extraVolumes": [{"name": "policies", "configMap": {"name": "policies"}}],
        "extraVolumeMounts": [{"name": "policies", "mountPath": "/policies"}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "30s"},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "grafanaDashboard": {"enabled": True, "annotations": {"grafana_folder": "Caches"}},
    },
    "node mirror": {"nodeMirror": {"enabled": True, "address": "http://10.0.0.1:5000"}},
    "node mirror of k3s with TLS": {
        **TLS,
        "nodeMirror": {
            "enabled": True,
            "address": "https://10.0.0.1:5000",
            "registries": ["docker.io", "_default"],
            "directory": "/var/lib/rancher/k3s/agent/etc/containerd",
            "caSecret": "millpond-cert",
            "seLinuxOptions": {"type": "spc_t"},
            "priorityClassName": "system-node-critical",
            "nodeSelector": {"pool": "work"},
        },
    },
}
CENTRAL: Final[dict[str, Values]] = {
    "one instance": {"central": {"replicas": 1}, "haproxy": {"enabled": False}},
    "own balancer": {"haproxy": {"enabled": False, "ownBalancer": True}},
    "TLS without HAProxy": {**TLS, "central": {"replicas": 1}, "haproxy": {"enabled": False}},
    "no persistence": {"central": {"persistence": {"enabled": False}}},
    "own storage": {
        "central": {
            "persistence": {
                "size": "1Ti",
                "storageClass": "nvme",
                "annotations": {"a/b": "c"},
                "whenDeleted": "Delete",
                "whenScaled": "Delete",
            }
        }
    },
    "no disruption budget": {"central": {"podDisruptionBudget": {"enabled": False}}},
    "half may be away": {"central": {"podDisruptionBudget": {"maxUnavailable": "50%"}}},
    "spread": {"topologySpreadConstraints": [SPREAD], "haproxy": {"topologySpreadConstraints": [SPREAD]}},
    "horizontal autoscaling": {"autoscaling": {"kind": "hpa"}},
    "one HAProxy": {"haproxy": {"replicas": 1}},
    "HAProxy": {
        "haproxy": {
            "hashBalanceFactor": 125,
            "drainSeconds": 300,
            "ipv6": True,
            "image": {"digest": f"sha256:{'1' * 64}"},
            "priorityClassName": "high",
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": _AFFINITY,
        }
    },
    "fixed address": {"service": {"clusterIP": "10.100.0.50"}, "nodeMirror": {"enabled": True}},
    "node port": {"service": {"type": "NodePort", "nodePort": 30500}, "nodeMirror": {"enabled": True}},
    "load balancer": {
        "service": {
            "type": "LoadBalancer",
            "loadBalancerClass": "service.k8s.aws/nlb",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster",
            "ipFamilyPolicy": "PreferDualStack",
            "annotations": {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internal"},
        }
    },
    "traffic anywhere": {"service": {"trafficDistribution": ""}},
    "Ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["millpond.example.com"],
            "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
            "tls": [{"secretName": "cert", "hosts": ["millpond.example.com"]}],
        }
    },
    "HTTPRoute": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "internal", "namespace": "gateways"}],
            "hostnames": ["millpond.example.com"],
            "annotations": {"a/b": "c"},
        }
    },
}
NODE: Final[dict[str, Values]] = {
    "parent": {"node": {"parent": "http://millpond.millpond.svc.cluster.local:5000"}},
    "every address": {"node": {"hostIP": "", "hostPort": 5555}},
    "IPv6 node": {"node": {"hostIP": "::1"}, "nodeMirror": {"enabled": True}},
    "own directory": {"node": {"hostPath": "/mnt/nvme/millpond"}},
    "untainted nodes": {"node": {"tolerateAll": False, "maxUnavailable": 1}},
}


def merged(*layers: Values) -> dict[str, Any]:
    """Later layers win, section by section."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = whole.get(key)
            whole[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return whole


# Everything that does not exclude something else.
_ALL: Final = ("one instance", "own balancer", "TLS without HAProxy", "no persistence", "no network policy")
CASES: Final[dict[str, Values]] = {
    "central": {},
    "node": {"mode": "node"},
    **{f"central: {name}": values for name, values in {**COMMON, **CENTRAL}.items()},
    **{f"node: {name}": {"mode": "node", **values} for name, values in {**COMMON, **NODE}.items()},
    "central: everything": merged(
        *(
            values
            for name, values in {**COMMON, **CENTRAL}.items()
            if name not in (*_ALL, "TLS", "TLS by cert-manager", "TLS with client certificates", "vertical autoscaling")
        )
    ),
}

"""The chart's values: what is generated is up to date, right ones are taken, wrong ones refused clearly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft7Validator

from proxy.settings import SettingsError, load
from tests.deploy.chart_cases import CASES
from tests.deploy.config_schema import config_schema
from tests.deploy.generate import CHART, generated, leaves, read_values
from tests.deploy.helm import Values, one, refusal, render
from tests.settings.test_documentation import _with_optional_keys
from tests.support.programs import require

_ISSUER: Final = {"name": "internal"}
_ECR: Final = {"name": "prod", "account": "111122223333", "region": "us-east-1"}


@pytest.fixture(scope="module", autouse=True)
def _program() -> None:
    require("helm")


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_a_generated_file_is_up_to_date(path: Path) -> None:
    assert path.read_text() == generated()[path], "run python -m tests.deploy.generate"


def test_every_value_is_explained() -> None:
    assert [value.path for value in leaves(read_values()) if not value.comment] == []


def _set_by(values: Any, known: set[str], path: str = "") -> set[str]:
    """The paths of all values that are set."""
    if path in known or not isinstance(values, dict):
        return {path}
    return set().union(*(_set_by(below, known, f"{path}.{key}".lstrip(".")) for key, below in values.items()))


def test_every_value_is_tried_by_the_matrix_or_by_the_next_test() -> None:
    known = {value.path for value in leaves(read_values())}
    tried = set().union(*(_set_by(values, known) for values in CASES.values()))
    assert known - tried == {
        "fullnameOverride",
        "clusterDomain",
        "image.repository",
        "image.tag",
        "haproxy.image.repository",
        "haproxy.image.tag",
        "haproxy.resources",
        "service.port",
        "terminationGracePeriodSeconds",
        "autoscaling.hpa.minReplicas",
        "autoscaling.hpa.maxReplicas",
        "autoscaling.hpa.targetCPUUtilizationPercentage",
        "autoscaling.hpa.behavior",
        "autoscaling.vpa.updateMode",
        "grafanaDashboard.labels",
        "nodeMirror.resources",
        "nodeMirror.tolerations",
        "test.image",
        "test.timeoutSeconds",
    }


def test_the_untried_values_arrive_where_they_belong() -> None:
    text = yaml.safe_dump_all(
        render(
            {
                "fullnameOverride": "another-name",
                "clusterDomain": "corp.internal",
                "image": {"repository": "registry.example.com/pond", "tag": "9.9"},
                "haproxy": {
                    "image": {"repository": "registry.example.com/balancer", "tag": "3.3"},
                    "resources": {"limits": {"memory": "333Mi"}},
                },
                "service": {"port": 5433},
                "serviceAccount": {"name": "own-account"},
                "terminationGracePeriodSeconds": 61,
                "autoscaling": {
                    "kind": "hpa",
                    "hpa": {
                        "minReplicas": 2,
                        "maxReplicas": 17,
                        "targetCPUUtilizationPercentage": 42,
                        "behavior": {"scaleUp": {"stabilizationWindowSeconds": 77}},
                    },
                },
                "grafanaDashboard": {"enabled": True, "labels": {"own_label": "yes"}},
                "nodeMirror": {
                    "enabled": True,
                    "address": "http://10.0.0.1:5000",
                    "resources": {"limits": {"memory": "444Mi"}},
                    "tolerations": [{"key": "own-taint", "operator": "Exists"}],
                },
                "test": {"image": "ghcr.io/org/small:1", "timeoutSeconds": 99},
            }
        ),
        width=1000,
    )
    for wanted in (
        "name: another-name-haproxy",
        "svc.corp.internal:5000 id 17",
        "http://another-name.caches.svc.corp.internal:5433",
        "image: registry.example.com/pond:9.9",
        "image: registry.example.com/balancer:3.3",
        "memory: 333Mi",
        "memory: 444Mi",
        "port: 5433",
        "serviceAccountName: own-account",
        "terminationGracePeriodSeconds: 61",
        "minReplicas: 2",
        "maxReplicas: 17",
        "averageUtilization: 42",
        "stabilizationWindowSeconds: 77",
        "own_label: ",
        "key: own-taint",
        "- ghcr.io/org/small:1",
        "activeDeadlineSeconds: 99",
    ):
        assert wanted in text, wanted
    vpa = one(render({"autoscaling": {"kind": "vpa", "vpa": {"updateMode": "Recreate"}}}), "VerticalPodAutoscaler")
    assert vpa["spec"]["updatePolicy"] == {"updateMode": "Recreate"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        # By the schema: the path of the value, and what would be right.
        ({"mode": "both"}, ["/mode", "'central', 'node'"]),
        ({"mod": "node"}, ["'mod' not allowed"]),
        ({"central": {"replicas": 0}}, ["/central/replicas", "minimum: got 0, want 1"]),
        ({"central": {"replicas": "3"}}, ["/central/replicas", "want integer"]),
        ({"central": {"persistence": {"size": "a lot"}}}, ["/central/persistence/size", "'a lot'"]),
        ({"service": {"nodePort": 80}}, ["/service/nodePort"]),
        ({"service": {"type": "Cluster"}}, ["/service/type", "'NodePort'"]),
        ({"haproxy": {"hashBalanceFactor": 50}}, ["/haproxy/hashBalanceFactor"]),
        ({"image": {"digest": "latest"}}, ["/image/digest"]),
        ({"existingSecrets": ["docker-hub"]}, ["/existingSecrets/0", "want object"]),
        ({"existingSecrets": [{"name": "a", "password": "x"}]}, ["/existingSecrets/0", "'password' not allowed"]),
        ({"node": {"parent": "millpond:5000"}}, ["/node/parent"]),
        ({"nodeMirror": {"address": "http://me@host"}}, ["/nodeMirror/address"]),
        # … in Millpond's own configuration too.
        ({"config": {"cache": {"max_szie": "1GiB"}}}, ["/config/cache", "'max_szie' not allowed"]),
        ({"config": {"cache": {"max_size": "plenty"}}}, ["/config/cache/max_size", "'plenty'"]),
        ({"config": {"registry": {"keep_alive": "soon"}}}, ["/config/registry/keep_alive", "'soon'"]),
        ({"config": {"registry": {"listen": "5000"}}}, ["/config/registry/listen", "'5000'"]),
        ({"config": {"log": {"level": "loud"}}}, ["/config/log/level", "'debug'"]),
        ({"config": {"upstreams": {"docker.io": {"url": "docker.io"}}}}, ["/config/upstreams/docker.io/url"]),
        ({"config": {"upstreams": {"docker.io": {"connections_per_blob": 99}}}}, ["connections_per_blob", "want 32"]),
        ({"config": {"upstreams": {"docker.io": {"password": "x"}}}}, ["docker.io/password", "existingSecrets"]),
        ({"config": {"ecr": {"balancer_password": "x"}}}, ["ecr/balancer_password", "balancer_password_file names"]),
        ({"config": {"ecr": {"targets": [{"name": "prod"}]}}}, ["/config/ecr/targets/0", "'account', 'region'"]),
        ({"config": {"ecr": {"targets": [{**_ECR, "account": 111122223333}]}}}, ["/targets/0/account", "want string"]),
        # By the templates: values that do not fit each other, and what to do.
        ({"config": {"admin": {"listen": "127.0.0.1:5001"}}}, ["config.admin.listen", "leave it out"]),
        ({"config": {"cache": {"directory": "/data"}}}, ["config.cache.directory", "leave it out"]),
        ({"config": {"registry": {"grace_period": "90s"}}}, ["terminationGracePeriodSeconds", "write 100 or more"]),
        ({"config": {"registry": {"grace_period": "1m 30s"}}}, ["terminationGracePeriodSeconds", "write 100 or more"]),
        ({"config": {"access": {"networks": ["10.0.0.0/8"]}}}, ["config.access.trusted_forwarders"]),
        ({"config": {"access": {"max_pulls": 6}}}, ["config.access.trusted_forwarders"]),
        (
            {"config": {"registry": {"tls": {"cert_file": "/c", "key_file": "/k"}}}},
            ["config.registry.tls", "tls.enabled"],
        ),
        (
            {"config": {"upstreams": {"docker.io": {"password_file": "/run/secrets/millpond/hub/password"}}}},
            ["existingSecrets does not have hub", "add {name: hub}"],
        ),
        ({"tls": {"enabled": True}}, ["tls.existingSecret or tls.certManager.enabled"]),
        ({"tls": {"certManager": {"enabled": True}}}, ["issuerRef.name"]),
        (
            {
                "tls": {
                    "enabled": True,
                    "existingSecret": "a",
                    "certManager": {"enabled": True, "issuerRef": {"name": "b"}},
                }
            },
            ["keep one of them"],
        ),
        ({"tls": {"clientCaSecret": "ca"}}, ["set tls.enabled"]),
        (
            {
                "mode": "node",
                "tls": {"enabled": True, "existingSecret": "a", "clientCaSecret": "b"},
                "nodeMirror": {"enabled": True},
            },
            ["no client certificate"],
        ),
        ({"mode": "node", "autoscaling": {"kind": "hpa"}}, ["write none or vpa"]),
        ({"mode": "node", "ingress": {"enabled": True, "hosts": ["a"]}}, ["ingress.enabled", "mode central"]),
        ({"mode": "node", "httpRoute": {"enabled": True}}, ["httpRoute.enabled", "mode central"]),
        ({"node": {"parent": "http://a:5000"}}, ["node.parent", "leave it empty"]),
        (
            {
                "mode": "node",
                "node": {"parent": "http://a:5000"},
                "config": {"upstreams": {"ghcr.io": {"username": "me"}}},
            },
            ["config.upstreams.ghcr.io", "the parent's configuration"],
        ),
        ({"haproxy": {"enabled": False}}, ["central.replicas to 1", "haproxy.ownBalancer"]),
        ({"autoscaling": {"kind": "hpa", "hpa": {"minReplicas": 9}}}, ["more than maxReplicas"]),
        ({"ingress": {"enabled": True}}, ["ingress.hosts"]),
        ({"httpRoute": {"enabled": True}}, ["httpRoute.parentRefs"]),
        ({"nodeMirror": {"enabled": True}}, ["nodeMirror.address", "service.clusterIP"]),
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused_with_a_clear_message(values: Values, said: list[str]) -> None:
    message = refusal(values)
    for part in said:
        assert part in message, message


def test_the_schema_takes_every_key_of_the_configuration() -> None:
    document = _with_optional_keys()
    Draft7Validator(config_schema()).validate(document)
    # Paths of this chart's own; the certificate's is the chart's matter.
    document["registry"].pop("tls")
    document["admin"]["listen"] = "0.0.0.0:5001"
    document["cache"]["directory"] = "/var/lib/millpond"
    rendered = one(render({"config": document}), "ConfigMap")["data"]["millpond.yaml"]
    assert yaml.safe_load(rendered) == document


@pytest.mark.parametrize(
    "config",
    [
        {"cache": {"max_size": 53687091200, "min_free": "1.5 gib"}},
        {"cache": {"max_size": "80%", "min_free": 0}},
        {"cache": {"max_size": "20Gi", "min_free": "512 kB"}},
        {"cache": None},
        {"registry": {"grace_period": 0, "keep_alive": "1h 30m", "header_timeout": 2.5, "write_timeout": "500ms"}},
        {"registry": {"grace_period": "10", "listen": "[::]:5000"}},
        {"upstreams": {"quay.io": None, "localhost:5000": None, "corp": {"url": "HTTPS://host:1/a/b"}}},
        {"upstreams": {"docker.io": {"aliases": "a.example, b.example", "token_hosts": []}}},
        {"upstreams": {"public.ecr.aws": {"auth": "ecr"}}},
        {"ecr": {"targets": [{**_ECR, "platforms": ["linux/amd64"], "repository_prefix": "a/{upstream}/{name}"}]}},
        {
            "ecr": {
                "targets": [
                    {**_ECR, "platforms": "pulled", "upstreams": ["ghcr.io"], "repository": {"tags": {"a": ""}}}
                ]
            }
        },
        {
            "ecr": {
                "targets": [
                    {**_ECR, "repository": {"tag_mutability": "IMMUTABLE_WITH_EXCLUSION", "exclusions": ["latest*"]}},
                    {
                        **_ECR,
                        "name": "two",
                        "region": "eu-west-1",
                        "repository": {"kms_key": "alias/ecr", "scan_on_push": False},
                    },
                ]
            }
        },
    ],
    ids=json.dumps,
)
def test_what_millpond_takes_the_schema_takes_and_helm_passes_on(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "millpond.yaml"
    file.write_text(yaml.safe_dump(config))
    wanted = load(file, {})
    file.write_text(one(render({"config": config}), "ConfigMap")["data"]["millpond.yaml"])
    got = load(file, {})
    assert (got.upstreams, got.ecr.targets) == (wanted.upstreams, wanted.ecr.targets)
    assert got.default_upstream == wanted.default_upstream
    assert got.registry.keep_alive == wanted.registry.keep_alive
    assert got.cache.min_free == wanted.cache.min_free


@pytest.mark.parametrize(
    "config",
    [
        {"cache": {"max_size": "10 apples"}},
        {"cache": {"max_size": -1}},
        {"registry": {"keep_alive": "1h and more"}},
        {"registry": {"listen": "host"}},
        {"upstreams": {"Docker Hub": {}}},
        {"upstreams": {"a.example": {"url": "https://me:pw@a.example"}}},
        {"ecr": {"targets": [{**_ECR, "region": "here"}]}},
        {"ecr": {"targets": [{**_ECR, "repository": {"tag_mutability": "SOMETIMES"}}]}},
        {"unknown": 1},
    ],
    ids=json.dumps,
)
def test_what_the_schema_refuses_millpond_refuses_too(config: dict[str, Any], tmp_path: Path) -> None:
    assert not Draft7Validator(config_schema()).is_valid(config)
    file = tmp_path / "millpond.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(SettingsError):
        load(file, {})


def test_the_examples_in_the_chart_s_readme_render() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), flags=re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        assert render(yaml.safe_load(example))


def test_without_a_volume_the_cache_stays_below_what_the_kubelet_allows_it() -> None:
    values: Values = {"central": {"persistence": {"enabled": False, "size": "100Gi"}}}
    configuration = one(render(values), "ConfigMap")["data"]["millpond.yaml"]
    assert yaml.safe_load(configuration)["cache"]["max_size"] == "90.00GiB"

"""What the chart renders: every object is one that Kubernetes takes, and they fit each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from proxy import __version__
from tests.deploy.chart_cases import CASES, SPREAD, TARGET, TLS, merged
from tests.deploy.generate import CHART
from tests.deploy.helm import NAMESPACE, Object, Values, container, lint, names, notes, one, refusal, render
from tests.deploy.schemas import VERSIONS, check, restricted_violations
from tests.support.programs import require


@pytest.fixture(scope="module", autouse=True)
def _program() -> None:
    require("helm")


@pytest.fixture(scope="module")
def defaults() -> dict[str, list[Object]]:
    """What each mode renders without any values."""
    return {mode: render({"mode": mode}) for mode in ("central", "node")}


def _workloads(objects: list[Object]) -> Iterator[Object]:
    return (item for item in objects if item["kind"] in ("StatefulSet", "DaemonSet", "Deployment"))


def _pods(objects: list[Object]) -> Iterator[tuple[dict[str, str], Object]]:
    """Labels and spec of every pod that would run."""
    for item in _workloads(objects):
        template = item["spec"]["template"]
        yield template["metadata"]["labels"], template["spec"]
    for item in objects:
        if item["kind"] == "Pod":
            yield item["metadata"]["labels"], item["spec"]


def _selectors(objects: list[Object]) -> Iterator[dict[str, str]]:
    """Every label selector of the chart's own pods."""
    for item in objects:
        spec = item.get("spec", {})
        match item["kind"]:
            case "Service":
                yield spec["selector"]
            case "StatefulSet" | "DaemonSet" | "Deployment" | "PodDisruptionBudget":
                yield spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                yield spec["podSelector"]["matchLabels"]
                own = [
                    peer for rule in spec.get("ingress", []) for peer in rule.get("from", []) if "podSelector" in peer
                ]
                own += [peer for rule in spec.get("egress", []) for peer in rule.get("to", []) if "podSelector" in peer]
                yield from (peer["podSelector"]["matchLabels"] for peer in own)


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_one_that_kubernetes_takes_and_they_fit_each_other(
    case: str, defaults: dict[str, list[Object]]
) -> None:
    objects = render(CASES[case])
    if case not in defaults:
        assert objects != defaults[CASES[case].get("mode", "central")], "these values change nothing"
    for item in objects:
        assert item["metadata"].get("namespace", NAMESPACE) == NAMESPACE
        for version in VERSIONS:
            check(item, version)
    keys = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(keys) == len(set(keys))
    pods = list(_pods(objects))
    for selector in _selectors(objects):
        assert any(selector.items() <= labels.items() for labels, _ in pods), selector
    for _, pod in pods:
        _holds_together(pod, objects)


def _holds_together(pod: Object, objects: list[Object]) -> None:
    """Every name that a pod uses is there."""
    claims = [
        claim["metadata"]["name"]
        for item in objects
        if item["kind"] == "StatefulSet"
        for claim in item["spec"].get("volumeClaimTemplates", [])
    ]
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    assert len(volumes) == len(pod.get("volumes", []))
    for each in [*pod.get("initContainers", []), *pod["containers"]]:
        mounts = each.get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} <= volumes | set(claims)
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
        ports = {port["name"] for port in each.get("ports", [])}
        probes = [each[name] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in each]
        assert {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe} <= ports
    for volume in pod.get("volumes", []):
        name = volume.get("configMap", {}).get("name")
        assert name is None or name in [*names(objects, "ConfigMap"), "policies"]


@pytest.mark.parametrize("values", [{}, {"mode": "node"}, CASES["central: everything"]], ids=["central", "node", "all"])
def test_helm_lint_finds_no_fault(values: Values) -> None:
    assert "0 chart(s) failed" in lint(values)


def test_the_oldest_kubernetes_that_is_admitted_is_the_oldest_that_is_checked() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={VERSIONS[0]}.0-0"


def test_the_chart_deploys_this_version_of_millpond(defaults: dict[str, list[Object]]) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    instance = container(one(defaults["central"], "StatefulSet"))
    assert instance["image"] == f"ghcr.io/millpond/millpond:{__version__}"


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("central") and "node mirror" not in case])
def test_the_pods_of_mode_central_pass_podsecurity_restricted(case: str) -> None:
    for labels, pod in _pods(render(CASES[case])):
        if labels["app.kubernetes.io/component"] != "node-mirror":
            assert list(restricted_violations(pod)) == []


def test_mode_node_and_the_mirror_break_podsecurity_only_where_they_must() -> None:
    objects = render({"mode": "node", "nodeMirror": {"enabled": True}})
    found = {labels["app.kubernetes.io/component"]: list(restricted_violations(pod)) for labels, pod in _pods(objects)}
    assert found == {
        "cache": ["volume cache", "directory may be root", "directory has capabilities", "millpond has a host port"],
        "node-mirror": ["volume containerd", "node-mirror may be root"],
        "test": [],
    }


def test_every_container_has_a_read_only_root_and_no_token_of_kubernetes() -> None:
    for mode in ("central", "node"):
        for _, pod in _pods(render({"mode": mode, "nodeMirror": {"enabled": True, "address": "http://10.0.0.1:5000"}})):
            assert pod["automountServiceAccountToken"] is False
            assert pod["enableServiceLinks"] is False
            for each in [*pod.get("initContainers", []), *pod["containers"]]:
                assert each["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("mode", ["central", "node"])
def test_a_new_configuration_is_a_new_pod_and_the_same_one_is_not(mode: str) -> None:
    def checksum(**values: Any) -> str:
        objects = render({"mode": mode, **values})
        workload = one(objects, "StatefulSet" if mode == "central" else "DaemonSet")
        return str(workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum(ingress={"className": "nginx"})
    assert checksum() != checksum(config={"log": {"level": "debug"}})


def test_haproxy_knows_every_instance_by_a_name_that_a_restart_keeps() -> None:
    for values, count in (({"central": {"replicas": 4}}, 4), ({"autoscaling": {"kind": "hpa"}}, 6)):
        objects = render(values)
        text = one(objects, "ConfigMap", "-haproxy")["data"]["haproxy.cfg"]
        servers = [line.split()[1:3] for line in text.splitlines() if line.startswith("    server ")]
        assert servers == [
            [f"millpond-{n}", f"millpond-{n}.millpond-instances.{NAMESPACE}.svc.cluster.local:5000"]
            for n in range(count)
        ]
        assert one(objects, "StatefulSet")["spec"]["serviceName"] == "millpond-instances"
        # Not ready is not gone: HAProxy decides by its own check.
        assert one(objects, "Service", "-instances")["spec"]["publishNotReadyAddresses"] is True


def test_a_pod_is_not_killed_before_its_pulls_have_ended(defaults: dict[str, list[Object]]) -> None:
    pod = one(defaults["central"], "StatefulSet")["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + 25 + 10  # registry.grace_period, and room to end
    balancer = one(defaults["central"], "Deployment", "-haproxy")["spec"]["template"]["spec"]
    before = balancer["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    text = one(defaults["central"], "ConfigMap", "-haproxy")["data"]["haproxy.cfg"]
    assert "hard-stop-after 120s" in text
    assert balancer["terminationGracePeriodSeconds"] > before + 120


def test_only_haproxy_and_the_monitoring_reach_the_admin_port(defaults: dict[str, list[Object]]) -> None:
    for mode, expected in (("central", ["haproxy", "monitoring"]), ("node", ["monitoring"])):
        rules = one(defaults[mode], "NetworkPolicy")["spec"]["ingress"]
        found = []
        for rule in rules:
            if "metrics" in [port["port"] for port in rule["ports"]]:
                (peer,) = rule["from"]
                (labels,) = [selector["matchLabels"] for selector in peer.values()]
                found.append(labels.get("app.kubernetes.io/component") or labels["kubernetes.io/metadata.name"])
        assert found == expected


def test_clients_are_balanced_by_haproxy_or_stay_on_their_node(defaults: dict[str, list[Object]]) -> None:
    central, node = (one(defaults[mode], "Service")["spec"] for mode in ("central", "node"))
    assert central["selector"]["app.kubernetes.io/component"] == "haproxy"
    assert central["trafficDistribution"] == "PreferClose"
    assert node["selector"]["app.kubernetes.io/component"] == "cache"
    assert node["internalTrafficPolicy"] == "Local"


def test_the_label_selector_is_added_to_constraints_without_one() -> None:
    own = {**SPREAD, "labelSelector": {"matchLabels": {"a": "b"}}}
    pod = one(render({"topologySpreadConstraints": [SPREAD, own]}), "StatefulSet")["spec"]["template"]["spec"]
    added, kept = pod["topologySpreadConstraints"]
    assert added["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "cache"
    assert kept == own


def test_the_node_mirror_is_off_by_default(defaults: dict[str, list[Object]]) -> None:
    assert names(defaults["central"], "DaemonSet") == []
    assert names(defaults["node"], "DaemonSet") == ["millpond"]


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({"mode": "node"}, "http://127.0.0.1:5000"),
        ({"mode": "node", **TLS}, "https://127.0.0.1:5000"),
        ({"mode": "node", "node": {"hostIP": "::1", "hostPort": 5555}}, "http://[::1]:5555"),
        ({"service": {"clusterIP": "10.100.0.50"}}, "http://10.100.0.50:5000"),
        ({"service": {"clusterIP": "fd00::50"}}, "http://[fd00::50]:5000"),
        ({"service": {"type": "NodePort", "nodePort": 30500}}, "http://127.0.0.1:30500"),
        ({"nodeMirror": {"address": "http://cache.example.com"}}, "http://cache.example.com"),
    ],
)
def test_the_node_mirror_and_the_notes_find_the_address_of_nodes(values: Values, address: str) -> None:
    values = merged(values, {"nodeMirror": {"enabled": True}})
    command = container(one(render(values), "DaemonSet", "-node-mirror"))
    assert command["args"][:3] == ["mirror-config", "containerd", address]
    assert command["readinessProbe"]["exec"]["command"][:4] == ["millpond", *command["args"][:3]]
    assert address in notes(values)


def test_the_node_mirror_covers_every_upstream_of_the_configuration() -> None:
    plain = {"url": "http://reg.corp:5000"}  # what the way around Millpond has to be as well
    config: Values = {"upstreams": {"quay.io": None, "registry.example.com": {}, "reg.corp:5000": plain}}
    objects = render({"mode": "node", "config": config, "nodeMirror": {"enabled": True}})
    args = container(one(objects, "DaemonSet", "-node-mirror"))["args"]
    registries = [args[index + 1] for index, argument in enumerate(args) if argument == "--registry"]
    assert registries[:3] == ["docker.io", "ghcr.io", "registry.k8s.io"]
    assert sorted(registries[3:]) == ["reg.corp:5000=http://reg.corp:5000", "registry.example.com"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "give them an address"),
        ({}, "delete pvc"),
        ({}, 'server = "https://registry-1.docker.io"'),
        ({"mode": "node"}, "The cache stays on the nodes, in /var/lib/millpond"),
        ({"mode": "node", "nodeMirror": {"enabled": True}}, "The nodes get back what they had"),
        ({"config": {"ecr": {"targets": [TARGET]}}}, f"service account millpond in the namespace {NAMESPACE}"),
    ],
)
def test_the_notes_say_how_to_see_it_what_nodes_need_and_how_to_undo_it(values: Values, said: str) -> None:
    text = " ".join(notes(values).split())
    assert f"helm test millpond --namespace {NAMESPACE}" in text
    assert "millpond check" in text
    assert f"helm uninstall millpond --namespace {NAMESPACE}" in text
    assert said.lower() in text.lower()


def test_kubernetes_before_the_oldest_is_refused() -> None:
    with pytest.raises(AssertionError, match="kubeVersion"):
        render({}, kubernetes="1.30")


def test_a_long_release_name_still_makes_names_that_kubernetes_takes() -> None:
    for item in render({"nodeMirror": {"enabled": True, "address": "http://10.0.0.1:5000"}}, release="r" * 53):
        assert len(item["metadata"]["name"]) <= 52  # a StatefulSet's pods and their revision label need 11 more
        check(item, VERSIONS[-1])


def test_a_custom_port_goes_everywhere() -> None:
    config = {"registry": {"listen": "[::]:5555"}, "admin": {"listen": "[::]:5556"}}
    objects = render({"config": config})
    ports = {port["name"]: port["containerPort"] for port in container(one(objects, "StatefulSet"))["ports"]}
    assert ports == {"registry": 5555, "metrics": 5556}
    text = one(objects, "ConfigMap", "-haproxy")["data"]["haproxy.cfg"]
    assert "cluster.local:5555 id 1" in text
    assert "check port 5556 " in text


def test_refusals_come_before_anything_is_rendered() -> None:
    assert "---" not in refusal({"mode": "both"})


def test_the_alerts_and_the_dashboard_arrive_as_they_are() -> None:
    """Helm's braces are Prometheus' and Grafana's too."""
    objects = render({"prometheusRule": {"enabled": True}, "grafanaDashboard": {"enabled": True}})
    rules, dashboard = (CHART / "files" / name for name in ("rules.yaml", "dashboard.json"))
    assert one(objects, "PrometheusRule")["spec"] == yaml.safe_load(rules.read_text())
    found = one(objects, "ConfigMap", "-dashboard")["data"]["millpond.json"]
    assert json.loads(found) == json.loads(dashboard.read_text())


@pytest.mark.parametrize(
    ("values", "balancer"),
    [
        ({}, f"http://millpond.{NAMESPACE}.svc.cluster.local:5000"),
        ({"service": {"port": 80}}, f"http://millpond.{NAMESPACE}.svc.cluster.local:80"),
        ({"config": {"ecr": {"balancer": "https://millpond.example.com"}}}, "https://millpond.example.com"),
        ({"central": {"replicas": 1}}, None),
        ({"haproxy": {"enabled": False, "ownBalancer": True}}, None),
        (TLS, None),
        ({"mode": "node"}, None),
    ],
    ids=["several", "another port", "named", "one", "no HAProxy", "TLS", "node"],
)
def test_several_instances_that_push_to_ecr_know_what_stands_before_them(values: Values, balancer: str | None) -> None:
    rendered = render(merged({"config": {"ecr": {"targets": [TARGET]}}}, values))
    config = yaml.safe_load(one(rendered, "ConfigMap")["data"]["millpond.yaml"])
    assert config["ecr"].get("balancer") == balancer


LOGIN: Final[Values] = {
    "existingSecrets": [{"name": "users"}],
    "config": {
        "access": {"tokens_file": "/run/secrets/millpond/users/tokens"},
        "ecr": {"balancer_username": "millpond", "balancer_password_file": "/run/secrets/millpond/users/own"},
    },
}


def test_the_instances_log_in_to_each_other_as_the_values_say_and_the_notes_miss_it_where_they_do_not() -> None:
    pushing: Values = {"config": {"ecr": {"targets": [TARGET]}}}
    config = yaml.safe_load(one(render(merged(pushing, LOGIN)), "ConfigMap")["data"]["millpond.yaml"])
    assert config["ecr"]["balancer"].startswith("http://millpond.")
    assert config["ecr"].items() >= LOGIN["config"]["ecr"].items()
    said = "Set config.ecr.balancer_username"
    assert said not in notes(merged(pushing, LOGIN))
    without = merged(LOGIN, {"config": {"ecr": {"balancer_username": None, "balancer_password_file": None}}})
    assert said in notes(merged(pushing, without))
    assert said not in notes(without), "nobody pushes"
    assert said not in notes(pushing), "nobody has to log in"

"""What the chart renders, run for real: Millpond, HAProxy, and the pod of `helm test`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import pytest
import yaml

from tests.conftest import StartMillpond
from tests.deploy.dns import NameServer
from tests.deploy.helm import NAMESPACE, Values, one, render
from tests.edge.access import htpasswd
from tests.support import images
from tests.support.certificates import Authority
from tests.support.millpond import Millpond
from tests.support.ports import free_port
from tests.support.programs import Process, accepts, environment, program, require, run, succeeds
from tests.support.pulls import get
from tests.support.registry import PASSWORD, USER, Registry

DOMAIN: Final = f"millpond-instances.{NAMESPACE}.svc.cluster.local"


@pytest.fixture(scope="module", autouse=True)
def _program() -> None:
    require("helm")


@pytest.fixture(scope="module")
def image(plain_registry: Registry, images_directory: Path) -> str:
    """An index's tag, with the repository's name as a client of Millpond writes it."""
    single = images.simple_image(images_directory, seed=5001, layers=2, size=50_000)
    plain_registry.push(images.index([single]), "library/chart", "1")
    return "docker.io/library/chart:1"


class Instance:
    """Millpond with exactly the file that the chart renders; what a pod would have of its own comes by environment."""

    def __init__(
        self,
        values: Values,
        directory: Path,
        secrets: dict[str, Path] | None = None,
        *,
        host: str = "127.0.0.1",
        ports: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir()
        self.port, self.admin_port = ports or (free_port(), free_port())
        self.log = directory / "log"
        text = str(one(render(values), "ConfigMap")["data"]["millpond.yaml"])
        for inside, outside in (secrets or {}).items():
            assert inside in text
            text = text.replace(inside, str(outside))
        file = directory / "millpond.yaml"
        file.write_text(text)
        self._env = {
            "MILLPOND_CONFIG": str(file),
            "MILLPOND_REGISTRY__LISTEN": f"{host}:{self.port}",
            "MILLPOND_ADMIN__LISTEN": f"{host}:{self.admin_port}",
            "MILLPOND_CACHE__DIRECTORY": str(directory / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **(env or {}),
        }
        self._ready = f"http://{host}:{self.admin_port}/readyz"
        self._process = Process([sys.executable, "-m", "proxy.cli", "serve"], self.log, self._env)

    def __enter__(self) -> Self:
        self._process.wait_ready(self._is_ready)
        return self

    def exec(self, *command: str) -> str:
        """What the program `millpond` prints in the pod: with its files and its environment. It must succeed."""
        return run([sys.executable, "-m", "proxy.cli", *command], env=self._env)

    def _is_ready(self) -> bool:
        try:
            return get(self._ready, timeout=2).status == 200
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        self._process.stop()


def helm_test(values: Values, address: str, image: str, seconds: int = 30) -> subprocess.CompletedProcess[str]:
    """Run what the chart's test pod runs, against this address and image."""
    pod = one(render(values), "Pod", "-test-pull")
    (container,) = pod["spec"]["containers"]
    python, *code = container["command"]
    secret = {"username": USER, "password": PASSWORD}  # of any name
    given = {entry["name"]: secret[entry["valueFrom"]["secretKeyRef"]["key"]] for entry in container.get("env", [])}
    assert python == "python"
    assert container["args"][1:] == ["registry.k8s.io/pause:3.10", "120"]
    return subprocess.run(
        [sys.executable, *code, address, image, str(seconds)],
        env=environment(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("mode", ["central", "node"])
def test_the_rendered_configuration_starts_a_millpond_that_the_test_pod_pulls_through(
    mode: str, image: str, plain_registry: Registry, tmp_path: Path
) -> None:
    values = {"mode": mode, "config": {"upstreams": {"docker.io": plain_registry.upstream(), "quay.io": None}}}
    with Instance(values, tmp_path / "pod") as instance:
        address = f"http://127.0.0.1:{instance.port}"
        first, second = (helm_test(values, address, image) for _ in range(2))
        assert first.returncode == 0, first.stderr
        assert re.findall(r"from: (\w+)", first.stdout) == ["upstream"] * 3  # index, image, blob
        assert re.findall(r"from: (\w+)", second.stdout) == ["hit"] * 3
        assert get(f"{address}/v2/quay.io/a/b/manifests/1").status == 404


def test_tls_that_millpond_ends_itself_works_with_the_mounted_files(
    image: str, plain_registry: Registry, authority: Authority, tmp_path: Path
) -> None:
    certificate = authority.issue()
    values = {
        "mode": "node",
        "tls": {"enabled": True, "existingSecret": "cert"},
        "config": {"upstreams": {"docker.io": plain_registry.upstream()}},
    }
    mounted = {
        "/run/secrets/millpond-tls/tls.crt": certificate.chain_file,
        "/run/secrets/millpond-tls/tls.key": certificate.key_file,
    }
    with Instance(values, tmp_path / "pod", mounted) as instance:
        done = helm_test(values, f"https://127.0.0.1:{instance.port}", image)
        assert done.returncode == 0, done.stderr


def test_a_node_pulls_from_its_parent_and_never_from_upstream(
    image: str, plain_registry: Registry, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    """The node's configuration names no upstream but the parent: what it gets can have come from nowhere else."""
    parent = start_millpond({"docker.io": plain_registry.upstream()})
    values = {"mode": "node", "node": {"parent": parent.url}}
    with Instance(values, tmp_path / "pod") as node:
        done = helm_test(values, f"http://127.0.0.1:{node.port}", image)
        assert done.returncode == 0, done.stderr
    assert parent.metric("millpond_served_bytes_total", upstream="docker.io", source="upstream") > 0


def test_the_test_pod_says_what_failed(image: str, plain_registry: Registry, tmp_path: Path) -> None:
    values = {"config": {"upstreams": {"docker.io": plain_registry.upstream()}}}
    with Instance(values, tmp_path / "pod") as instance:
        address = f"http://127.0.0.1:{instance.port}"
        missing = helm_test(values, address, "docker.io/library/nothing:1")
        wrong = helm_test(values, address, f"docker.io/library/chart@sha256:{'0' * 64}")
    assert (missing.returncode, wrong.returncode) == (1, 1)
    assert "FAILED /v2/docker.io/library/nothing/manifests/1: 404" in missing.stderr
    assert "FAILED /v2/docker.io/library/chart/manifests/sha256:000" in wrong.stderr
    away = helm_test(values, address, image, seconds=1)
    assert "FAILED" in away.stderr
    assert "Connection refused" in away.stderr


def test_the_test_pod_shows_its_secret_where_nobody_may_pull_without(
    image: str, plain_registry: Registry, tmp_path: Path
) -> None:
    users = htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    config = {"upstreams": {"docker.io": plain_registry.upstream()}, "access": {"htpasswd_file": users}}
    with Instance({"config": config}, tmp_path / "pod") as instance:
        address = f"http://127.0.0.1:{instance.port}"
        stranger = helm_test({"config": config}, address, image)
        assert stranger.returncode == 1
        assert "FAILED /v2/: 401" in stranger.stderr
        assert "test.existingSecret" in stranger.stderr
        known = helm_test({"config": config, "test": {"existingSecret": "puller"}}, address, image)
        assert known.returncode == 0, known.stderr
        assert PASSWORD not in known.stdout + known.stderr


def test_the_test_pod_refuses_bytes_that_do_not_match_their_digest(tmp_path: Path) -> None:
    require("haproxy")
    port = free_port()
    config = tmp_path / "liar.cfg"
    config.write_text(
        "defaults\n  mode http\n  timeout client 5s\n"
        f"frontend liar\n  bind 127.0.0.1:{port}\n"
        f'  http-request return status 200 hdr Docker-Content-Digest "sha256:{"0" * 64}" string "{{}}" '
        "content-type application/json\n"
    )
    liar = Process([program("haproxy"), "-db", "-f", str(config)], tmp_path / "log")
    try:
        liar.wait_ready(lambda: accepts(port))
        done = helm_test({}, f"http://127.0.0.1:{port}", "docker.io/library/chart:1")
    finally:
        liar.stop()
    assert done.returncode == 1
    assert "2 bytes that are not sha256:000" in done.stderr


@pytest.mark.parametrize(
    ("directory", "ca"), [("/etc/containerd", False), ("/var/lib/rancher/k3s/agent/etc/containerd", True)]
)
def test_the_node_mirror_installs_says_that_it_is_ready_and_restores(
    directory: str, ca: bool, authority: Authority, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"mode": "node", "nodeMirror": {"enabled": True, "directory": directory}}
    if ca:
        values |= {"tls": {"enabled": True, "existingSecret": "cert"}}
        values["nodeMirror"]["caSecret"] = "cert"
    pod = one(render(values), "DaemonSet", "-node-mirror")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["volumeMounts"][0]["mountPath"] == f"/host{directory}"
    host = tmp_path / "host"
    hosts = host / directory.lstrip("/") / "certs.d"
    hosts.mkdir(parents=True)
    (hosts.parent / "config.toml").write_text(
        f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{directory}/certs.d"\n'
    )
    before = sorted(host.rglob("*"))

    def on_this_machine(arguments: list[str]) -> list[str]:
        places = {"/run/secrets/millpond-ca/ca.crt": str(authority.ca_file), "/host": str(host)}
        moved = [re.sub("^(/run/secrets.*|/host)", lambda match: places[match[1]], text) for text in arguments]
        return [sys.executable, "-m", "proxy.cli", *moved]

    mirror = Process(on_this_machine(container["args"]), tmp_path / "log")
    try:
        millpond, *ready = container["readinessProbe"]["exec"]["command"]
        assert millpond == "millpond"
        mirror.wait_ready(lambda: succeeds(on_this_machine(ready)))
        text = (hosts / "docker.io" / "hosts.toml").read_text()
        assert f"{'https' if ca else 'http'}://127.0.0.1:5000" in text
        assert "https://registry-1.docker.io" in text
        mirror.send(signal.SIGTERM)
        assert mirror.wait(pod["terminationGracePeriodSeconds"]) == 0
    finally:
        mirror.stop()
    assert sorted(host.rglob("*")) == before


def _haproxy_text(values: Values) -> str:
    return str(one(render(values), "ConfigMap", "-haproxy")["data"]["haproxy.cfg"])


@pytest.mark.parametrize(
    "haproxy",
    [
        {},
        {"haproxy": {"hashBalanceFactor": 125, "drainSeconds": 5}},
        {"haproxy": {"ipv6": True}},
        {"tls": {"enabled": True, "existingSecret": "cert"}},
        {"tls": {"enabled": True, "existingSecret": "cert", "clientCaSecret": "clients"}, "haproxy": {"ipv6": True}},
        {"central": {"replicas": 60}, "config": {"default_upstream": "ghcr.io"}},
    ],
    ids=str,
)
def test_the_rendered_haproxy_configuration_is_valid_and_haproxy_has_nothing_to_warn_of(
    haproxy: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    require("haproxy")
    certificate = authority.issue()
    # As the Secret is mounted.
    for name, file in (
        ("tls.crt", certificate.chain_file),
        ("tls.key", certificate.key_file),
        ("ca.crt", authority.ca_file),
    ):
        (tmp_path / name).write_bytes(file.read_bytes())
    text = re.sub(r"/run/secrets/millpond-(tls|client-ca)", str(tmp_path), _haproxy_text(haproxy))
    assert ("verify required" in text) == ("clientCaSecret" in haproxy.get("tls", {}))
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    run([program("haproxy"), "-c", "-dW", "-f", str(file)])


@pytest.fixture
def instances(start_millpond: StartMillpond, plain_registry: Registry) -> list[Millpond]:
    """Two instances on one port, as pods have it: each on its own address."""
    port, admin = free_port(), free_port()
    return [
        start_millpond(
            {"docker.io": plain_registry.upstream()},
            wait=False,
            registry={"listen": f"127.0.0.{last}:{port}"},
            admin={"listen": f"127.0.0.{last}:{admin}"},
        )
        for last in (2, 3)
    ]


def test_the_rendered_haproxy_finds_the_instances_by_their_pods_names(
    instances: list[Millpond], image: str, tmp_path: Path
) -> None:
    require("haproxy")
    listens = [instance.config["registry"]["listen"] for instance in instances]
    admins = [instance.config["admin"]["listen"] for instance in instances]
    values = {
        "central": {"replicas": 2},
        "config": {
            "registry": {"listen": f"0.0.0.0:{listens[0].rpartition(':')[2]}"},
            "admin": {"listen": f"0.0.0.0:{admins[0].rpartition(':')[2]}"},
        },
    }
    text = _haproxy_text(values)
    port, operator = free_port(), free_port()
    with NameServer({}) as names:
        for old, new in (
            ("parse-resolv-conf", f"nameserver cluster 127.0.0.1:{names.port}"),
            ("bind :5000 ", f"bind 127.0.0.1:{port} "),
            ("bind :8404", f"bind 127.0.0.1:{operator}"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file = tmp_path / "haproxy.cfg"
        file.write_text(text)
        balancer = Process([program("haproxy"), "-db", "-f", str(file)], tmp_path / "haproxy.log")
        try:
            balancer.wait_ready(lambda: accepts(port))
            # No pod has a name yet: it runs, and is not ready.
            assert get(f"http://127.0.0.1:{operator}/healthz").status == 200
            assert get(f"http://127.0.0.1:{operator}/readyz").status == 503
            names.addresses |= {f"millpond-{n}.{DOMAIN}": f"127.0.0.{n + 2}" for n in range(2)}
            balancer.wait_ready(lambda: get(f"http://127.0.0.1:{operator}/readyz").status == 200)
            balancer.wait_ready(lambda: _servers_up(operator) == 2)
            done = helm_test(values, f"http://127.0.0.1:{port}", image)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("from: upstream") == 3
        finally:
            balancer.stop()


def _servers_up(operator: int) -> int:
    """As HAProxy tells Prometheus."""
    text = get(f"http://127.0.0.1:{operator}/metrics").text
    return len(
        re.findall(r'^haproxy_server_status\{proxy="instances",server="[^"]*",state="UP"\} 1$', text, re.MULTILINE)
    )


def test_the_operator_s_port_is_where_the_chart_looks_for_it() -> None:
    balancer = one(render({}), "Deployment", "-haproxy")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in balancer["ports"]}
    text = _haproxy_text({})
    assert f"bind :{ports['registry']} " in text
    assert f"bind :{ports['metrics']}\n" in text
    for probe in ("livenessProbe", "readinessProbe"):
        assert f"path {balancer[probe]['httpGet']['path']} " in text


def test_the_configuration_in_the_config_map_is_yaml_that_says_what_the_values_say() -> None:
    config = {"log": {"level": "debug"}, "upstreams": {"quay.io": None}}
    rendered = yaml.safe_load(one(render({"config": config}), "ConfigMap")["data"]["millpond.yaml"])
    assert rendered.items() >= config.items()

"""The page for EKS, walked from its first values to its last command, with what a cluster would run run here.

Only what the page says to replace is replaced: the address, and the world's registries by one of the test's. Pods are
processes with the rendered files; the kubelet, the CNI and AWS are not here.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.containerd import Containerd
from tests.deploy import test_eks as page
from tests.deploy.chart_cases import merged
from tests.deploy.dns import NameServer
from tests.deploy.helm import Object, container, one, render
from tests.deploy.test_chart_runs import DOMAIN, Instance, helm_test
from tests.mirror.trees import tree
from tests.support import images
from tests.support.ecr import EcrDouble
from tests.support.images import Manifest
from tests.support.ports import free_port
from tests.support.programs import Process, program, require, require_root, succeeds
from tests.support.pulls import get
from tests.support.registry import Registry
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

PORTS: Final = (5000, 5001)
UPSTREAMS: Final = ("docker.io", "ghcr.io", "registry.k8s.io", "quay.io")


@pytest.fixture
def alpine(plain_registry: Registry, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=4242, layers=3)
    plain_registry.push(made, "library/alpine", "3.20")
    return made


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as made:
        yield made


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    """The node's."""
    require_root()
    require("containerd", "ctr")
    daemon = Containerd(tmp_path / "containerd")
    yield daemon
    daemon.stop()
    shutil.rmtree(tmp_path / "containerd" / "root", ignore_errors=True)


class Addresses:
    """Loopback has many: a service's own, and one for each pod, so that ports stay those of the page."""

    def __init__(self) -> None:
        high, low = divmod(free_port(), 256)  # which no other run of the tests has, so neither has it these
        self.service = f"127.{high}.{low}.50"
        self.pods = [f"127.{high}.{low}.{pod}" for pod in (2, 3, 4)]


class Walk:
    """What `helm install` has brought to the cluster."""

    def __init__(
        self, values: dict[str, Any], addresses: Addresses, directory: Path, env: dict[str, str], stack: ExitStack
    ) -> None:
        self.values = values
        self.addresses = addresses
        self.objects = render(values)
        self.instances = [
            stack.enter_context(Instance(values, directory / f"millpond-{n}", host=pod, ports=PORTS, env=env))
            for n, pod in enumerate(addresses.pods)
        ]
        self._haproxy(directory, stack)
        self.mirror = _Mirror(one(self.objects, "DaemonSet", "-node-mirror"), directory / "node")
        stack.callback(self.mirror.process.stop)

    def _haproxy(self, directory: Path, stack: ExitStack) -> None:
        names = stack.enter_context(
            NameServer({f"millpond-{n}.{DOMAIN}": pod for n, pod in enumerate(self.addresses.pods)})
        )
        text = str(one(self.objects, "ConfigMap", "-haproxy")["data"]["haproxy.cfg"])
        for old, new in (
            ("parse-resolv-conf", f"nameserver cluster 127.0.0.1:{names.port}"),
            ("bind :5000 ", f"bind {self.addresses.service}:5000 "),
            ("bind :8404", f"bind {self.addresses.service}:8404"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file = directory / "haproxy.cfg"
        file.write_text(text)
        process = Process([program("haproxy"), "-db", "-f", str(file)], directory / "haproxy.log")
        stack.callback(process.stop)
        process.wait_ready(self._all_instances_are_up)

    def _all_instances_are_up(self) -> bool:
        try:
            text = get(f"http://{self.addresses.service}:8404/metrics", timeout=2).text
        except OSError:
            return False
        up = re.findall(r'^haproxy_server_status\{proxy="instances",server="[^"]*",state="UP"\} 1$', text, re.MULTILINE)
        return len(up) == len(self.addresses.pods)

    def answers(self, repository: str) -> list[dict[str, Any]]:
        """What step 3 greps for: the instances' lines about a repository."""
        lines = [line for instance in self.instances for line in instance.log.read_text().splitlines()]
        return [json.loads(line) for line in lines if f'"repository": "{repository}"' in line]


class _Mirror:
    """The node mirror's pod on a node whose root is `root`."""

    def __init__(self, workload: Object, root: Path) -> None:
        self.certs = root / "etc/containerd/certs.d"
        self.certs.mkdir(parents=True)
        config = (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n'
        )
        (self.certs.parent / "config.toml").write_text(config)
        self.before = tree(root)
        self.root = root
        pod = container(workload)
        self.process = Process(self._here(pod["args"]), root.with_suffix(".log"))
        _, *ready = pod["readinessProbe"]["exec"]["command"]
        self.process.wait_ready(lambda: succeeds(self._here(ready)))

    def _here(self, arguments: list[str]) -> list[str]:
        return [sys.executable, "-m", "proxy.cli", *(re.sub("^/host", str(self.root), text) for text in arguments)]


def test_the_page_for_eks_leads_from_an_empty_namespace_to_pulls_by_nodes_and_back(
    alpine: Manifest, plain_registry: Registry, cloud: EcrDouble, containerd: Containerd, tmp_path: Path
) -> None:
    require("helm", "haproxy")
    addresses = Addresses()
    (target,) = page.first_values()["config"]["ecr"]["targets"]
    values = merged(
        page.first_values(),
        {
            "service": {"clusterIP": addresses.service},
            "config": {"upstreams": {name: plain_registry.upstream() for name in UPSTREAMS}},
        },
    )
    # What Pod Identity and a cluster's DNS would do.
    env = {
        **cloud.environment,
        "AWS_ENDPOINT_URL_ECR": cloud.url,
        "AWS_ENDPOINT_URL_STS": cloud.url,
        "MILLPOND_ECR__BALANCER": f"http://{addresses.service}:5000",
    }
    with ExitStack() as stack:
        walk = Walk(values, addresses, tmp_path, env, stack)

        # 3. See that it works: helm test, millpond check, a pull by a node, and what the instances say of it.
        tested = helm_test(values, f"http://{addresses.service}:5000", "docker.io/library/alpine:3.20")
        assert tested.returncode == 0, tested.stderr
        assert "from: upstream" in tested.stdout
        checked = walk.instances[0].exec("check")
        assert "FAILED" not in checked
        assert f"ecr target {target['name']}" in checked
        with containerd.pull("docker.io/library/alpine:3.20", walk.mirror.certs) as pulled:
            pulled.check(alpine)
        wait_until(lambda: len(walk.answers("library/alpine")) >= 4, "the log tells of the pull")
        assert {line["origin"] for line in walk.answers("library/alpine")} >= {"upstream", "hit"}

        # And in ECR, by each of the two commands.
        stored = cloud.registry(target["account"], target["region"])
        name = "docker.io/library/alpine"
        wait_until(lambda: not stored.missing(name, alpine.digest), "the image stands in ECR", 60)
        status = [json.loads(instance.exec("ecr", "status", "--json")) for instance in walk.instances]
        assert sum(found["targets"][0]["done"] for found in status) >= 1
        assert "1 done, 0 failed" in walk.instances[0].exec("ecr", "sync", "alpine:3.20")
        assert stored.repositories[name].tags["3.20"] == alpine.digest

        # 4. Undo it: the node has what it had, and its containerd asks Millpond no more.
        walk.mirror.process.send(signal.SIGTERM)
        assert walk.mirror.process.wait(30) == 0
        assert tree(walk.mirror.root) == walk.mirror.before

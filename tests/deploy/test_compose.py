"""The compose file: taken by compose itself, true to the repository, and no wider open than the chart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy import __version__
from proxy.settings import Settings
from tests.support.programs import find, miss, program, require, run, succeeds

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "deploy/compose/compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services as compose has understood them."""
    services = yaml.safe_load(run([*_compose(), "--file", str(FILE), "config"]))["services"]
    assert isinstance(services, dict)
    return services


def test_it_has_millpond_prometheus_and_grafana(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"millpond", "prometheus", "grafana"}
    assert services["millpond"]["image"] == f"ghcr.io/millpond/millpond:{__version__}"
    context = services["millpond"]["build"]
    assert Path(context["context"] if isinstance(context, dict) else context) == ROOT


def test_every_file_that_it_mounts_is_here(services: dict[str, dict[str, Any]]) -> None:
    mounted = [volume for service in services.values() for volume in _mounts(service) if volume[0].startswith("/")]
    assert len(mounted) >= 4
    for source, _, mode in mounted:
        assert Path(source).exists(), source
        assert Path(source).is_relative_to(ROOT)
        assert mode == "ro"


def test_millpond_has_no_more_rights_than_in_the_chart(services: dict[str, dict[str, Any]]) -> None:
    service = services["millpond"]
    assert service["user"] == "65532:65532"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert [target for _, target, mode in _mounts(service) if mode != "ro"] == ["/var/lib/millpond"]


def test_only_the_registry_port_is_open_to_others() -> None:
    for name, service in yaml.safe_load(FILE.read_text())["services"].items():
        for port in service["ports"]:
            assert port == "5000:5000" if name == "millpond" and "5000" in port else port.startswith("127.0.0.1:")


def test_its_environment_is_one_that_millpond_takes(services: dict[str, dict[str, Any]]) -> None:
    service = services["millpond"]
    settings = Settings(None, {name: str(value) for name, value in service["environment"].items()})
    assert (settings.admin.listen.host, settings.admin.listen.port) == ("0.0.0.0", 5001)
    assert str(settings.registry.listen.port) == "5000"
    assert int(str(service["stop_grace_period"]).removesuffix("s")) >= settings.registry.grace_period + 15


def test_prometheus_takes_its_configuration_and_asks_millpond(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    require("promtool")
    for source, target, _ in _mounts(services["prometheus"]):
        if target.startswith("/etc/prometheus/"):  # where rule_files starts from
            shutil.copy(source, tmp_path / Path(target).name)
    run([program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")])
    (job,) = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["millpond:5001"]}]
    assert f"/etc/prometheus/{'prometheus.yml'}" in " ".join(services["prometheus"]["command"])


def test_grafana_finds_prometheus_and_the_dashboard(services: dict[str, dict[str, Any]]) -> None:
    mounts = {target: Path(source) for source, target, _ in _mounts(services["grafana"])}
    provisioning = mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards/millpond.yaml").read_text())["providers"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert mounts[home] == ROOT / "deploy/grafana/millpond.json"


def _compose() -> list[str]:
    """compose as a plugin of docker or as a program of its own, whichever is here."""
    if find("docker") and succeeds([program("docker"), "compose", "version"]):
        return [program("docker"), "compose"]
    if not find("docker-compose"):
        miss("not installed: docker-compose")
    return [program("docker-compose")]


def _mounts(service: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(source, target, mode) of each volume, of which compose has a short and a long form."""
    found = []
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, mode = volume.split(":")
        else:
            source, target, mode = volume["source"], volume["target"], "ro" if volume.get("read_only") else "rw"
        found.append((source, target, mode))
    return found

"""The dashboard and the alerts: everything that they name is what the real program exports, and they work in a real
Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.metrics import Metrics
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.faults import change
from tests.support.millpond import Millpond
from tests.support.ports import free_port
from tests.support.programs import Process, program, require, run
from tests.support.pulls import get, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
DASHBOARD: Final = ROOT / "deploy/grafana/millpond.json"
RULES: Final = ROOT / "deploy/prometheus/rules.yaml"
CHART: Final = ROOT / "deploy/helm/millpond/files"

# Labels that Prometheus gives each series, by its configuration or by the chart's ServiceMonitor.
_OF_TARGETS: Final = frozenset({"instance", "job", "namespace"})
_FUNCTIONS: Final = re.compile(r"\b(?:by|on|without|ignoring) *\(([^)]*)\)")
_SELECTOR: Final = re.compile(r"\b((?:millpond|process|python|up)(?:_[a-z_]+)?)\b(?:\{([^}]*)\})?")
QUOTA: Final = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "20;w=21600"}
# What has not happened has no series: no upstream here wants tokens, no rule decides, and nothing went wrong.
_QUIET_PANELS: Final = frozenset(
    {
        "Tokens",
        "What rules decide",
        "Wrong bytes",
        "Pushes that fail, by reason",
        "Read on a miss",
        "Reads, and tags that clash",
    }
)


@pytest.fixture(scope="module")
def millpond(
    tmp_path_factory: pytest.TempPathFactory, plain_registry: Registry, images_directory: Path
) -> Iterator[Millpond]:
    """A Millpond through which an image was pulled, and pushed on to an ECR target; and one from an upstream that says
    how many pulls it allows."""
    image = images.simple_image(images_directory, seed=53, layers=2, size=300_000)
    plain_registry.push(image, "library/measured", "1")
    with EcrDouble() as cloud, ScriptedUpstream() as limiting:
        limiting.add(image, "team/measured", "1")
        limiting.script("/manifests/", then=change(headers=QUOTA))
        target = {"name": "prod", "account": ACCOUNT, "region": REGION, "upstreams": ["docker.io"]}
        upstreams = {"docker.io": plain_registry.upstream(), "quay.io": limiting.upstream()}
        config = {"upstreams": upstreams, "ecr": {"targets": [target]}}
        made = Millpond(config, tmp_path_factory.mktemp("measured"), cloud.environment).start()
        try:
            pull(f"{made.url}/v2/library/measured", image, "1")
            pull(f"{made.url}/v2/quay.io/team/measured", image, "1")
            wait_until(lambda: made.metric("millpond_ecr_images_total", outcome="pushed") == 1, "it is in ECR")
            yield made
        finally:
            made.stop()
    assert not made.complaints()


@pytest.fixture(scope="module")
def exported(millpond: Millpond) -> dict[str, set[str]]:
    """The labels of each series that the program exports, by name."""
    text = get(f"{millpond.admin_url}/metrics").text
    found: dict[str, set[str]] = {"up": set()}  # Prometheus's own
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in suffixes:
            found[family.name + suffix] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # Of what has not happened yet there is no sample: the labels are those that the program would give it.
    for collector in Metrics().registry._collector_to_names:
        name, labels = getattr(collector, "_name", ""), set(getattr(collector, "_labelnames", ()))
        for series in (name, f"{name}_total"):
            if series in found:
                assert found[series] <= labels
                found[series] = labels
    return found


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _queries() -> list[tuple[str, str]]:
    """(where, PromQL) of the dashboard and of the alerts."""
    panels = [(panel["title"], target["expr"]) for panel in _panels() for target in panel["targets"]]
    variables = [
        (f"variable {variable['name']}", variable["query"]["query"])
        for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]
        if variable["type"] == "query"
    ]
    return [*panels, *variables, *((rule["alert"], rule["expr"]) for rule in _alerts())]


def test_every_metric_and_label_that_they_name_is_exported(exported: dict[str, set[str]]) -> None:
    wrong = []
    for where, query in _queries():
        selectors = _SELECTOR.findall(_FUNCTIONS.sub("", query))
        assert selectors, (where, query)
        here: set[str] = {"le"}
        for name, matchers in selectors:
            if name not in exported:
                wrong.append(f"{where}: no metric {name}")
                continue
            here |= exported[name]
            used = set(re.findall(r"([a-z_]+) *(?:=~|!~|!=|=)", matchers))
            wrong += [f"{where}: {name} has no label {label}" for label in used - exported[name] - _OF_TARGETS]
        joined = {label.strip() for labels in _FUNCTIONS.findall(query) for label in labels.split(",")}
        wrong += [f"{where}: nothing here has a label {label}" for label in joined - here - _OF_TARGETS]
    assert not wrong


def test_a_name_that_is_not_exported_would_be_found(exported: dict[str, set[str]]) -> None:
    assert exported["millpond_requests_total"] == {"upstream", "kind", "source", "status"}
    assert exported["millpond_ecr_queue"] == {"target", "state"}
    assert exported["millpond_request_seconds_bucket"] == {"kind", "le"}
    assert "millpond_requests" not in exported
    (selector,) = _SELECTOR.findall('sum by (x) (rate(millpond_y_total{a="1", b!~"2"}[5m]))')
    assert selector == ("millpond_y_total", 'a="1", b!~"2"')


def test_every_value_of_state_that_they_ask_for_exists(millpond: Millpond) -> None:
    states = set(re.findall(r'state="([a-z]+)"', " ".join(millpond.metrics())))
    assert {"queued", "rejected", "done"} <= states
    asked = {value for _, query in _queries() for value in re.findall(r'state(?:!?=|[!=]~)"([a-z|]+)"', query)}
    named = {state for value in asked for state in value.split("|")}
    assert {"queued", "failing", "refused"} <= named
    assert named <= states


def test_every_legend_names_a_label_of_its_query() -> None:
    for panel in _panels():
        for target in panel["targets"]:
            for label in re.findall(r"\{\{ *(\w+) *\}\}", target.get("legendFormat") or ""):
                grouped = {name.strip() for names in _FUNCTIONS.findall(target["expr"]) for name in names.split(",")}
                assert label in grouped or (label == "instance" and "by (" not in target["expr"]), panel["title"]


def test_every_panel_has_a_place_of_its_own_and_a_unit() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, "Grafana's grid has 24 columns"
        taken |= cells
    assert all(panel["fieldConfig"]["defaults"].get("unit") for panel in _panels())


def test_the_chart_has_the_same_files() -> None:
    assert (CHART / "dashboard.json").read_bytes() == DASHBOARD.read_bytes()
    assert (CHART / "rules.yaml").read_bytes() == RULES.read_bytes()


def test_prometheus_has_an_answer_to_every_query(millpond: Millpond, tmp_path: Path) -> None:
    require("prometheus")
    port = free_port()
    settings = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [millpond.admin_url.removeprefix("http://")]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    (tmp_path / "rules.yaml").write_bytes(RULES.read_bytes())
    files = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    server = Process([program("prometheus"), *files, f"--web.listen-address=127.0.0.1:{port}"], tmp_path / "log")

    def answer(path: str) -> Any:
        reply = get(f"http://127.0.0.1:{port}/api/v1/{path}")
        assert reply.status == 200, reply.text
        return reply.json()["data"]

    def value(query: str) -> list[Any]:
        result = answer(f"query?{urlencode({'query': query})}")["result"]
        assert isinstance(result, list)
        return result

    try:
        server.wait_ready(lambda: _ready(port))
        wait_until(lambda: value("count_over_time(up[1m]) > 2"), "Prometheus has asked three times", 30)
        for panel in _panels():
            answers = [value(_filled(target["expr"])) for target in panel["targets"]]
            if panel["title"] not in _QUIET_PANELS:
                assert any(answers), f"{panel['title']} is empty"
        groups = wait_until(
            lambda: [g for g in answer("rules")["groups"] if g["lastEvaluation"] > "0002"], "the rules were evaluated"
        )
        rules = [rule for group in groups for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == {rule["alert"] for rule in _alerts()}
        wait_until(lambda: all(r["health"] == "ok" for g in answer("rules")["groups"] for r in g["rules"]), "all well")
        assert answer("alerts")["alerts"] == []
    finally:
        server.stop()


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    require("promtool")
    run([program("promtool"), "check", "rules", "--lint-fatal", str(RULES)])
    for rule in _alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]


# What makes each alert fire: series over minutes, as promtool writes them, and after how many.
_FIRING: Final[dict[str, tuple[dict[str, str], int]]] = {
    "MillpondDown": ({"up": "1x10 0x20", 'millpond_build_info{version="1"}': "1x10 _x20"}, 20),
    "MillpondFailsPulls": (
        {
            'millpond_requests_total{upstream="docker.io",status="200"}': "0+90x30",
            'millpond_requests_total{upstream="docker.io",status="502"}': "0+10x30",
        },
        20,
    ),
    "MillpondIsSlowFromDisk": (
        {
            'millpond_first_byte_seconds_bucket{kind="blobs",source="hit",le="1"}': "0+50x40",
            'millpond_first_byte_seconds_bucket{kind="blobs",source="hit",le="2.5"}': "0+100x40",
            'millpond_first_byte_seconds_bucket{kind="blobs",source="hit",le="+Inf"}': "0+100x40",
        },
        30,
    ),
    "MillpondRefusesConnections": ({"millpond_connections_refused_total": "0x10 1+1x20"}, 20),
    "MillpondUpstreamIsAway": (
        {
            'millpond_upstream_state{upstream="docker.io",state="failing"}': "1x40",
            'millpond_upstream_requests_total{upstream="docker.io",noun="manifests",status="none"}': "0+1x40",
        },
        25,
    ),
    "MillpondUnverifiedContent": ({'millpond_verification_failures_total{where="disk"}': "_x20 1x10"}, 21),
    "MillpondDoesNotCache": ({"millpond_cache_up": "1x10 0x20"}, 20),
    "MillpondDiskIsFilledByOthers": (
        {"millpond_cache_free_bytes": "5e8x30", "millpond_cache_min_free_bytes": "2e9x30"},
        20,
    ),
    "MillpondDropsBlobs": ({"millpond_cache_dropped_total": "0x10 1x20"}, 12),
    "MillpondRateLimitNearlyUsed": (
        {
            'millpond_upstream_rate_limit_remaining{upstream="docker.io"}': "9x30",
            'millpond_upstream_rate_limit{upstream="docker.io"}': "100x30",
        },
        10,
    ),
    "MillpondFetchesFail": ({'millpond_flight_failures_total{upstream="ghcr.io",reason="X"}': "0+6x60"}, 40),
    "MillpondEcrRejects": ({'millpond_ecr_queue{target="prod",state="rejected"}': "1x30"}, 20),
    # A target that has never taken an image has no counter of images.
    "MillpondEcrFallsBehind": ({'millpond_ecr_queue{target="prod",state="queued"}': "1x200"}, 70),
    "MillpondEcrTagClash": ({'millpond_ecr_tag_clashes_total{target="prod"}': "0x90 1x30"}, 92),
    "MillpondConfigurationRefused": ({"millpond_config_up": "1x10 0x20"}, 20),
    "MillpondIsSlow": ({"millpond_event_loop_lag_seconds_max": "1.5x30"}, 15),
}
# A working day of a Millpond at which nobody has to look, in the same terms.
_QUIET: Final = {
    "up": "1x180",
    'millpond_build_info{version="1"}': "1x180",
    'millpond_requests_total{upstream="docker.io",status="200"}': "0+98x180",
    'millpond_requests_total{upstream="docker.io",status="502"}': "0+2x180",
    # A slow upstream is no slow disk, and what nobody asks for may have failed yesterday.
    'millpond_first_byte_seconds_bucket{kind="blobs",source="hit",le="0.1"}': "0+100x180",
    'millpond_first_byte_seconds_bucket{kind="blobs",source="hit",le="+Inf"}': "0+101x180",
    'millpond_first_byte_seconds_bucket{kind="blobs",source="upstream",le="1"}': "0x180",
    'millpond_first_byte_seconds_bucket{kind="blobs",source="upstream",le="+Inf"}': "0+100x180",
    "millpond_connections_refused_total": "7x180",
    'millpond_upstream_state{upstream="docker.io",state="failing"}': "0x180",
    'millpond_upstream_state{upstream="quay.io",state="failing"}': "1x180",
    'millpond_upstream_state{upstream="docker.io",state="limited"}': "1x180",
    'millpond_upstream_requests_total{upstream="docker.io",noun="manifests",status="200"}': "0+9x180",
    'millpond_upstream_requests_total{upstream="quay.io",noun="manifests",status="none"}': "9x180",
    "millpond_cache_free_bytes": "1.99e9x180",
    "millpond_cache_min_free_bytes": "2e9x180",
    "millpond_cache_up": "1x180",
    "millpond_cache_dropped_total": "3x180",
    'millpond_verification_failures_total{where="upstream"}': "2x180",
    'millpond_upstream_rate_limit_remaining{upstream="docker.io"}': "80x180",
    'millpond_upstream_rate_limit{upstream="docker.io"}': "100x180",
    'millpond_flight_failures_total{upstream="ghcr.io",reason="X"}': "0+1x180",
    'millpond_ecr_queue{target="prod",state="queued"}': "4x180",
    'millpond_ecr_queue{target="prod",state="rejected"}': "0x180",
    'millpond_ecr_images_total{target="prod",outcome="pushed"}': "0+1x180",
    'millpond_ecr_tag_clashes_total{target="prod"}': "1x180",
    "millpond_config_up": "1x180",
    "millpond_event_loop_lag_seconds_max": "0.02x180",
}


def test_each_alert_fires_for_its_reason_and_none_on_a_quiet_day(tmp_path: Path) -> None:
    require("promtool")
    assert set(_FIRING) == {rule["alert"] for rule in _alerts()}
    cases = [_case(series, minutes, [name]) for name, (series, minutes) in _FIRING.items()]
    cases.append(_case(_QUIET, 180, []))
    (tmp_path / "rules.yaml").write_bytes(RULES.read_bytes())
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases})
    )
    run([program("promtool"), "test", "rules", str(tmp_path / "test.yaml")])


def _case(series: dict[str, str], minutes: int, firing: list[str]) -> dict[str, Any]:
    def of_a_target(name: str) -> str:
        bare, _, labels = name.rstrip("}").partition("{")
        return f'{bare}{{job="millpond",instance="a:5001"{"," if labels else ""}{labels}}}'

    return {
        "interval": "1m",
        "input_series": [{"series": of_a_target(name), "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing],
            }
        ],
    }


def _filled(query: str) -> str:
    """A dashboard's query as Grafana sends it for everything, over what a test has of time."""
    values = {"$namespace": ".*", "$instance": ".*", "$__rate_interval": "1m", "$__range": "5m"}
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def _ready(port: int) -> bool:
    try:
        return get(f"http://127.0.0.1:{port}/-/ready", timeout=2).status == 200
    except OSError:
        return False

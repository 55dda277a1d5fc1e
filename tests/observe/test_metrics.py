"""What /metrics of the running program says, each in the situation for which somebody looks at it."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from proxy.cache.disk import DiskCache
from proxy.observe.metrics import Metrics
from proxy.observe.upstreams import UpstreamMetrics
from proxy.upstream.breaker import FAILURES_TO_OPEN
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.faults import Gate, change, refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, opened, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

REPOSITORY: Final = "library/measured"
LAYER: Final = 3_000_000


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made


@pytest.fixture
def image(images_directory: Path, upstream: ScriptedUpstream) -> Manifest:
    made = images.simple_image(images_directory, seed=71, layers=1, size=LAYER)
    upstream.add(made, REPOSITORY, "1")
    return made


@pytest.fixture
def millpond(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Millpond:
    return start_millpond({"docker.io": upstream.upstream(connections_per_blob=1)})


def test_requests_and_bytes_are_counted_by_where_they_came_from(millpond: Millpond, image: Manifest) -> None:
    blobs = image.all_blobs().values()
    for source in ("upstream", "hit"):
        pull(f"{millpond.url}/v2/{REPOSITORY}", image, "1")
        # Each is counted a moment after its last byte.
        _reaches(millpond, len(blobs), "requests_total", kind="blobs", source=source, status="200")
        assert millpond.metric("millpond_requests_total", kind="manifests", source=source, upstream="docker.io") >= 1
        assert millpond.metric("millpond_served_bytes_total", source=source) >= sum(blob.size for blob in blobs)
    assert millpond.metric("millpond_fetched_bytes_total", upstream="docker.io") >= sum(blob.size for blob in blobs)
    assert get(f"{millpond.url}/v2/{REPOSITORY}/manifests/none").status == 404
    _reaches(millpond, 1, "requests_total", kind="manifests", source="", status="404")


def test_the_first_byte_and_the_last_are_timed_apart(
    millpond: Millpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    gate = Gate()
    layer = _layer(image)
    upstream.script(layer, change(gates={2_000_000: gate}))
    assert get(f"{millpond.url}/v2/{REPOSITORY}/manifests/1").status == 200
    began = time.monotonic()
    with opened(f"{millpond.url}/v2/{REPOSITORY}/blobs/{layer}") as download:
        assert download.read(1000)
        first = time.monotonic()
        _reaches(millpond, 1, "requests_in_progress")
        wait_until(lambda: millpond.metric("millpond_sent_bytes_total") > 100_000, "bytes count as they leave")
        assert millpond.metric("millpond_served_bytes_total", source="upstream") < 100_000
        assert millpond.metric("millpond_first_byte_seconds_count", kind="blobs") == 0, "all is told at the end"
        held = time.monotonic() - first
        gate.open()
        assert download.drain()
    _reaches(millpond, 1, "request_seconds_count", kind="blobs")
    assert millpond.metric("millpond_first_byte_seconds_count", kind="blobs", source="upstream") == 1
    told = millpond.metric("millpond_first_byte_seconds_sum", kind="blobs")
    assert 0 < told <= first - began
    assert millpond.metric("millpond_request_seconds_sum", kind="blobs") - told >= held
    _reaches(millpond, 0, "requests_in_progress")


def test_the_log_has_the_first_byte_of_each_request(millpond: Millpond, image: Manifest) -> None:
    pull(f"{millpond.url}/v2/{REPOSITORY}", image, "1")
    millpond.settle_log()
    for line in millpond.log_lines(event="served"):
        assert 0 < line["first_byte"] <= line["seconds"]


def test_flights_and_those_who_join_them_are_counted(
    millpond: Millpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    gate = Gate()
    layer = _layer(image)
    upstream.script(layer, change(gates={2_000_000: gate}))
    assert get(f"{millpond.url}/v2/{REPOSITORY}/manifests/1").status == 200
    url = f"{millpond.url}/v2/{REPOSITORY}/blobs/{layer}"
    with opened(url) as first, opened(url) as second:
        assert first.read(1000)
        assert second.read(1000)
        assert millpond.metric("millpond_flights") == 1
        assert millpond.metric("millpond_flight_joins_total") == 1
        gate.open()
        assert first.drain()
        assert second.drain()
    _reaches(millpond, 0, "flights")
    _reaches(millpond, 1, "requests_total", source="joined", kind="blobs")


def test_an_upstream_that_fails_shows_so_and_that_it_is_not_asked_for_a_while(
    millpond: Millpond, upstream: ScriptedUpstream
) -> None:
    assert _state(millpond) == "idle"
    assert millpond.metric("millpond_upstream_breaker_open", upstream="docker.io") == 0
    upstream.script("", then=refuse(503))
    upstream.script("", then=refuse(503), method="HEAD")

    def is_open() -> bool:
        get(f"{millpond.url}/v2/library/away/manifests/1")
        return millpond.metric("millpond_upstream_breaker_open", upstream="docker.io") == 1

    wait_until(is_open, "its breaker is open")
    assert _state(millpond) == "failing"
    assert millpond.metric("millpond_upstream_requests_total", status="503") >= FAILURES_TO_OPEN

    upstream.behave()
    wait_until(lambda: get(f"{millpond.url}/v2/library/away/manifests/1").status == 404, "it is asked again")
    assert _state(millpond) == "ok"
    assert millpond.metric("millpond_upstream_breaker_open", upstream="docker.io") == 0


def test_an_upstream_that_limits_us_shows_so_with_its_quota(
    millpond: Millpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "24;w=21600"}
    upstream.script("/manifests/", then=change(headers=quota))
    assert get(f"{millpond.url}/v2/{REPOSITORY}/manifests/1").status == 200
    assert millpond.metric("millpond_upstream_rate_limit", upstream="docker.io") == 100
    assert millpond.metric("millpond_upstream_rate_limit_remaining", upstream="docker.io") == 24
    assert _state(millpond) == "ok"

    for method in ("GET", "HEAD"):
        upstream.script("/manifests/", then=refuse(429, retry_after="60"), method=method)
    assert get(f"{millpond.url}/v2/library/other/manifests/1").status == 429
    assert _state(millpond) == "limited"
    assert millpond.metric("millpond_upstream_breaker_open", upstream="docker.io") == 1


def test_every_upstream_of_the_configuration_has_a_state(start_millpond: StartMillpond) -> None:
    millpond = start_millpond(
        {"one.example": {"url": "http://127.0.0.1:9"}, "two.example": {"url": "http://127.0.0.1:9"}}
    )
    named = {name for name in ("one.example", "two.example", "docker.io") if _state(millpond, name) == "idle"}
    assert {"one.example", "two.example"} <= named


def test_the_disk_says_how_much_it_may_have_and_what_its_file_system_has_left(
    millpond: Millpond, image: Manifest
) -> None:
    pull(f"{millpond.url}/v2/{REPOSITORY}", image, "1")
    assert millpond.metric("millpond_cache_max_bytes") == 20 << 30
    assert millpond.metric("millpond_cache_min_free_bytes") == 64 << 20
    assert millpond.metric("millpond_cache_free_bytes") > 64 << 20
    sizes = [blob.size for blob in image.all_blobs().values()]
    _reaches(millpond, len(sizes) + 1, "cache_blobs")
    assert millpond.metric("millpond_cache_bytes") == sum(sizes) + len(image.body)
    assert millpond.metric("millpond_cache_pinned_bytes") == 0
    pin = json.dumps({"image": f"{REPOSITORY}:1"}).encode()
    change = {"Content-Type": "application/json"}
    assert get(f"{millpond.admin_url}/api/v1/pin", change, method="POST", content=pin).status == 200
    assert millpond.metric("millpond_cache_pinned_bytes") == sum(sizes) + len(image.body)


def test_without_a_disk_nothing_is_said_of_its_free_space(start_millpond: StartMillpond, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    millpond = start_millpond({}, cache={"directory": str(tmp_path / "file")})
    assert millpond.metric("millpond_cache_up") == 0
    assert math.isnan(millpond.metric("millpond_cache_free_bytes")), "0 would be an alarm about space"


@pytest.mark.anyio
async def test_a_file_system_that_does_not_answer_any_more_is_not_taken_for_full(tmp_path: Path) -> None:
    metrics = Metrics()
    cache = DiskCache(tmp_path, max_size=lambda _: 1 << 30, min_free=lambda _: 0, metrics=metrics, clock=time.time)
    try:
        assert await cache.blobs.free() == metrics.registry.get_sample_value("millpond_cache_free_bytes")
        shutil.rmtree(tmp_path / "blobs")
        assert await cache.blobs.free() is None
        assert math.isnan(metrics.registry.get_sample_value("millpond_cache_free_bytes") or 0)
    finally:
        await cache.close()


def test_pushes_to_ecr_that_fail_are_counted_by_their_reason(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    with EcrDouble() as cloud:
        cloud.fail("InitiateLayerUpload", "AccessDeniedException", math.inf)
        millpond = start_millpond(
            {"docker.io": upstream.upstream()},
            env=cloud.environment,
            ecr={"targets": [{"name": "prod", "account": ACCOUNT, "region": REGION}]},
        )
        pull(f"{millpond.url}/v2/{REPOSITORY}", image, "1")
        _reaches(millpond, 1, "ecr_push_failures_total", target="prod", reason="Refused")
        _reaches(millpond, 1, "ecr_queue", target="prod", state="queued")


def test_tokens_are_counted_by_how_asking_for_them_ended(
    start_millpond: StartMillpond, token_registry: Registry, images_directory: Path
) -> None:
    image = images.simple_image(images_directory, seed=72, layers=1, size=1000)
    token_registry.push(image, "library/measured", "1")
    millpond = start_millpond({"docker.io": token_registry.upstream()})
    pull(f"{millpond.url}/v2/library/measured", image, "1")
    assert millpond.metric("millpond_token_fetches_total", upstream="docker.io", outcome="fetched") >= 1


def test_a_configuration_that_was_refused_shows_until_it_is_mended(millpond: Millpond) -> None:
    assert millpond.metric("millpond_config_up") == 1
    right = millpond.config_file.read_text()
    millpond.config_file.write_text(f"{right}\nnonsense: true\n")
    millpond.process.send(signal.SIGHUP)
    _reaches(millpond, 0, "config_up")
    millpond.config_file.write_text(right)
    millpond.process.send(signal.SIGHUP)
    _reaches(millpond, 1, "config_up")


def test_whatever_clients_ask_for_adds_no_series(millpond: Millpond) -> None:
    def ask(name: str) -> None:
        for path in (f"/v2/{name}/manifests/{name}", f"/v2/{name}/blobs/{name}", f"/{name}", f"/v2/x/{name}/tags/list"):
            for method in ("GET", "HEAD", "PUT"):
                get(f"{millpond.url}{path}?ns={name}.example", {"User-Agent": name, "Host": name}, method=method)

    def series() -> set[str]:
        millpond.settle_log()  # so that all of them have been counted
        return {name for name in millpond.metrics() if name.startswith("millpond_") and "_bucket" not in name}

    ask("first")
    before = series()
    for number in range(20):
        ask(f"name{number}")
    assert series() == before


def test_whatever_upstreams_answer_shares_few_series() -> None:
    metrics = Metrics()
    observer = UpstreamMetrics(metrics)
    for status in range(1000):
        observer.request("docker.io", "blobs", status)
    (family,) = metrics.upstream_requests.collect()
    assert len(family.samples) < 80
    assert sum(sample.value for sample in family.samples) == 1000
    assert {"none", "200", "404", "429", "503", "5xx"} <= {sample.labels["status"] for sample in family.samples}


def test_a_scrape_is_small(millpond: Millpond, image: Manifest) -> None:
    pull(f"{millpond.url}/v2/{REPOSITORY}", image, "1")
    text = get(f"{millpond.admin_url}/metrics").text
    assert "_created" not in text, "when each series began is a third more of them, for nobody"
    assert len(text) < 60_000


def _layer(image: Manifest) -> str:
    return max(image.all_blobs().values(), key=lambda blob: blob.size).digest


def _state(millpond: Millpond, upstream: str = "docker.io") -> str:
    states = ("ok", "failing", "limited", "refused", "idle")
    samples = millpond.metrics()
    is_ = [state for state in states if samples[f'millpond_upstream_state{{state="{state}",upstream="{upstream}"}}']]
    (state,) = is_
    return state


def _reaches(millpond: Millpond, value: float, name: str, **labels: str) -> None:
    wait_until(lambda: millpond.metric(f"millpond_{name}", **labels) == value, f"{name} {labels} is {value}")

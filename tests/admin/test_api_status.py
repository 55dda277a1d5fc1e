"""Status and flights, of the program that runs: each number is what it says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy import __version__
from tests.admin.watched import UPSTREAM, Watched
from tests.support import images
from tests.support.faults import Gate, change, cut, html, refuse
from tests.support.millpond import Millpond
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Watched]:
    """One whose upstream has not been asked anything, so that its state is not that of other tests' answers."""
    with ScriptedUpstream() as upstream:
        watched = Watched(Millpond({"upstreams": {UPSTREAM: upstream.upstream()}}, tmp_path).start(), upstream)
        yield watched
        watched.millpond.stop()


def test_the_status_says_what_runs_and_how_full_its_cache_is(watched: Watched, tmp_path: Path) -> None:
    image = images.simple_image(tmp_path, seed=1)
    watched.upstream.add(image, "library/one", "latest")
    before = watched.read("status")
    watched.pull(image, "library/one")
    wait_until(lambda: watched.read("status")["cache"]["blobs"] == before["cache"]["blobs"] + 3, "all of it is kept")
    status = watched.read("status")
    assert (status["version"], status["ready"], status["draining"]) == (__version__, True, False)
    assert abs(status["now"] - time.time()) < 60
    assert 0 < status["now"] - status["started"] < 600
    assert status["config"]["file"] == str(watched.millpond.config_file)
    cache = status["cache"]
    assert (cache["state"], cache["directory"]) == ("ok", str(watched.millpond.cache))
    assert cache["bytes"] - before["cache"]["bytes"] == image.total_size + len(image.body)
    assert (cache["max_size"], cache["min_free"], cache["pinned_bytes"]) == (20 << 30, 64 << 20, 0)
    assert cache["free"] > 0
    assert status["ecr"] == []


def test_what_a_pull_took_from_upstream_and_gave_to_its_client_is_in_the_totals(
    watched: Watched, tmp_path: Path
) -> None:
    image = images.simple_image(tmp_path, seed=2)
    watched.upstream.add(image, "library/two", "latest")
    before, upstream = watched.read("status")["totals"], watched.upstream_state()
    watched.pull(image, "library/two")
    watched.pull(image, "library/two")
    whole = image.total_size + len(image.body)
    wait_until(
        lambda: watched.read("status")["totals"]["served_bytes"] - before["served_bytes"] == 2 * whole, "all is counted"
    )
    after, now = watched.read("status")["totals"], watched.upstream_state()
    assert after["fetched_bytes"] - before["fetched_bytes"] == whole
    assert now["fetched_bytes"] - upstream["fetched_bytes"] == whole
    assert after["requests"] - before["requests"] == 6
    assert after["hits"] - before["hits"] == 3
    assert now["requests"] - upstream["requests"] == 3
    assert now["failures"] == upstream["failures"]


def test_a_flight_is_shown_with_its_progress_and_its_followers_until_it_has_landed(
    watched: Watched, clients: ThreadPoolExecutor
) -> None:
    content, gate = b"".join(images.noise(4 * MIB, 11)), Gate()
    digest = watched.upstream.add_blob("library/slow", content)
    watched.upstream.script(digest, change(gates={MIB: gate}))
    began = time.time()
    pulls = [clients.submit(get, f"{watched.base('library/slow')}/blobs/{digest}") for _ in range(3)]
    wait_until(lambda: [each["followers"] for each in watched.read("flights")["flights"]] == [3], "three follow it")
    wait_until(lambda: watched.read("flights")["flights"][0]["landed"] == MIB, "what was sent has landed")
    (flight,) = watched.read("flights")["flights"]
    assert (flight["digest"], flight["repository"], flight["upstream"]) == (digest, "docker.io/library/slow", UPSTREAM)
    assert (flight["tier"], flight["size"], flight["connections"], flight["spare"]) == ("upstream", 4 * MIB, 1, False)
    assert abs(flight["started"] - began) < 20
    status = watched.read("status")
    assert (status["flights"], status["active"]) == (1, 3)
    gate.open()
    assert {pull.result(30).digest for pull in pulls} == {digest}
    wait_until(lambda: watched.read("flights") == {"flights": [], "total": 0}, "it has landed")


def test_a_flight_that_stalls_has_a_rate_of_nothing(watched: Watched, clients: ThreadPoolExecutor) -> None:
    content, gate = b"".join(images.noise(2 * MIB, 12)), Gate()
    digest = watched.upstream.add_blob("library/stalls", content)
    watched.upstream.script(digest, change(gates={MIB: gate}))
    pull = clients.submit(get, f"{watched.base('library/stalls')}/blobs/{digest}")
    wait_until(lambda: any(each["rate"] > 0 for each in watched.read("flights")["flights"]), "it moves")
    wait_until(lambda: [each["rate"] for each in watched.read("flights")["flights"]] == [0], "it has stopped moving")
    gate.open()
    assert pull.result(30).digest == digest


def test_an_upstream_is_idle_until_it_is_asked_and_ok_once_it_has_answered(fresh: Watched) -> None:
    assert fresh.upstream_state()["state"] == "idle"
    assert get(f"{fresh.base('library/none')}/manifests/latest").status == 404
    state = fresh.upstream_state()
    assert (state["state"], state["why"], state["until"]) == ("ok", "", None)
    assert state["url"] == fresh.upstream.url


def test_an_upstream_that_fails_is_failing_for_its_reason_until_it_answers_again(fresh: Watched) -> None:
    fresh.upstream.script("library/down/", then=refuse(503, "we are closed"), method="")
    assert get(f"{fresh.base('library/down')}/manifests/latest").status == 502
    state = fresh.upstream_state()
    assert state["state"] == "failing"
    assert "503" in state["why"]
    assert "we are closed" in state["why"]
    assert state["until"] > state["since"]
    fresh.recover()
    state = fresh.upstream_state()
    assert state["state"] == "ok"
    assert state["why"].startswith("recovering: it answers again, after 1 of the last minute's ")


def test_an_upstream_that_fails_once_among_good_answers_is_ok(fresh: Watched) -> None:
    digest = fresh.upstream.add_blob("library/rare", b"once in a while")
    fresh.upstream.script("library/rare/manifests/broken", then=html())
    for number in range(20):
        assert get(f"{fresh.base('library/rare')}/manifests/none-{number}").status == 404
    assert get(f"{fresh.base('library/rare')}/manifests/broken").status == 502
    assert fresh.upstream_state()["state"] == "ok"
    for _ in range(9):
        assert get(f"{fresh.base('library/rare')}/manifests/broken").status == 502
    assert fresh.upstream_state()["state"] == "failing"
    assert get(f"{fresh.base('library/rare')}/blobs/{digest}").status == 200
    state = fresh.upstream_state()
    assert state["state"] == "failing", "one good answer among ten bad ones is no recovery"
    assert state["why"].startswith("10 of the last minute's 31 questions have failed: ")


def test_an_upstream_whose_blobs_break_off_is_failing_though_it_answers(fresh: Watched) -> None:
    digest = fresh.upstream.add_blob("library/breaks", b"".join(images.noise(2 * MIB, 14)))
    fresh.upstream.script(digest, then=cut(1000, "close"))
    assert not get(f"{fresh.base('library/breaks')}/blobs/{digest}").complete
    assert fresh.upstream_state()["state"] == "failing"


def test_an_upstream_that_is_no_longer_configured_is_no_longer_shown(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "1;w=21600"}
        upstream.script("library/gone/", change(headers=quota), method="")
        digest = upstream.add_blob("library/gone", b"of an upstream that goes")
        two = {UPSTREAM: upstream.upstream(), "more.test": upstream.upstream()}
        watched = Watched(Millpond({"upstreams": two}, tmp_path).start(), upstream)
        millpond = watched.millpond

        def scraped() -> list[str]:
            lines = get(f"{millpond.admin_url}/metrics").text.splitlines()
            return [line.partition("{")[0] for line in lines if 'upstream="more.test"' in line]

        try:
            assert get(f"{millpond.url}/v2/more.test/library/gone/blobs/{digest}").status == 200
            assert "more.test" in {each["name"] for each in watched.read("status")["upstreams"]}
            assert watched.read("explain", image="more.test/library/gone:1")["name"] == "more.test/library/gone:1"
            gauges = {"millpond_upstream_state", "millpond_upstream_breaker_open", "millpond_upstream_rate_limit"}
            assert gauges < set(scraped())
            watched.millpond.configure({"upstreams": {UPSTREAM: upstream.upstream()}})
            assert watched.change("reload") == {"changed": ["upstreams.more.test"], "restart": []}
            assert "more.test" not in {each["name"] for each in watched.read("status")["upstreams"]}
            assert "more.test" in watched.read("explain", 400, image="more.test/library/gone:1")["error"]
            assert not gauges & set(scraped()), "an alert on it would never end"
            assert "millpond_upstream_requests_total" in scraped(), "a sum that vanishes would be missing in every rate"
            watched.millpond.config_file.write_text("upstreams: 5")
            assert "the old configuration stays" in watched.change("reload", 409)["error"]
            assert "upstreams" in watched.read("status")["config"]["error"]
        finally:
            watched.millpond.stop()


def test_an_upstream_that_limits_is_limited_for_as_long_as_it_says(fresh: Watched) -> None:
    fresh.upstream.script("library/many/", then=refuse(429, retry_after="7"), method="")
    assert get(f"{fresh.base('library/many')}/manifests/latest").status == 429
    state = fresh.upstream_state()
    assert state["state"] == "limited"
    assert 0 < state["until"] - time.time() <= 7
    fresh.upstream.behave()
    digest = fresh.upstream.add_blob("library/many", b"other nouns are not limited")
    assert get(f"{fresh.base('library/many')}/blobs/{digest}").status == 200
    fresh.recover()
    assert time.time() >= state["until"], "until then manifests are not asked for"
    assert fresh.upstream_state()["state"] == "ok"


def test_an_upstream_that_refuses_is_refused_with_what_to_do(fresh: Watched) -> None:
    fresh.upstream.script("library/private/", then=refuse(403), method="")
    digest = f"sha256:{'0' * 64}"
    assert get(f"{fresh.base('library/private')}/blobs/{digest}").status in (401, 403, 404)
    state = fresh.upstream_state()
    assert state["state"] == "refused"
    assert "upstreams.docker.io.username" in state["why"]


def test_the_quota_that_upstream_reports_is_shown_with_the_moment_it_was_seen(watched: Watched) -> None:
    content = b"counted"
    digest = watched.upstream.add_blob("library/quota", content)
    quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "42;w=21600"}
    watched.upstream.script(digest, change(headers=quota))
    assert get(f"{watched.base('library/quota')}/blobs/{digest}").body == content
    limit = watched.upstream_state()["rate_limit"]
    assert abs(limit.pop("seen") - time.time()) < 60
    assert limit == {"limit": 100, "remaining": 42, "window": 21600}


def test_a_program_that_drains_says_so_in_its_status(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, ThreadPoolExecutor() as clients:
        content, gate = b"".join(images.noise(4 * MIB, 13)), Gate()
        digest = upstream.add_blob("library/slow", content)
        upstream.script(digest, change(gates={2 * MIB: gate}))
        watched = Watched(Millpond({"upstreams": {UPSTREAM: upstream.upstream()}}, tmp_path).start(), upstream)
        document = watched.document
        pull = clients.submit(get, f"{watched.base('library/slow')}/blobs/{digest}")
        wait_until(lambda: watched.read("status")["active"] == 1, "a response is in progress")
        ended = clients.submit(watched.millpond.terminate)
        wait_until(lambda: watched.read("status")["draining"], "it drains")
        assert watched.read("status")["ready"] is False
        ready = get(f"{watched.millpond.admin_url}/readyz")
        document.check("GET", "/readyz", ready)
        assert ready.status == 503
        gate.open()
        assert pull.result(30).digest == digest
        assert ended.result(30) == 0


def test_the_last_minutes_are_told_to_whoever_comes_late(watched: Watched) -> None:
    content = b"".join(images.noise(1 << 20, 77))
    digest = watched.upstream.add_blob("library/late", content)
    before = time.time()
    get(f"{watched.base('library/late')}/blobs/{digest}")

    def later() -> list[dict[str, Any]]:
        return [row for row in watched.read("rates")["rates"] if row["now"] > before]

    wait_until(lambda: any(row["served_rate"] > 0 for row in later()), "the second of its end has passed")
    assert any(row["fetched_rate"] > 0 for row in later())
    assert any(row["hit_ratio"] is not None and row["hit_ratio"] < 1 for row in later())

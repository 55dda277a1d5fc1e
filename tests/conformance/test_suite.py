"""The suite's own verdict, in front of a real registry and of one with referrers: cold, warm, and without upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.conformance import shelf
from tests.conformance.suite import PROGRAM, Report, run
from tests.conftest import StartMillpond
from tests.support.millpond import Millpond
from tests.support.programs import require
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream

UPSTREAM: Final = "registry.test"
# What a pull is made of. The suite asks for ranges only of what it has pushed itself: see test_specification.py.
PULLS: Final = {
    "Ping",
    "Tag listing",
    "Blob get",
    "Blob head",
    "Manifest get by digest",
    "Manifest get by tag",
    "Manifest head by digest",
    "Manifest head by tag",
}

pytestmark = pytest.mark.clients


@pytest.fixture(autouse=True)
def suite() -> None:
    require(PROGRAM)


def assert_passed(report: Report, held: shelf.Shelf, apis: set[str]) -> None:
    print(report.text)  # with -s, or when it failed
    assert report.verdict == "Pass", report.text
    assert report.counts["FAIL"] == report.counts["Error"] == report.counts["Skip"] == 0
    # HEAD and GET of each; ping, two lists of tags, two manifests that are missing, and one digest that is none.
    assert report.counts["Pass"] == 2 * (len(held.tags) + len(held.manifests) + len(held.blobs)) + 6 + 2 * (
        "Referrers" in apis
    )
    assert {name for name, status in report.apis.items() if status == "Pass"} == apis


def before(start: StartMillpond, upstream: Registry | ScriptedUpstream) -> Millpond:
    return start({UPSTREAM: upstream.upstream()}, default_upstream=UPSTREAM)


def test_the_suite_passes_in_front_of_a_real_registry_cold_and_warm(
    plain_registry: Registry, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    """Zero failures, whether upstream is asked or the disk."""
    held = shelf.make(tmp_path / "layers", referrers=False)
    for root, tags in held.roots.items():
        plain_registry.push(root, shelf.REPOSITORY, *tags)
    millpond = before(start_millpond, plain_registry)
    assert_passed(run(millpond.host, shelf.REPOSITORY, held, tmp_path), held, PULLS)
    plain_registry.forget()
    assert_passed(run(millpond.host, shelf.REPOSITORY, held, tmp_path), held, PULLS)
    assert plain_registry.served("/blobs/") == []
    asked = {one.status for one in plain_registry.served("/manifests/")}
    assert asked <= {404}, "only what does not exist was asked for again"
    # containerd's own style leads to the same.
    assert_passed(run(f"{millpond.host}/{UPSTREAM}", shelf.REPOSITORY, held, tmp_path), held, PULLS)


def test_the_suite_passes_with_referrers_and_sha512(start_millpond: StartMillpond, tmp_path: Path) -> None:
    """What docker-registry 2.8 does not have comes from an upstream that does."""
    held = shelf.make(tmp_path / "layers", referrers=True)
    with ScriptedUpstream() as upstream:
        for root, tags in held.roots.items():
            upstream.add(root, shelf.REPOSITORY, *tags)
        millpond = before(start_millpond, upstream)
        for _ in ("cold", "warm"):
            assert_passed(run(millpond.host, shelf.REPOSITORY, held, tmp_path), held, PULLS | {"Referrers"})


def test_without_upstream_the_suite_misses_nothing_but_what_nobody_can_know(
    plain_registry: Registry, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    """B: an outage is never told as "unknown", so the two manifests that do not exist are 502 and not 404."""
    held = shelf.make(tmp_path / "layers", referrers=False)
    for root, tags in held.roots.items():
        plain_registry.push(root, shelf.REPOSITORY, *tags)
    millpond = before(start_millpond, plain_registry)
    assert_passed(run(millpond.host, shelf.REPOSITORY, held, tmp_path), held, PULLS)
    with plain_registry.down():
        report = run(millpond.host, shelf.REPOSITORY, held, tmp_path)
    assert report.failed == {"missing-manifest/by-digest", "missing-manifest/by-tag"}, report.text
    assert (report.counts["FAIL"], report.counts["Error"]) == (2, 0)

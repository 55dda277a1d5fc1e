"""The ten situations of a bad night, as whoever is on call meets them: the page says the cause before it is asked, as
far as it is Millpond's own or an upstream's, and for the image when it is asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.conftest import StartMillpond
from tests.page.desk import PATIENCE, PHONE, Desk
from tests.page.scene import picture
from tests.pull import situations
from tests.pull.situations import IMAGE, PASSWORD_OF_YESTERDAY, Planted, stocked
from tests.support.pulls import get
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream

expect.set_options(timeout=PATIENCE)

_WELL: Final = re.compile("^Healthy")
_PAUSE: Final = 0.3  # seconds between two tries of a node


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with stocked() as running:
        yield running


@contextmanager
def _on_call(browser: Browser, planted: Planted, name: str, cause: str) -> Iterator[Page]:
    """The page as it is opened now. Then its panel says `cause` of the image, and neither lies beside a phone's window;
    pictures are kept of both."""
    seat = Desk(browser, planted.millpond, color_scheme="light")
    try:
        page = seat.open()
        yield page
        picture(seat, f"night-{name}-light")
        page.locator("#pulls").get_by_role("link", name=planted.image).first.click()
        expect(page.locator("#panel .lead p").first).to_have_text(re.compile(cause))
        expect(page.locator("#panel .steps li").first).to_be_visible()
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
        picture(seat, f"night-{name}-panel", whole=False)
        _fits(page, "#panel")
        page.keyboard.press("Escape")
        picture(seat, f"night-{name}-phone")
        _fits(page, "main")
        # What is not cached has no details to show; the browser tells of that answer in the console.
        assert [each for each in seat.complaints if "404 (Not Found)" not in each] == []
    finally:
        seat.close()


def _fits(page: Page, part: str) -> None:
    beside = "all => all.filter(each => each.scrollWidth > innerWidth).map(each => each.outerHTML.slice(0, 200))"
    assert page.locator(f"{part}, {part} *").evaluate_all(beside) == []


@contextmanager
def _nodes_try_again(planted: Planted) -> Iterator[None]:
    """A node goes on asking for the image, as kubelets do."""
    over = threading.Event()

    def node() -> None:
        while not over.wait(_PAUSE):
            planted.manifest()

    thread = threading.Thread(target=node)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _pull(page: Page, planted: Planted) -> Locator:
    """The row of the image's latest pull in the list. It may be of one that is still on its way."""
    return page.locator("#pulls tbody tr").filter(has_text=planted.image).first


def test_an_upstream_that_is_down(browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    planted = situations.upstream_is_down(start_millpond, upstream)
    never = Planted(planted.millpond, "library/never")
    assert (planted.manifest().status, never.manifest().status) == (200, 502)
    with _nodes_try_again(never), _on_call(browser, planted, "upstream-down", "^Upstream docker.io is down or") as page:
        expect(page.locator("#headline")).to_have_text("docker.io is failing")
        expect(page.locator("#health")).to_have_attribute("data-level", "ill")
        expect(page.locator("#notices")).to_contain_text("Connection refused")
        row = page.locator("#upstreams li").filter(has_text="docker.io")
        expect(row.locator(".mark")).to_contain_text("failing")
        expect(row.locator(".why")).to_contain_text("Connection refused")
        expect(_pull(page, never)).to_contain_text("failed, 502")
        expect(_pull(page, planted)).to_contain_text("stale tag")
        expect(_pull(page, planted)).to_contain_text("Upstream could not confirm the tag")


def test_an_upstream_that_limits(browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    planted = situations.upstream_limits(start_millpond, upstream)
    never = Planted(planted.millpond, "library/never")
    assert (planted.manifest().status, never.manifest().status) == (200, 429)
    with _on_call(browser, planted, "limited", "^Upstream docker.io limits Millpond: ") as page:
        expect(page.locator("#headline")).to_have_text(re.compile(r"^docker\.io limits us until \d\d:\d\d:\d\d$"))
        expect(page.locator("#health")).to_have_attribute("data-level", "look")
        expect(page.locator("#upstreams li").filter(has_text="docker.io")).to_contain_text("limits requests")
        expect(_pull(page, never)).to_contain_text("failed, 429")
        expect(_pull(page, planted)).to_contain_text("stale tag")


def test_a_token_that_is_refused(browser: Browser, start_millpond: StartMillpond, token_registry: Registry) -> None:
    planted = situations.token_is_refused(start_millpond, token_registry)
    assert planted.manifest().status == 403
    with _on_call(browser, planted, "token-refused", "^Upstream docker.io refuses Millpond: ") as page:
        expect(page.locator("#headline")).to_have_text("docker.io refuses us")
        expect(page.locator("#notices")).to_contain_text("check upstreams.docker.io.username")
        expect(page.locator("#upstreams li").filter(has_text="docker.io")).to_contain_text("refused token")
        expect(_pull(page, planted)).to_contain_text("failed, 403")
        assert PASSWORD_OF_YESTERDAY not in page.content()


def test_a_tag_that_is_deleted(browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    planted = situations.tag_is_deleted(start_millpond, upstream)
    assert planted.manifest().status == 404
    with _on_call(browser, planted, "tag-deleted", "^The tag is deleted at upstream docker.io, ") as page:
        expect(page.locator("#headline")).to_have_text(_WELL)
        expect(_pull(page, planted)).to_contain_text("failed, 404")
        expect(_pull(page, planted)).to_contain_text(
            "docker.io answered 404 to a request for manifests of library/tool"
        )


def test_a_policy_that_denies(browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    planted = situations.policy_denies(start_millpond, upstream)
    assert planted.manifest().status == 403
    with _on_call(browser, planted, "policy-denied", "^The policy refuses it: .*CVE-2024-3094") as page:
        expect(page.locator("#headline")).to_have_text(_WELL)
        expect(_pull(page, planted)).to_contain_text("failed, 403")
        expect(_pull(page, planted)).to_contain_text("blocked by policy.block[0]: CVE-2024-3094")


def test_a_disk_that_is_full(
    browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with (
        situations.disk_is_full(start_millpond, upstream, tmp_path) as planted,
        _on_call(browser, planted, "disk-full", "^The disk cache takes nothing new, so pulls pass it by: ") as page,
    ):
        expect(page.locator("#headline")).to_have_text("The disk takes nothing new, pulls pass through")
        expect(page.locator("#health")).to_have_attribute("data-level", "ill")
        expect(page.locator("#notices")).to_contain_text("The file system is full")
        expect(page.locator("#cache .why")).to_contain_text("The file system is full")
        expect(page.locator("#cache")).to_contain_text(re.compile(r"Free on the file system\s*0 B"))


def test_an_ecr_that_throttles(browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    with (
        situations.ecr_throttles(start_millpond, upstream) as planted,
        _on_call(browser, planted, "ecr-throttled", "^ECR target .* has trouble: .*PutImage") as page,
    ):
        expect(page.locator("#headline")).to_have_text(_WELL)
        expect(page.locator("#notices")).to_contain_text("is behind by 1 image")
        expect(page.locator("#notices")).to_contain_text("ThrottlingException")
        expect(page.locator("#ecr .mark").filter(has_text="behind").first).to_be_visible()
        expect(page.locator("#ecr .why").first).to_contain_text("ThrottlingException")


def test_a_corrupt_file_that_was_evicted(
    browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.corrupt_file_is_evicted(start_millpond, upstream)
    with _on_call(browser, planted, "corrupt-file", "a blob of it was found damaged on disk") as page:
        expect(page.locator("#images tbody tr")).to_contain_text("710 B")
        page.locator("#images").get_by_role("link", name=planted.image).click()
        cause = "Not all of it is on disk any more: a blob of it was found damaged on disk"
        expect(page.locator("#panel .lead p").first).to_contain_text(cause)
        page.keyboard.press("Escape")
        expect(page).not_to_have_url(re.compile("#image="))  # else it opens again with the page
        assert planted.manifest().status == 200
        assert get(f"{planted.base}/blobs/{IMAGE.blobs[1].digest}").status == 200
        page.reload()
        expect(page.locator("#link")).to_have_text("Live")
        expect(page.locator("#pulls tbody tr")).to_have_count(2)
        expect(_pull(page, planted)).to_contain_text("A blob of it was found damaged on disk")


def test_a_client_that_is_too_slow(browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    planted = situations.client_is_too_slow(start_millpond, upstream)
    with _on_call(browser, planted, "slow-client", "ended before its last byte: the client was too slow") as page:
        expect(page.locator("#headline")).to_have_text(_WELL)
        expect(_pull(page, planted)).to_contain_text("client left")
        expect(_pull(page, planted)).to_contain_text(
            "The client was too slow: it took nothing for 1 s (registry.write_timeout)"
        )


def test_a_tag_that_is_older_than_its_ttl(
    browser: Browser, start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.tag_is_older_than_its_ttl(start_millpond, upstream)
    assert planted.manifest().status == 200
    with _on_call(browser, planted, "older-than-ttl", r"tag_ttl .*1 s") as page:
        expect(page.locator("#headline")).to_have_text(_WELL)
        expect(_pull(page, planted)).to_contain_text("tag_ttl is 1 s: upstream has confirmed it")

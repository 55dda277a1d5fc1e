"""What somebody on call sees of a Millpond that runs, and can do to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from proxy.admin.stream import MAX_READERS
from tests.page.conftest import OpenDesk
from tests.page.desk import PATIENCE, PHONE, TOKEN
from tests.support.faults import Gate, change, refuse
from tests.support.images import Manifest, simple_image
from tests.support.millpond import Millpond
from tests.support.pulls import get, opened, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

expect.set_options(timeout=PATIENCE)

_ALPINE = "docker.io/library/alpine:3.20"


@pytest.fixture
def image(images_directory: Path, hub: ScriptedUpstream) -> Manifest:
    """docker.io/library/alpine:3.20, of one layer."""
    made = simple_image(images_directory, seed=70, size=400_000)
    hub.add(made, "library/alpine", "3.20")
    return made


def _repository(pond: Millpond, name: str = "library/alpine") -> str:
    return f"{pond.url}/v2/docker.io/{name}"


def _pull(pond: Millpond, image: Manifest) -> None:
    pull(_repository(pond), image, "3.20")


@contextmanager
def _dripping(pond: Millpond, hub: ScriptedUpstream, image: Manifest) -> Iterator[tuple[int, list[Gate]]]:
    """A client pulls a blob that waits at a quarter of its size, and at half of it; its size and the gates."""
    layer = max(image.all_blobs().values(), key=lambda blob: blob.size)
    gates = {layer.size // 4: Gate(), layer.size // 2: Gate()}
    hub.script(layer.digest, then=change(gates=gates))
    assert get(f"{_repository(pond)}/manifests/3.20").status == 200
    with ThreadPoolExecutor(1) as client:
        pulled = client.submit(get, f"{_repository(pond)}/blobs/{layer.digest}", keep=False)
        try:
            yield layer.size, list(gates.values())
        finally:
            for gate in gates.values():
                gate.open()
        assert pulled.result().digest == layer.digest


def _sign_in(page: Page, token: str = TOKEN) -> None:
    page.locator("#token").fill(token)
    page.locator("#session").get_by_role("button", name="Sign in").click()


def test_a_first_start_reads_as_healthy_and_says_what_will_stand_where(desk: OpenDesk) -> None:
    seat = desk()
    page = seat.open()

    expect(page.locator("#headline")).to_have_text("Healthy, and waiting for its first pull")
    expect(page.locator("#health")).to_have_attribute("data-level", "well")
    expect(page.locator("#flights")).to_contain_text("Nothing is being downloaded")
    expect(page.locator("#upstreams li").first).to_contain_text("not asked yet")
    expect(page.locator("#cache")).to_contain_text("0 B of 20.0 GiB")
    expect(page.locator("#ecr")).to_contain_text("No target is configured")
    expect(page.locator("#savings")).to_contain_text("Nothing yet")
    expect(page.locator("#pulls")).to_contain_text("No pulls yet")
    expect(page.locator("#images")).to_contain_text("No image is cached yet")
    expect(page.locator("#config")).to_contain_text("millpond.yaml")
    assert (seat.complaints, seat.strange) == ([], [])


def test_a_download_shows_how_far_it_is_and_who_waits_while_upstream_drips(
    desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream, image: Manifest
) -> None:
    seat = desk()
    page = seat.open()
    with _dripping(pond, hub, image) as (size, gates):
        row, bar = page.locator("#flights li"), page.locator("#flights progress")
        expect(row).to_contain_text("docker.io/library/alpine")
        expect(row).to_contain_text("for 1 client, from docker.io")
        expect(bar).to_have_js_property("value", size // 4)
        expect(bar).to_have_js_property("max", size)
        expect(page.locator("#flights-count")).to_have_text("1")
        gates[0].open()
        expect(bar).to_have_js_property("value", size // 2)
        expect(row).to_contain_text("50 %")
    expect(page.locator("#flights li")).to_have_count(0)
    expect(page.locator("#flights")).to_contain_text("Nothing is being downloaded")
    assert seat.complaints == []


def test_throughput_and_hits_are_drawn_as_they_pass(desk: OpenDesk, pond: Millpond, image: Manifest) -> None:
    page = desk().open()
    _pull(pond, image)
    expect(page.locator("#plot")).to_contain_text("KiB/s")
    expect(page.locator("#plot svg")).to_have_attribute("aria-label", re.compile(r"at most [1-9].* served"))
    tall = "kind => [...document.querySelectorAll(`#plot path.${kind}.edge`)].some(each => each.getBBox().height > 2)"
    page.wait_for_function(tall, arg="served")
    page.wait_for_function(tall, arg="fetched")
    expect(page.locator("#ratio svg")).to_have_attribute("aria-label", re.compile(r"Hit ratio, now"))
    expect(page.locator("#ratio path.line").first).to_be_attached()
    page.locator("#plot").hover()
    expect(page.locator("#plot .read")).to_have_text(re.compile(r"\d\d:\d\d:\d\d .* served, .* fetched"))


def test_who_opens_the_page_late_sees_what_was_before(desk: OpenDesk, pond: Millpond, image: Manifest) -> None:
    """At three in the morning, the minutes that count are over."""
    _pull(pond, image)
    rates = f"{pond.admin_url}/api/v1/rates"
    wait_until(lambda: any(row["served_rate"] for row in get(rates).json()["rates"]), "that second has passed")
    page = desk().open()
    expect(page.locator("#plot svg")).to_have_attribute(
        "aria-label", re.compile(r"at most [1-9][\d.]* [KM]iB/s served")
    )


def test_a_pull_appears_with_where_it_came_from_and_why_it_was_not_here(
    desk: OpenDesk, pond: Millpond, image: Manifest
) -> None:
    page = desk().open()
    _pull(pond, image)
    first = page.locator("#pulls tbody tr").filter(has_text="upstream")
    expect(first).to_contain_text(_ALPINE)
    expect(first).to_contain_text(re.compile(r"[Nn]ever|first"))
    expect(first).to_contain_text("127.0.0.1")
    _pull(pond, image)
    expect(page.locator("#pulls tbody tr").first.locator(".source")).to_have_text("disk")
    expect(page.locator("#pulls tbody tr")).to_have_count(2)

    page.reload()
    expect(page.locator("#pulls tbody tr")).to_have_count(2)


def test_an_upstream_that_fails_is_the_headline_with_its_reason(
    desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream, image: Manifest
) -> None:
    page = desk().open()
    hub.script("/manifests/", then=refuse(503), method="")
    assert get(f"{_repository(pond)}/manifests/3.20").status == 502
    expect(page.locator("#headline")).to_contain_text("docker.io is failing")
    expect(page.locator("#health")).to_have_attribute("data-level", "ill")
    expect(page.locator("#notices")).to_contain_text("503")
    expect(page.locator("#upstreams li").filter(has_text="docker.io")).to_contain_text("failing")
    expect(page).to_have_title(re.compile("docker.io is failing"))


def test_an_upstream_that_limits_us_says_until_when(
    desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream, image: Manifest
) -> None:
    page = desk().open()
    hub.script("/manifests/", then=refuse(429, retry_after="300"), method="")
    assert get(f"{_repository(pond)}/manifests/3.20").status == 429
    expect(page.locator("#headline")).to_have_text(re.compile(r"docker\.io limits us until \d\d:\d\d:\d\d"))
    expect(page.locator("#health")).to_have_attribute("data-level", "look")
    expect(page.locator("#pulls tbody tr").first).to_contain_text("failed, 429")


def test_words_of_an_upstream_stay_words(desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream) -> None:
    seat = desk()
    page = seat.open()
    hub.script("/manifests/", then=refuse(500, "<img src=x onerror=window.hurt=1><b>bold"), method="")
    get(f"{_repository(pond)}/manifests/3.20")
    get(f"{_repository(pond)}/manifests/%3Cb%3E")
    expect(page.locator("#headline")).to_contain_text("docker.io is failing")
    assert page.evaluate("window.hurt === undefined")
    assert page.locator("main img, main b").count() == 0
    assert (seat.complaints, seat.strange) == ([], [])


def test_a_search_finds_by_any_part_of_a_name_and_explains_what_is_not_there(
    desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream, image: Manifest
) -> None:
    hub.add(image, "library/redis", "7.4")
    _pull(pond, image)
    pull(_repository(pond, "library/redis"), image, "7.4")
    page = desk().open()
    rows, field = page.locator("#images tbody tr"), page.locator("#q")
    expect(rows).to_have_count(2)

    field.fill("redis")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("docker.io/library/redis:7.4")
    expect(rows).to_contain_text("all")
    expect(page.locator("#images-count")).to_have_text("1 match")

    field.fill("docker.io/library/postgres:16")
    expect(rows).to_have_count(0)
    expect(page.locator("#images")).to_contain_text("Nothing cached has that")
    page.get_by_role("button", name="Explain this name").click()
    panel = page.locator("#panel")
    expect(panel.get_by_role("heading", name="docker.io/library/postgres:16")).to_be_visible()
    expect(panel.locator(".lead .next")).not_to_be_empty()
    expect(panel.locator(".steps li").first).to_be_visible()
    expect(panel).to_contain_text("Nothing of it is on disk")


def test_an_image_has_an_address_with_its_platforms_blobs_and_the_reason_of_its_state(
    desk: OpenDesk, pond: Millpond, image: Manifest
) -> None:
    _pull(pond, image)
    seat = desk()
    panel = seat.open(f"#image={_ALPINE}").locator("#panel")
    expect(panel.locator(".lead p").first).not_to_be_empty()
    expect(panel).to_contain_text(image.digest)
    expect(panel).to_contain_text("linux/amd64")
    expect(panel.get_by_role("heading", name="2 blobs")).to_be_visible()
    expect(panel.get_by_role("row").filter(has_text="yes")).to_have_count(2)
    assert seat.complaints == []


def test_a_pin_asks_for_the_token_and_is_done_after_signing_in(desk: OpenDesk, pond: Millpond, image: Manifest) -> None:
    _pull(pond, image)
    page = desk().open()
    page.locator("#images").get_by_role("link", name=_ALPINE).click()
    page.locator("#panel").get_by_role("button", name="Pin", exact=True).click()
    _sign_in(page, "wrong")
    expect(page.locator("#session [role=alert]")).to_have_text("That is not the token of this server.")
    _sign_in(page)
    expect(page.locator("#said")).to_contain_text("Pinned")
    expect(page.locator("#panel").get_by_role("button", name="Unpin")).to_be_visible()
    page.locator("#panel").get_by_role("button", name="Close").click()
    expect(page.locator("#images .pin")).to_have_text("pinned")
    assert get(f"{pond.admin_url}/api/v1/image?name={_ALPINE}").json()["pinned"] is True

    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#sign-in")).to_have_text("Sign in")
    assert page.evaluate("sessionStorage.length") == 0


def test_the_token_stays_in_its_tab_and_nowhere_on_the_page(desk: OpenDesk) -> None:
    page = desk().open()
    page.locator("#sign-in").click()
    _sign_in(page)
    expect(page.locator("#sign-in")).to_have_text("Sign out")
    assert TOKEN in page.evaluate("JSON.stringify(Object.values(sessionStorage))")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert TOKEN not in page.content()
    assert page.evaluate("[...document.querySelectorAll('input')].every(each => !each.value)")

    page.reload()
    expect(page.locator("#sign-in")).to_have_text("Sign out")
    beside = page.context.new_page()
    beside.goto(page.url)
    expect(beside.locator("#sign-in")).to_have_text("Sign in")


def test_purging_wants_a_second_press_and_frees_the_disk(desk: OpenDesk, pond: Millpond, image: Manifest) -> None:
    _pull(pond, image)
    page = desk().open()
    page.locator("#sign-in").click()
    _sign_in(page)
    page.locator("#images").get_by_role("link", name=_ALPINE).click()
    purge = page.locator("#panel button.grave")
    purge.click()
    expect(purge).to_have_text("Purge it from disk?")
    assert get(f"{pond.admin_url}/api/v1/image?name={_ALPINE}").status == 200
    purge.click()
    expect(page.locator("#said")).to_contain_text("Purged")
    expect(page.locator("#panel")).to_contain_text("Nothing of it is on disk")
    page.keyboard.press("Escape")
    expect(page.locator("#images")).to_contain_text("No image is cached yet")
    assert not pond.blob_file(image.digest).exists()


def test_refresh_tells_whether_upstream_has_another(
    desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream, image: Manifest, images_directory: Path
) -> None:
    _pull(pond, image)
    page = desk().open(f"#image={_ALPINE}")
    refresh = page.locator("#panel").get_by_role("button", name="Refresh")
    refresh.click()
    _sign_in(page)
    expect(page.locator("#said")).to_have_text("Upstream has the same.")
    hub.add(simple_image(images_directory, seed=71), "library/alpine", "3.20")
    refresh.click()
    expect(page.locator("#said")).to_contain_text("Upstream has a newer one")


def test_warming_shows_its_progress_and_brings_the_image(desk: OpenDesk, pond: Millpond, image: Manifest) -> None:
    page = desk().open()
    page.get_by_role("button", name="Warm images").click()
    page.get_by_label("Images, one a line").fill(f"{_ALPINE}\ndocker.io/library/nothing:1")
    page.locator("#warm").get_by_role("button", name="Warm", exact=True).click()
    _sign_in(page)
    rows = page.locator("#warm li")
    expect(rows.filter(has_text="alpine")).to_contain_text("done")
    expect(rows.filter(has_text="nothing")).to_have_attribute("data-state", "stalled")
    expect(page.locator("#warm .lead")).to_contain_text(re.compile(r"1 image here, .* fetched, 1 failed"))
    page.keyboard.press("Escape")
    expect(page.locator("#images tbody tr")).to_contain_text(_ALPINE)


def test_a_configuration_that_is_refused_is_told_and_so_is_the_next_good_one(desk: OpenDesk, pond: Millpond) -> None:
    page = desk().open()
    good = pond.config_file.read_text()
    pond.config_file.write_text(f"{good}\ncahce: {{}}\n")
    page.get_by_role("button", name="Reload configuration").click()
    _sign_in(page)
    expect(page.locator("#headline")).to_have_text("The new configuration was refused, the old one stays")
    expect(page.locator("#notices")).to_contain_text("cahce")
    pond.config_file.write_text(good)
    page.get_by_role("button", name="Reload configuration").click()
    expect(page.locator("#health")).to_have_attribute("data-level", "well")


def test_a_page_that_hears_nothing_says_since_when_and_comes_back_by_itself(desk: OpenDesk, pond: Millpond) -> None:
    page = desk().open()
    pond.kill()
    expect(page.locator("#link")).to_have_text(re.compile(r"No word since \d\d:\d\d:\d\d"))
    expect(page.locator("#headline")).to_have_text("No answer from Millpond")
    expect(page.locator("#health")).to_have_attribute("data-level", "ill")
    pond.start()
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#headline")).to_have_text(re.compile("^Healthy"))


def test_a_page_that_finds_no_room_tries_again_until_there_is_some(desk: OpenDesk, pond: Millpond) -> None:
    page = desk().page
    with ExitStack() as readers:
        for _ in range(MAX_READERS):
            assert readers.enter_context(opened(f"{pond.admin_url}/api/v1/events")).status == 200
        page.goto(pond.admin_url)
        expect(page.locator("#link")).to_have_text("Not connected")
        expect(page.locator("#headline")).to_have_text(re.compile("^Healthy"))
    expect(page.locator("#link")).to_have_text("Live")


def test_all_of_it_can_be_done_from_the_keyboard(desk: OpenDesk, pond: Millpond, image: Manifest) -> None:
    _pull(pond, image)
    page = desk().open()
    expect(page.locator("#images tbody tr")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("alpine")
    link = page.locator("#images").get_by_role("link", name=_ALPINE)
    expect(page.locator("#images-count")).to_have_text("1 match")
    for _ in range(4):
        page.keyboard.press("Tab")
        if link.evaluate("each => each === document.activeElement"):
            break
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#panel")).to_be_visible()
    assert page.evaluate("document.querySelector('#panel').contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    expect(link).to_be_focused()


@pytest.mark.parametrize("width", [320, PHONE["width"], 768, 1280])
def test_nothing_lies_beside_the_window_however_narrow_it_is(
    desk: OpenDesk, pond: Millpond, image: Manifest, width: int
) -> None:
    _pull(pond, image)
    page = desk(viewport={"width": width, "height": 844}).open()
    expect(page.locator("#images tbody tr")).to_have_count(1)
    expect(page.locator("#pulls tbody tr")).to_have_count(1)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= width
    page.locator("#images tbody a").first.click()
    expect(page.locator("#panel .steps li").first).to_be_visible()
    box = page.locator("#panel").bounding_box()
    assert box
    assert box["x"] >= 0
    assert page.locator("#panel, #panel *").evaluate_all("all => all.every(each => each.scrollWidth <= innerWidth)")


def test_warming_that_a_killed_server_breaks_off_is_told_and_can_be_begun_anew(
    desk: OpenDesk, pond: Millpond, hub: ScriptedUpstream, image: Manifest
) -> None:
    hub.script(image.blobs[-1].digest, then=change(gates={1000: Gate()}))
    page = desk().open()
    page.get_by_role("button", name="Warm images").click()
    page.get_by_label("Images, one a line").fill(_ALPINE)
    begin = page.locator("#warm").get_by_role("button", name="Warm", exact=True)
    begin.click()
    _sign_in(page)
    expect(page.locator("#warm li")).to_contain_text("of")
    pond.kill()
    expect(page.locator("#said")).to_contain_text("broke off")
    expect(begin).to_be_enabled()

"""How long an answer stands: tags by policy, digests for ever, refusals for moments; and what an outage changes."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pytest

from tests.conftest import StartMillpond
from tests.support import images
from tests.support.certificates import Authority
from tests.support.faults import BEFORE_HEADERS, Answer, Fault, Gate, change, html, refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import DEADLINE, wait_until

UPSTREAM: Final = "docker.io"
REPOSITORY: Final = "library/tool"
OLD, NEW = images.chart(seed=1), images.chart(seed=2)

ALWAYS_OLD: Final = {"tag_ttl": "0s"}  # every request finds the tag past its time
UNFORGIVING: Final = {**ALWAYS_OLD, "stale_for": "0s"}
KEEPING: Final = {**ALWAYS_OLD, "on_deleted": "serve"}


@dataclass(frozen=True, slots=True)
class House:
    """A Millpond before an upstream whose tag `1` is OLD."""

    upstream: ScriptedUpstream
    millpond: Millpond

    @property
    def base(self) -> str:
        return f"{self.millpond.url}/v2/{UPSTREAM}/{REPOSITORY}"

    def manifest(self, reference: str = "1", method: str = "GET") -> Reply:
        return get(f"{self.base}/manifests/{reference}", method=method, timeout=DEADLINE)

    def assert_served(self, manifest: Manifest, origin: str, reference: str = "1") -> None:
        reply = self.manifest(reference)
        assert (reply.status, reply.body) == (200, manifest.body), reply.text
        assert reply.headers["docker-content-digest"] == manifest.digest
        assert reply.headers["x-millpond"] == origin

    def pull(self) -> None:
        """Everything, and until all of it is kept."""
        pull(self.base, OLD, "1")
        wait_until(lambda: self.millpond.metric("millpond_flights") == 0, "all blobs have landed")

    def asked(self, method: str = "") -> int:
        """Requests that upstream has seen."""
        return len(self.upstream.seen(method=method))

    def fail(self, fault: Fault) -> None:
        """From now on upstream answers everything so."""
        for method in ("GET", "HEAD"):
            self.upstream.script("/v2/", then=fault, method=method)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.add(OLD, REPOSITORY, "1")
        yield running


class OpenHouse(Protocol):
    """Starts a Millpond whose upstream has these settings."""

    def __call__(self, **policy: Any) -> House: ...


@pytest.fixture
def open_house(upstream: ScriptedUpstream, start_millpond: StartMillpond) -> OpenHouse:
    return lambda **policy: House(upstream, start_millpond({UPSTREAM: upstream.upstream(**policy)}))


# Tags


def test_a_tag_within_its_ttl_asks_nobody(open_house: OpenHouse) -> None:
    """K B: nor does it notice that there is nobody to ask, or that Millpond has been restarted."""
    house = open_house()
    house.assert_served(OLD, "upstream")
    asked = house.asked()
    house.assert_served(OLD, "hit")
    assert house.manifest(method="HEAD").headers["content-length"] == str(len(OLD.body))
    assert house.asked() == asked
    house.upstream.stop()
    house.assert_served(OLD, "hit")
    house.millpond.restart()
    house.assert_served(OLD, "hit")


def test_a_tag_past_its_ttl_is_confirmed_by_head_alone(open_house: OpenHouse) -> None:
    house = open_house(**ALWAYS_OLD)
    house.assert_served(OLD, "upstream")
    downloads = house.asked("GET")
    for heads in (1, 2, 3):
        house.assert_served(OLD, "hit")
        assert (house.asked("HEAD"), house.asked("GET")) == (heads, downloads)


def test_a_tag_is_asked_for_again_once_its_ttl_is_over(open_house: OpenHouse) -> None:
    house = open_house(tag_ttl="2s")
    house.assert_served(OLD, "upstream")
    house.assert_served(OLD, "hit")
    assert house.asked("HEAD") == 0
    wait_until(lambda: house.manifest().status == 200 and house.asked("HEAD"), "upstream is asked again")
    house.assert_served(OLD, "hit")
    assert house.asked("HEAD") == 1  # and the answer stands for another while


def test_a_tag_that_moved_upstream_is_followed(open_house: OpenHouse) -> None:
    """By its new digest; when it moves back nothing has to be downloaded."""
    house = open_house(**ALWAYS_OLD)
    house.assert_served(OLD, "upstream")
    house.upstream.add(NEW, REPOSITORY, "1")
    house.assert_served(NEW, "upstream")
    downloads = house.asked("GET")
    house.assert_served(NEW, "hit")
    house.upstream.add(OLD, REPOSITORY, "1")
    house.assert_served(OLD, "hit")
    assert house.asked("GET") == downloads


def test_a_tag_within_its_ttl_does_not_move(open_house: OpenHouse) -> None:
    house = open_house()
    house.assert_served(OLD, "upstream")
    house.upstream.add(NEW, REPOSITORY, "1")
    house.assert_served(OLD, "hit")


@pytest.mark.parametrize("head", [refuse(405), refuse(501)], ids=["405", "501"])
def test_a_tag_is_followed_where_upstream_does_not_do_head(open_house: OpenHouse, head: Fault) -> None:
    house = open_house(**ALWAYS_OLD)
    house.upstream.script("/manifests/", then=head, method="HEAD")
    house.assert_served(OLD, "upstream")
    house.upstream.add(NEW, REPOSITORY, "1")
    house.assert_served(NEW, "upstream")


def test_a_tag_is_followed_where_head_does_not_say_the_digest(open_house: OpenHouse) -> None:
    house = open_house(**ALWAYS_OLD)
    house.assert_served(OLD, "upstream")
    for image in (OLD, NEW):
        bare = Answer(200, image.body, {"Content-Type": image.media_type}, ranged=False)
        house.upstream.serve(f"/v2/{REPOSITORY}/manifests/1", bare)
        house.assert_served(image, "upstream")


# Callers


def ask(house: House, path: str) -> socket.socket:
    """Send a request, and leave its answer for later."""
    sock = socket.create_connection(("127.0.0.1", house.millpond.port), timeout=DEADLINE)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {house.millpond.host}\r\n\r\n".encode())
    return sock


def answer(sock: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(sock)
    response.begin()
    with closing(response):
        return response.status, response.read()


@pytest.mark.parametrize(("warm", "method"), [(True, "HEAD"), (False, "GET")], ids=["revalidation", "first fetch"])
def test_many_callers_of_a_tag_cost_upstream_one_request(open_house: OpenHouse, method: str, *, warm: bool) -> None:
    """H: fifty at once, all told."""
    house, gate = open_house(**ALWAYS_OLD), Gate()
    if warm:
        house.assert_served(OLD, "upstream")
    before = house.asked(method)
    house.upstream.script("/manifests/", change(gates={BEFORE_HEADERS: gate}), method=method)
    path = f"/v2/{UPSTREAM}/{REPOSITORY}/manifests/1"
    with ExitStack() as stack:
        callers = [stack.enter_context(closing(ask(house, path))) for _ in range(50)]
        assert gate.reached.wait(DEADLINE)
        # Connections are taken in order: with this answer the fifty before it have been read.
        assert get(f"{house.millpond.url}/v2/").status == 200
        gate.open()
        assert {answer(caller) for caller in callers} == {(200, OLD.body)}
    assert house.asked(method) == before + 1


# An upstream that fails

OUTAGES: Final = [
    pytest.param(refuse(500), 502, id="500"),
    pytest.param(refuse(503, retry_after="1"), 502, id="503"),
    pytest.param(refuse(429, retry_after="30"), 429, id="429"),
    pytest.param(html(), 502, id="html"),
]


@pytest.mark.parametrize(("fault", "status"), OUTAGES)
def test_a_tag_outlives_an_upstream_that_fails(open_house: OpenHouse, fault: Fault, status: int) -> None:
    """Rows 9, 10, B H: within stale_for, all of the image with it; afterwards all is as before."""
    house = open_house(**ALWAYS_OLD)
    house.pull()
    house.fail(fault)
    house.assert_served(OLD, "stale")
    reply = house.manifest(method="HEAD")
    assert (reply.status, reply.headers["x-millpond"]) == (200, "stale")
    assert {reply.headers["x-millpond"] for reply in pull(house.base, OLD, OLD.digest)} == {"hit"}
    if status != 429:  # which is waited for as long as it says
        house.upstream.behave()
        wait_until(lambda: house.manifest().headers["x-millpond"] == "hit", "upstream is trusted again")


def test_a_tag_outlives_an_upstream_that_has_gone(open_house: OpenHouse) -> None:
    """Row 10, B H: connections are refused; a tag that moved meanwhile is followed when it is back."""
    house = open_house(**ALWAYS_OLD)
    house.pull()
    house.upstream.stop()
    for _ in range(10):
        house.assert_served(OLD, "stale")
    house.upstream.add(NEW, REPOSITORY, "1")
    house.upstream.start()
    wait_until(lambda: house.manifest().body == NEW.body, "the tag is followed again")


def test_a_tag_does_not_wait_long_for_an_upstream_that_hangs(open_house: OpenHouse) -> None:
    """Row 10, H B: clients have deadlines of their own; the question goes on without them."""
    house, gate = open_house(**ALWAYS_OLD), Gate()
    house.assert_served(OLD, "upstream")
    house.upstream.add(NEW, REPOSITORY, "1")
    house.upstream.script("/manifests/", change(gates={BEFORE_HEADERS: gate}), method="HEAD")
    house.assert_served(OLD, "stale")
    gate.open()
    wait_until(lambda: house.manifest().body == NEW.body, "the tag is followed again")


@pytest.mark.parametrize(("fault", "status"), OUTAGES)
def test_a_tag_beyond_its_stale_window_is_told_as_an_outage(open_house: OpenHouse, fault: Fault, status: int) -> None:
    """Rows 9, 10, B: never as something that does not exist."""
    house = open_house(**UNFORGIVING)
    house.assert_served(OLD, "upstream")
    house.fail(fault)
    reply = house.manifest()
    assert (reply.status, reply.error_code) == (status, "TOOMANYREQUESTS" if status == 429 else "UNAVAILABLE")
    house.assert_served(OLD, "hit", OLD.digest)


@pytest.mark.parametrize(("fault", "status"), OUTAGES)
def test_what_is_not_here_is_told_as_an_outage(open_house: OpenHouse, fault: Fault, status: int) -> None:
    """Rows 9, 10, B: manifests and blobs, which may well exist."""
    house = open_house()
    house.fail(fault)
    assert (house.manifest().status, house.manifest(OLD.digest).status) == (status, status)
    blob = OLD.blobs[1]
    assert get(f"{house.base}/blobs/{blob.digest}", timeout=DEADLINE).status == status
    assert not house.millpond.blob_file(blob.digest).exists()


def test_an_upstream_that_limits_is_not_asked_again_before_its_time(open_house: OpenHouse) -> None:
    """Row 9, H B: Retry-After is relayed, and kept to; no retry, no storm."""
    house = open_house(**UNFORGIVING)
    house.upstream.script("/manifests/", then=refuse(429, retry_after="30"))
    for _ in range(10):
        reply = house.manifest()
        assert (reply.status, reply.error_code) == (429, "TOOMANYREQUESTS")
        assert 25 <= int(reply.headers["retry-after"]) <= 30
    assert house.asked() == 1


@pytest.mark.parametrize("url", ["http://registry.invalid", "tls"], ids=["DNS", "TLS"])
def test_an_upstream_that_cannot_be_reached_is_told_as_such(
    start_millpond: StartMillpond, authority: Authority, url: str
) -> None:
    """Row 10, B S: no such name; a certificate that nobody vouches for."""
    with ScriptedUpstream(authority) as upstream:
        millpond = start_millpond({UPSTREAM: {"url": upstream.url if url == "tls" else url}})
        reply = House(upstream, millpond).manifest()
        assert (reply.status, reply.error_code) == (502, "UNAVAILABLE")
        assert upstream.requests == []


# What upstream says for certain


@pytest.mark.parametrize(
    ("status", "seen", "code"), [(404, 404, "MANIFEST_UNKNOWN"), (401, 403, "DENIED"), (403, 403, "DENIED")]
)
def test_a_refusal_is_not_masked_by_what_was_there(open_house: OpenHouse, status: int, seen: int, code: str) -> None:
    """Row 11, S: nor does the tag come back when upstream goes away after that; its digest stands."""
    house = open_house(**ALWAYS_OLD)
    house.assert_served(OLD, "upstream")
    house.upstream.script("/manifests/1", then=refuse(status), method="HEAD")
    house.upstream.script("/manifests/1", then=refuse(status))
    reply = house.manifest()
    assert (reply.status, reply.error_code) == (seen, code)
    house.upstream.stop()
    assert house.manifest().status != 200
    house.assert_served(OLD, "hit", OLD.digest)


def test_a_deleted_tag_is_kept_where_that_is_configured(open_house: OpenHouse) -> None:
    """Row 11: `on_deleted: serve`."""
    house = open_house(**KEEPING)
    house.assert_served(OLD, "upstream")
    house.upstream.remove_tag(REPOSITORY, "1")
    for _ in range(3):
        house.assert_served(OLD, "stale")
    house.upstream.stop()
    house.assert_served(OLD, "stale")


@pytest.mark.parametrize("status", [401, 403])
def test_a_kept_tag_is_still_refused_to_those_who_may_not_have_it(open_house: OpenHouse, status: int) -> None:
    """Row 11, S: `on_deleted` is about deletion, not about permission."""
    house = open_house(**KEEPING)
    house.assert_served(OLD, "upstream")
    house.upstream.script("/manifests/1", then=refuse(status), method="HEAD")
    assert house.manifest().status == 403


def test_a_refusal_is_remembered_for_moments(open_house: OpenHouse) -> None:
    """Row 11, S H: a stampede for what does not exist is one question; what is then pushed is soon found."""
    house = open_house()
    digest = images.blob(b"not yet").digest
    urls = [f"{house.base}/manifests/2", f"{house.base}/manifests/{NEW.digest}", f"{house.base}/blobs/{digest}"]
    for url, code in zip(urls, ("MANIFEST_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"), strict=True):
        for _ in range(20):
            reply = get(url)
            assert (reply.status, reply.error_code) == (404, code)
    assert [request.path for request in house.upstream.seen()] == [
        f"/v2/{url.split(f'{UPSTREAM}/')[1]}" for url in urls
    ]
    house.upstream.add(NEW, REPOSITORY, "2")
    house.upstream.add_blob(REPOSITORY, b"not yet")
    for url in urls:
        wait_until(lambda url=url: get(url).status == 200, "what was pushed is found")  # type: ignore[misc]


# Digests


def test_a_digest_never_expires(open_house: OpenHouse) -> None:
    """K B: whatever the tag's policy, and whatever became of upstream."""
    house = open_house(**UNFORGIVING)
    house.pull()
    house.upstream.remove_tag(REPOSITORY, "1")
    asked = house.asked()
    for _ in range(2):
        assert {reply.headers["x-millpond"] for reply in pull(house.base, OLD, OLD.digest)} == {"hit"}
        assert house.asked() == asked
        house.upstream.stop()
        house.millpond.restart()


def test_a_digest_that_a_tag_brought_is_here_by_itself(open_house: OpenHouse) -> None:
    """K: pulled by tag, it is asked for by digest without a request, as containerd does."""
    house = open_house(**ALWAYS_OLD)
    house.assert_served(OLD, "upstream")
    asked = house.asked()
    house.assert_served(OLD, "hit", OLD.digest)
    reply = get(f"{house.base}/manifests/{OLD.digest}", {"If-None-Match": f'"{OLD.digest}"'})
    assert (reply.status, reply.size) == (304, 0)
    assert house.asked() == asked

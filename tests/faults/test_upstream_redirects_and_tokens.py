"""Redirects that may not be followed, and what expires in the middle of a body. The rules are in tests/upstream."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.conftest import StartMillpond
from tests.faults.conftest import LARGE, UPSTREAM, Break, Cold, cold_blob, get_through
from tests.support.certificates import Authority
from tests.support.faults import Answer, Fault, Request, redirect, refuse
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

HALF: Final = LARGE // 2
MAX_REDIRECTS: Final = 5


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ScriptedUpstream]:
    """Another origin, as the host of a CDN is one."""
    with ScriptedUpstream() as running:
        yield running


def at_cdn(cold: Cold, elsewhere: ScriptedUpstream, path: str) -> str:
    """The URL below which the blob's content is on another origin too."""
    elsewhere.serve(path, Answer(200, cold.content))
    return f"{elsewhere.url}{path}"


def moved(location: str) -> Answer:
    """An answer that redirects whoever asks."""
    return Answer(307, b"", {"Location": location}, ranged=False)


def wants(authorization: Callable[[], str], challenge: str) -> Fault:
    """401 with this challenge for every request without this Authorization header."""

    def fault(request: Request, answer: Answer) -> Answer:
        if request.headers.get("authorization") == authorization():
            return answer
        return Answer(401, b"", {"WWW-Authenticate": challenge}, ranged=False)

    return fault


# Row 13


def test_a_blob_is_followed_to_where_upstream_keeps_it(cold: Cold, elsewhere: ScriptedUpstream) -> None:
    """Row 13, W: the fifth hop is the last that is made."""
    end = at_cdn(cold, elsewhere, f"/fifth/{cold.digest}")
    for number in range(1, MAX_REDIRECTS):
        following = end if number == MAX_REDIRECTS - 1 else f"/hop/{number + 1}"
        cold.upstream.serve(f"/hop/{number}", moved(following))
    cold.script(redirect("/hop/1"))
    cold.assert_whole(cold.get())
    assert len(elsewhere.seen("/fifth/")) == 1


def test_a_redirect_loop_is_refused_with_a_status(cold: Cold) -> None:
    """Row 13, H."""
    cold.upstream.serve("/loop", moved("/loop/again"))
    cold.upstream.serve("/loop/again", moved("/loop"))
    cold.script(redirect("/loop"))
    cold.assert_refused(cold.get())
    assert len(cold.upstream.seen("/loop")) == 2
    cold.assert_nothing_kept()
    cold.assert_recovers()


def test_a_sixth_redirect_is_not_followed(cold: Cold) -> None:
    """Row 13, H."""
    for number in range(1, 10):
        cold.upstream.serve(f"/far/{number}", moved(f"/far/{number + 1}"))
    cold.script(redirect("/far/1"))
    cold.assert_refused(cold.get())
    assert len(cold.upstream.seen("/far/")) == MAX_REDIRECTS
    cold.assert_recovers()


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://user@127.0.0.1/",
        "file:///etc/passwd",
        "http://2130706433/",
        "",
    ],
)
def test_a_redirect_to_where_none_may_lead_is_refused_with_a_status(cold: Cold, location: str) -> None:
    """Row 13, S H: link-local addresses (the cloud's metadata), credentials in the URL, other schemes."""
    cold.script(redirect(location))
    reply = cold.get()
    cold.assert_refused(reply)
    assert "meta-data" not in reply.text
    assert len(cold.ranges) == 1
    cold.assert_recovers()


def test_a_redirect_from_https_to_http_is_refused(
    start_millpond: StartMillpond, authority: Authority, elsewhere: ScriptedUpstream
) -> None:
    """Row 13, S: and no connection is made."""
    with ScriptedUpstream(authority) as upstream:
        cold = cold_blob(upstream, start_millpond({UPSTREAM: upstream.upstream()}))
        cold.script(redirect(at_cdn(cold, elsewhere, f"/plain/{cold.digest}")))
        cold.assert_refused(cold.get())
        assert elsewhere.seen("/plain/") == []
        cold.assert_recovers()


def test_credentials_stay_with_the_upstream_that_they_are_for(
    start_millpond: StartMillpond,
    upstream: ScriptedUpstream,
    elsewhere: ScriptedUpstream,
    clients: ThreadPoolExecutor,
) -> None:
    """Row 13, S: a CDN that is redirected to gets the Range of a resumption, and no Authorization."""
    user = {"username": "robot"}
    millpond = start_millpond(
        {UPSTREAM: upstream.upstream(**user)}, env={"MILLPOND_UPSTREAMS__DOCKER_IO__PASSWORD": "correct horse"}
    )
    basic = "Basic " + base64.b64encode(b"robot:correct horse").decode()
    guarded = wants(lambda: basic, 'Basic realm="tests"')
    cold = cold_blob(upstream, millpond)
    location = at_cdn(cold, elsewhere, f"/cdn/{cold.digest}")

    def keep_out(request: Request, answer: Answer) -> Answer:
        return guarded(request, redirect(location)(request, answer))

    cold.script(then=keep_out)
    broken = Break(cold, HALF)
    elsewhere.script("/cdn/", broken.fault)
    cold.assert_whole(get_through(broken, cold, clients))
    assert basic in {request.headers.get("authorization") for request in upstream.seen(cold.digest)}
    followed = elsewhere.seen(f"/cdn/{cold.digest}")
    assert [request.headers.get("range") for request in followed] == [None, f"bytes={HALF}-"]
    assert not [request for request in followed if "authorization" in request.headers]
    millpond.settle_log()
    assert "correct horse" not in millpond.log_text()


# Row 14


def test_a_presigned_url_is_made_anew_for_a_resumption(
    cold: Cold, elsewhere: ScriptedUpstream, clients: ThreadPoolExecutor
) -> None:
    """Row 14, K H: the old one has expired meanwhile; the blob goes on where it stopped."""
    old, new = (at_cdn(cold, elsewhere, f"/signed/{number}/{cold.digest}") for number in (1, 2))
    broken = Break(cold, HALF)
    elsewhere.script("/signed/1/", broken.fault, then=refuse(403, "expired"))
    cold.script(redirect(old), redirect(new))
    cold.assert_whole(get_through(broken, cold, clients))
    seen = [(request.path[:9], request.headers.get("range")) for request in elsewhere.seen(cold.digest)]
    assert seen == [("/signed/1", None), ("/signed/2", f"bytes={HALF}-")]
    wait_until(lambda: elsewhere.sent_of(cold.digest) == cold.size, "each byte has been sent once")


def test_a_presigned_url_that_was_made_expired_is_made_anew_once(
    cold: Cold, elsewhere: ScriptedUpstream, clients: ThreadPoolExecutor
) -> None:
    """Row 14, K H: and once only, should the next one be no better."""
    urls = [at_cdn(cold, elsewhere, f"/stamped/{number}/{cold.digest}") for number in (1, 2, 3)]
    broken = Break(cold, HALF)
    elsewhere.script("/stamped/", broken.fault, refuse(403))
    cold.script(*[redirect(url) for url in urls])
    cold.assert_whole(get_through(broken, cold, clients))
    seen = [(request.path[:10], request.headers.get("range")) for request in elsewhere.seen(cold.digest)]
    assert seen == [("/stamped/1", None), ("/stamped/2", f"bytes={HALF}-"), ("/stamped/3", f"bytes={HALF}-")]


def test_a_token_that_expires_in_the_middle_of_a_body_is_renewed(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, clients: ThreadPoolExecutor
) -> None:
    """Row 14, K H: re-authenticated once, continued where it stopped, each byte sent once."""
    cold = cold_blob(upstream, start_millpond({UPSTREAM: upstream.upstream()}))
    valid, broken = ["first"], Break(cold, HALF)
    challenge = f'Bearer realm="{upstream.url}/token",service="tests"'
    guarded = wants(lambda: f"Bearer {valid[0]}", challenge)

    def token(_: Request, __: Answer) -> Answer:
        return Answer(200, json.dumps({"token": valid[0], "expires_in": 300}).encode(), ranged=False)

    def breaks_halfway(request: Request, answer: Answer) -> Answer:
        answer = guarded(request, broken.fault(request, answer))
        valid[0] = "second"
        return answer

    upstream.script("/token", then=token)
    cold.script(guarded, breaks_halfway, then=guarded)
    cold.assert_whole(get_through(broken, cold, clients))
    asked = [request.headers for request in upstream.seen(cold.digest)]
    rest = f"bytes={HALF}-"
    assert [(headers.get("authorization"), headers.get("range")) for headers in asked] == [
        (None, None),
        ("Bearer first", None),
        ("Bearer first", rest),
        (None, rest),
        ("Bearer second", rest),
    ]
    assert len(upstream.seen("/token")) == 2
    wait_until(lambda: cold.sent == cold.size, "each byte has been sent once")


def test_a_token_that_cannot_be_renewed_ends_the_download(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, clients: ThreadPoolExecutor
) -> None:
    """Row 14, W H: the client is told by its connection, the next one by a status; no storm of token requests."""
    cold = cold_blob(upstream, start_millpond({UPSTREAM: upstream.upstream()}))
    challenge = f'Bearer realm="{upstream.url}/token",service="tests"'
    before = len(upstream.seen("/token"))
    upstream.serve("/token", Answer(200, b'{"token": "useless"}', ranged=False))
    broken = Break(cold, HALF)
    cold.script(broken.fault, then=wants(lambda: "Bearer another", challenge))
    cold.assert_broken_off(get_through(broken, cold, clients))
    assert len(cold.ranges) <= 4
    assert len(upstream.seen("/token")) - before <= 2
    reply = get(cold.url)
    assert (reply.status, reply.error_code) == (403, "DENIED")
    cold.assert_nothing_kept()

"""Where requests may go (faults rows 12 and 13), before any connection is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.oci.errors import UpstreamInvalid
from proxy.upstream.addresses import Reach, reach_of
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.guard import Guard, parse_target

PUBLIC = Endpoint("docker.io", "https://registry-1.docker.io", token_hosts=("auth.docker.io", "login.example:8443"))


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("1.1.1.1", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
        ("64:ff9b::101:101", Reach.PUBLIC),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.31.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("::ffff:192.168.1.1", Reach.PRIVATE),
        ("64:ff9b::a00:1", Reach.PRIVATE),
        ("2002:a00:1::", Reach.PRIVATE),
        ("127.8.8.8", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("169.254.169.254", Reach.FORBIDDEN),
        ("::ffff:169.254.169.254", Reach.FORBIDDEN),
        ("fe80::1%eth0", Reach.FORBIDDEN),
        ("fd00:ec2::254", Reach.FORBIDDEN),
        ("0.0.0.0", Reach.FORBIDDEN),
        ("0.1.2.3", Reach.FORBIDDEN),
        ("::", Reach.FORBIDDEN),
        ("224.0.0.1", Reach.FORBIDDEN),
        ("ff02::1", Reach.FORBIDDEN),
    ],
)
def test_every_address_has_its_reach_however_it_is_wrapped(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


@pytest.mark.parametrize(
    "realm",
    [
        "https://registry-1.docker.io/token",
        "https://REGISTRY-1.docker.io./token?x=1",
        "https://auth.docker.io/token",
        "https://auth.docker.io:444/token",
        "https://login.example:8443/token",
    ],
)
def test_a_realm_on_the_upstreams_own_or_a_configured_host_is_accepted(realm: str) -> None:
    assert Guard(PUBLIC).realm(realm).scheme == "https"


@pytest.mark.parametrize(
    ("realm", "why"),
    [
        ("https://evil.example/token", "upstreams.docker.io.token_hosts"),
        ("https://docker.io/token", "token_hosts"),
        ("https://x.auth.docker.io/token", "token_hosts"),
        ("https://auth.docker.io.evil.example/token", "token_hosts"),
        ("https://login.example/token", "token_hosts"),
        ("http://auth.docker.io/token", "plain http"),
        ("https://auth.docker.io@evil.example/token", "user name"),
        ("https://user:pw@auth.docker.io/token", "user name"),
        ("https://169.254.169.254/latest/meta-data", "token_hosts"),
        ("https://[fd00:ec2::254]/", "token_hosts"),
        ("https://2130706433/", "host is not valid"),
        ("https://127.1/", "host is not valid"),
        ("https://0x7f.0x1/", "host is not valid"),
        ("https://auth.docker.io\\@evil.example/", "user name"),
        ("https://auth.docker.io\\.evil.example/", "host is not valid"),
        ("https://auth.docker.io:0/", "host is not valid"),
        ("https://auth.docker.io:port/", "not a URL"),
        ("https://aüth.docker.io/", "host is not valid"),
        ("https:///token", "not an http"),
        ("//auth.docker.io/token", "not an http"),
        ("file:///etc/passwd", "not an http"),
        ("https://auth.docker.io/\r\nHost: evil", "control characters"),
        ("https://auth.docker.io/" + "a" * 20_000, "longer than"),
    ],
)
def test_any_other_realm_is_refused_with_what_to_do_about_it(realm: str, why: str) -> None:
    with pytest.raises(UpstreamInvalid, match=why):
        Guard(PUBLIC).realm(realm)


def test_an_http_upstream_may_have_its_realm_on_http() -> None:
    assert Guard(Endpoint("x", "http://reg.example:5000")).realm("http://reg.example:5001/token").port == 5001


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://cdn.example/x", "plain http"),
        ("https://10.0.0.1/x", "private address"),
        ("https://127.0.0.1/x", "loopback address"),
        ("https://[::1]/x", "loopback address"),
        ("https://169.254.169.254/x", "forbidden address"),
        ("https://user@cdn.example/x", "user name"),
        ("ftp://cdn.example/x", "not an http"),
        ("https://[::1", "not a URL"),
    ],
)
def test_a_public_upstream_may_not_redirect_inside(location: str, why: str) -> None:
    guard = Guard(PUBLIC)
    with pytest.raises(UpstreamInvalid, match=why):
        guard.redirect(guard.own, location)


@pytest.mark.parametrize(
    ("own", "location", "allowed"),
    [
        ("https://10.0.0.5", "https://10.9.9.9/x", True),
        ("https://10.0.0.5", "https://1.1.1.1/x", True),
        ("https://10.0.0.5", "https://127.0.0.1/x", False),
        ("https://10.0.0.5", "https://169.254.169.254/x", False),
        ("https://127.0.0.1:5000", "https://127.0.0.1:9/x", True),
        ("https://127.0.0.1:5000", "https://127.0.0.2/x", True),
        ("https://127.0.0.1:5000", "https://169.254.169.254/x", False),
    ],
)
def test_an_upstream_may_redirect_as_far_inside_as_it_is_itself(own: str, location: str, allowed: bool) -> None:
    guard = Guard(Endpoint("x", own))
    if allowed:
        assert guard.redirect(guard.own, location).url == location
    else:
        with pytest.raises(UpstreamInvalid):
            guard.redirect(guard.own, location)


def test_a_presigned_location_is_kept_as_it_was_signed() -> None:
    guard = Guard(PUBLIC)
    location = "https://cdn.example/a%2Fb/./c?X-Sig=a%2Bb/c+d~e'(f)%7E&Policy=abc__&x=%e2%82%ac"
    assert guard.redirect(guard.own, location).url == location
    assert guard.redirect(guard.own, "https://cdn.example/ü b#part").url == "https://cdn.example/%C3%BC%20b"
    assert guard.redirect(guard.own.at("/v2/a/b"), "../c?d").url == "https://registry-1.docker.io/v2/c?d"


def test_a_name_that_resolves_inside_is_refused_unless_it_is_the_upstreams_own_or_a_token_host() -> None:
    guard = Guard(PUBLIC)
    guard.admit("registry-1.docker.io", ["1.2.3.4"])
    guard.admit("cdn.example", ["1.2.3.4", "2606:4700::1"])
    guard.admit("auth.docker.io", ["10.0.0.1"])
    with pytest.raises(UpstreamInvalid, match=r"cdn\.example"):
        guard.admit("cdn.example", ["1.2.3.4", "10.0.0.1"])
    guard.admit("registry-1.docker.io", ["10.0.0.1"])  # split-horizon DNS: the upstream is inside
    guard.admit("cdn.example", ["10.0.0.1"])
    with pytest.raises(UpstreamInvalid):
        guard.admit("cdn.example", ["169.254.169.254"])


def test_the_next_page_is_on_the_own_origin_or_refused() -> None:
    guard = Guard(PUBLIC)
    assert guard.page(guard.own.at("/v2/a/tags/list"), "/v2/a/tags/list?last=x").path == "/v2/a/tags/list?last=x"
    with pytest.raises(UpstreamInvalid, match="another host"):
        guard.page(guard.own, "https://evil.example/v2/a/tags/list")


def test_neither_refusals_nor_targets_show_paths_or_queries() -> None:
    target = parse_target("https://cdn.example/path?X-Amz-Signature=secret")
    assert "secret" not in f"{target!r} {target}"
    with pytest.raises(UpstreamInvalid) as caught:
        Guard(PUBLIC).realm("https://evil.example/token?secret=1")
    assert "secret" not in str(caught.value)


def test_a_path_prefix_of_the_url_is_kept() -> None:
    assert Guard(Endpoint("x", "https://reg.example/prefix/")).api("/v2/").url == "https://reg.example/prefix/v2/"


@given(st.text(max_size=80))
def test_no_location_makes_it_raise_anything_but_a_refusal(location: str) -> None:
    guard = Guard(PUBLIC)
    try:
        target = guard.redirect(guard.own, location)
    except UpstreamInvalid:
        return
    assert target.url.isascii()
    assert parse_target(target.url) == target

"""Whoever reaches the admin port may read; who may change is decided here, and no web page is among them."""

from __future__ import annotations

import pytest

from tests.admin.conftest import BEARER, TOKEN, Port
from tests.support.pulls import get

OTHERS = [
    "evil.test",
    "evil.test:5001",
    "127.0.0.1.evil.test",
    "localhost.evil.test",
    "localhost@evil.test",
    "evil.test/localhost",
    "evil.test#localhost",
    "10.0.0.1:5001",
    "2130706433",
    "localhost:x",
    "[::1",
    "",
]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("kind", ["local", "local_with_token", "wide", "wide_with_token"])
def test_whoever_reaches_the_port_may_read(request: pytest.FixtureRequest, kind: str, path: str) -> None:
    port: Port = request.getfixturevalue(kind)
    assert port.read(path).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_balancer_on_the_same_machine_asks_after_its_health_by_any_name(local: Port, path: str) -> None:
    """As deploy/haproxy/haproxy.cfg does."""
    assert local.read(path, {"Host": "millpond"}).status == 200


@pytest.mark.parametrize("name", ["127.0.0.1:5001", "127.8.8.8", "localhost", "LocalHost:80", "localhost.", "[::1]:1"])
def test_a_port_of_this_machine_is_asked_by_its_own_names(local: Port, name: str) -> None:
    assert local.read(headers={"Host": name}).status == 200
    assert local.may_change({"Host": name})


@pytest.mark.parametrize("name", OTHERS)
def test_a_port_of_this_machine_does_not_answer_to_a_name_that_was_pointed_at_it(local: Port, name: str) -> None:
    """S: a web page whose own name resolves to 127.0.0.1 (DNS rebinding) neither reads nor changes anything."""
    reply = local.read("/metrics", {"Host": name})
    assert reply.status == 403
    assert "millpond_" not in reply.text
    assert "ask 127.0.0.1 instead" in local.error({"Host": name})


def test_one_foreign_name_among_two_is_enough_to_be_refused(local: Port) -> None:
    assert local.read("/metrics", {"Host": "localhost", "host": "evil.test"}).status in (400, 403)


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "https://evil.test", "http://127.0.0.1:1", "null", "", "file://", "evil"]
)
def test_a_web_page_from_elsewhere_changes_nothing(local: Port, origin: str) -> None:
    """S: also one that sends the type that JSON has, which a browser should have asked about first."""
    assert "a web page from elsewhere" in local.error({"Origin": origin})
    assert local.read(headers={"Origin": origin}).status == 200


def test_a_page_of_the_port_itself_may_change(local: Port) -> None:
    assert local.may_change({"Origin": local.millpond.admin_url})


def test_no_other_page_is_told_that_it_may_read(local: Port) -> None:
    reply = local.read("/metrics", {"Origin": "http://evil.test"})
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("kind", ["local_with_token", "wide_with_token"])
def test_with_a_token_a_change_needs_it(request: pytest.FixtureRequest, kind: str) -> None:
    port: Port = request.getfixturevalue(kind)
    assert port.may_change(BEARER)
    assert port.may_change({"Authorization": f"bearer  {TOKEN} "})
    assert "admin.token_file" in port.error(status=401)
    assert port.change().headers["www-authenticate"] == 'Bearer realm="millpond admin"'


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer ä"]
)
def test_what_is_not_the_token_changes_nothing_and_is_not_repeated(wide_with_token: Port, given: str) -> None:
    reply = wide_with_token.change({"Authorization": given})
    assert reply.status == 401
    assert "is not the token of this server" in reply.text
    assert TOKEN[:-1] not in reply.text


def test_a_token_also_counts_behind_a_name_that_is_not_its_own(wide_with_token: Port) -> None:
    elsewhere = {"Host": "millpond.example.test", "Origin": "https://tools.example.test"}
    assert wide_with_token.may_change({**BEARER, **elsewhere})


@pytest.mark.parametrize("headers", [{}, BEARER, {"Host": "localhost"}])
def test_a_port_open_to_others_without_a_token_is_for_reading(wide: Port, headers: dict[str, str]) -> None:
    message = wide.error(headers)
    assert "changes are off: admin.listen (0.0.0.0) is open to other machines and there is no token" in message
    assert "set admin.token_file, or the environment variable MILLPOND_ADMIN__TOKEN" in message


def test_a_port_open_to_others_is_read_by_any_name(wide: Port) -> None:
    """As Prometheus asks a service, and a load balancer a pod."""
    assert wide.read(headers={"Host": "millpond.monitoring.svc:5001"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "ANYTHING"])
def test_whatever_is_not_a_read_is_a_change(wide: Port, method: str) -> None:
    assert get(f"{wide.millpond.admin_url}/metrics", method=method).status in (400, 403)

"""Which addresses may pull, and whose word counts about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import pytest

from proxy.edge.addresses import Addresses
from tests.edge.access import ask_from, message
from tests.support.millpond import Millpond
from tests.support.scripted import ScriptedUpstream

FORWARDERS = [ip_network("10.0.0.0/24"), ip_network("2001:db8:f::/64")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["10.9.9.9"], "192.0.2.1"),  # only that client's word
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["8.8.8.8, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["8.8.8.8", "192.0.2.1"], "192.0.2.1"),  # a balancer that adds a line of its own
        ("10.0.0.1", ["192.0.2.1", "8.8.8.8"], "8.8.8.8"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2,10.0.0.3"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1,"], "10.0.0.1"),
        ("10.0.0.1", ["8.8.8.8, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),  # as a socket for both families names IPv4
        ("2001:db8:f::1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["9" * 60_000], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1" + ",10.0.0.2" * 10_000], "10.0.0.2"),  # no chain is that long
        ("", ["192.0.2.1"], "None"),
    ],
)
def test_the_rightmost_address_that_no_trusted_forwarder_has_is_the_clients(
    peer: str, forwarded: Sequence[str], client: str
) -> None:
    """S: what a client writes itself never counts."""
    assert str(Addresses([], FORWARDERS).find(peer, forwarded)) == client


def test_without_trusted_forwarders_nobody_is_believed() -> None:
    assert str(Addresses([], []).find("127.0.0.1", ["192.0.2.1"])) == "127.0.0.1"


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    """Two networks may pull, and 127.0.0.9 is a balancer."""
    access = {"networks": ["127.0.0.1", "192.0.2.0/24"], "trusted_forwarders": ["127.0.0.9"]}
    with ScriptedUpstream() as upstream:
        upstream.add_manifest("library/x", b"{}", "application/vnd.oci.image.manifest.v1+json", "1")
        config = {"upstreams": {"docker.io": upstream.upstream()}, "access": access}
        millpond = Millpond(config, tmp_path_factory.mktemp("fenced")).start()
        yield millpond
        millpond.stop()
        assert not upstream.connections, "nobody here asks for an image"
    assert not millpond.complaints()


@pytest.mark.parametrize(
    ("source", "forwarded", "status"),
    [
        ("127.0.0.1", [], 200),
        ("127.0.0.1", ["198.51.100.1"], 200),
        ("127.0.0.2", [], 403),
        ("127.0.0.2", ["192.0.2.1"], 403),
        ("127.0.0.9", [], 403),
        ("127.0.0.9", ["192.0.2.1"], 200),
        ("127.0.0.9", ["198.51.100.1"], 403),
        ("127.0.0.9", ["192.0.2.1, 198.51.100.1"], 403),
        ("127.0.0.9", ["192.0.2.1", "198.51.100.1"], 403),
        ("127.0.0.9", ["198.51.100.1, 192.0.2.1"], 200),
    ],
)
def test_only_the_networks_that_may_are_answered(
    fenced: Millpond, source: str, forwarded: Sequence[str], status: int
) -> None:
    """S."""
    assert ask_from(fenced, source, "/v2/", *forwarded).status == status
    refused = ask_from(fenced, source, "/v2/evil.test/x/manifests/1", *forwarded)
    assert refused.status == (404 if status == 200 else 403)


def test_a_refused_client_is_told_its_address_and_what_to_do_and_the_log_has_it(fenced: Millpond) -> None:
    reply = ask_from(fenced, "127.0.0.9", "/v2/library/x/manifests/1", "192.0.2.1, 198.51.100.77")
    assert (reply.status, reply.error_code) == (403, "DENIED")
    assert message(reply).startswith("the address 198.51.100.77 may not pull here; ")
    assert "access.networks" in message(reply)
    assert "www-authenticate" not in reply.headers
    fenced.settle_log()
    (line,) = fenced.log_lines(client="198.51.100.77", status=403)
    assert line["why"] == message(reply)

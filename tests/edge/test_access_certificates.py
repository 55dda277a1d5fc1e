"""Clients that show a certificate: its names are their users."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.server.certificate import client_names
from tests.conftest import StartMillpond
from tests.edge.access import basic, htpasswd
from tests.support.certificates import Authority
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream

IssueClient = Callable[..., ssl.SSLContext]


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, ()),
        ({}, ()),
        ({"subject": ((("organizationName", "o"),), (("commonName", "cn"),))}, ("cn",)),
        (
            {
                "subject": ((("commonName", "cn"),),),
                "subjectAltName": (
                    ("IP Address", "192.0.2.1"),
                    ("URI", "spiffe://a/b"),
                    ("DNS", "node"),
                    ("email", "a@b"),
                ),
            },
            ("spiffe://a/b", "node", "a@b", "cn"),
        ),
    ],
)
def test_the_names_of_a_certificate_in_order(certificate: dict[str, Any] | None, names: tuple[str, ...]) -> None:
    assert client_names(certificate) == names


@pytest.fixture
def client(authority: Authority, tmp_path: Path) -> IssueClient:
    """What a client with a certificate of these names uses."""

    def issue(*names: str, common_name: str | None = None) -> ssl.SSLContext:
        made = authority._ca.issue_cert(*names, common_name=common_name)
        context = authority.client_context()
        with made.private_key_and_cert_chain_pem.tempfile(dir=str(tmp_path)) as pem:
            context.load_cert_chain(pem)
        return context

    return issue


@pytest.fixture
def tls(authority: Authority) -> dict[str, str]:
    own = authority.issue()
    return {
        "cert_file": str(own.chain_file),
        "key_file": str(own.key_file),
        "client_ca_file": str(authority.ca_file),
    }


def test_a_certificates_first_name_is_the_user_for_rules_and_log(
    start_millpond: StartMillpond, client: IssueClient, tls: dict[str, str]
) -> None:
    rules = [{"action": "allow", "users": ["*.nodes.test", "ops@example.test", "by-common-name"]}]
    with ScriptedUpstream() as upstream:
        upstream.add_manifest("library/x", b'{"schemaVersion": 2}', "application/vnd.oci.image.manifest.v1+json", "1")
        millpond = start_millpond({"docker.io": upstream.upstream()}, registry={"tls": tls}, access={"rules": rules})
        for number, (context, user, allowed) in enumerate(
            [
                (client("a.nodes.test", "other.test"), "a.nodes.test", True),
                (client("other.test", "a.nodes.test"), "other.test", False),  # the first one counts
                (client("ops@example.test"), "ops@example.test", True),
                (client(common_name="by-common-name"), "by-common-name", True),
                (client("192.0.2.1", common_name="nobody"), "nobody", False),
            ]
        ):
            name = f"request-{number}"
            reply = get(f"{millpond.url}/v2/library/x/tags/list", {"X-Request-Id": name}, ca=context)
            assert reply.status == (200 if allowed else 403), (user, reply.text)
            millpond.settle_log(ca=context)
            assert [line["user"] for line in millpond.log_lines(id=name)] == [user]


def test_with_passwords_a_certificate_alone_is_not_enough_unless_anonymous_says_so(
    start_millpond: StartMillpond, client: IssueClient, tls: dict[str, str], tmp_path: Path
) -> None:
    """S."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": "a password"})
    with ScriptedUpstream() as upstream:
        context = client("a.nodes.test")
        strict = start_millpond(
            {"docker.io": upstream.upstream()}, registry={"tls": tls}, access={"htpasswd_file": users}
        )
        assert get(f"{strict.url}/v2/", ca=context).status == 401
        assert get(f"{strict.url}/v2/", basic("alice", "a password"), ca=context).status == 200
        either = start_millpond(
            {"docker.io": upstream.upstream()},
            registry={"tls": tls},
            access={"htpasswd_file": users, "anonymous": True},
        )
        assert get(f"{either.url}/v2/", {"X-Request-Id": "by-name"}, ca=context).status == 200
        named = {**basic("alice", "a password"), "X-Request-Id": "by-password"}
        assert get(f"{either.url}/v2/", named, ca=context).status == 200
        either.settle_log(ca=context)
        assert [either.log_lines(id=name)[0]["user"] for name in ("by-name", "by-password")] == [
            "a.nodes.test",
            "alice",
        ]

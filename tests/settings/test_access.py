"""The access section: what it takes, and each of its refusals."""

from __future__ import annotations

import hashlib
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from proxy.oci.names import Repository
from proxy.settings import access_rules
from tests.edge.access import TOKEN, htpasswd
from tests.settings.conftest import Load, Refusal
from tests.support.certificates import Authority

ALLOW = "{action: allow}"
HASH = "$2y$05$7aTQEuP.K1alFN6N3RpvTuiB3VLQliF.r5PnKEVJGpc1EXRiFzjRm"


def test_by_default_everybody_may_pull_everything(loaded: Load) -> None:
    access = loaded().access
    assert (access.networks, access.rules, access.has_users, access.max_pulls) == ((), (), False, None)


def test_a_rule_that_names_nothing_is_as_documented(loaded: Load) -> None:
    root = Path(__file__).parents[2]
    text = (root / "config" / "millpond.yaml").read_text()
    section = text[text.index("#  rules:") : text.index("  default: deny")]
    document = yaml.safe_load("\n".join(line[1:] for line in section.splitlines() if line.strip()[:2] != "##"))
    (rule,) = loaded(yaml.safe_dump({"access": document})).access.rules
    (short,) = loaded(f"access: {{rules: [{ALLOW}]}}").access.rules
    assert rule == short


def test_networks_and_addresses_come_from_file_and_environment(loaded: Load) -> None:
    access = loaded('access: {networks: [10.0.0.0/8, "2001:db8::/32", 192.0.2.7]}').access
    assert access.networks == tuple(map(ip_network, ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32")))
    access = loaded(MILLPOND_ACCESS__TRUSTED_FORWARDERS="10.0.0.1, 10.0.0.2").access
    assert access.trusted_forwarders == tuple(map(ip_network, ("10.0.0.1/32", "10.0.0.2/32")))


def test_an_alias_of_an_upstream_is_that_upstream(loaded: Load) -> None:
    settings = loaded("access: {rules: [{action: allow, upstreams: [index.docker.io]}]}")
    (rule,) = access_rules(settings)
    assert rule.concerns(Repository("docker.io", "library/x"), None)
    assert not rule.concerns(Repository("ghcr.io", "x/y"), None)


def test_the_files_of_users_are_read_when_they_are_asked_for(loaded: Load, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"a:{TOKEN}\r\n\n# old\na: {TOKEN}2 \n")
    file = htpasswd(tmp_path / "htpasswd", {"b": "x"})
    access = loaded(f"access: {{htpasswd_file: {file}, tokens_file: {tokens}}}").access
    credentials = access.credentials()
    assert list(credentials.passwords) == ["b"]
    assert credentials.tokens == {hashlib.sha256(f"{TOKEN}{end}".encode()).digest(): "a" for end in ("", "2")}
    assert TOKEN not in repr(access) + repr(credentials)
    assert "$2" not in repr(credentials)
    htpasswd(tmp_path / "htpasswd", {"c": "x"})
    assert list(access.credentials().passwords) == ["c"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{networks: [10.0.0.1/8]}", "networks[0]: '10.0.0.1/8' -> this is an address within a network; write the"),
        ("{networks: [here]}", "networks[0]: 'here' -> not a network; write \"10.0.0.0/8\""),
        ("{networks: [10.0.0.0/33]}", "networks[0]: '10.0.0.0/33' -> not a network; write"),
        ("{networks: [7]}", "networks[0]: 7 -> not a network; write"),
        ("{trusted_forwarders: [haproxy]}", "trusted_forwarders[0]: 'haproxy' -> not a network; write"),
        ("{anonymous: true}", "anonymous: true -> without htpasswd_file and tokens_file nobody is asked"),
        ("{htpasswd_file: /none}", "htpasswd_file: '/none' -> there is no such file; write the path"),
        ("{max_pulls: 0}", "max_pulls: 0 -> too small; write 1 or more"),
        ("{max_wait: 0}", "max_wait: 0 -> a deadline must be above zero; write"),
        ("{default: maybe}", "default: 'maybe' -> not one of the choices; write 'allow' or 'deny'"),
        ("{rules: [{}]}", "rules[0].action -> this key is required; add it"),
        ("{rules: [{action: permit}]}", "rules[0].action: 'permit' -> not one of the choices; write 'allow' or"),
        ("{rules: [{action: allow, user: [a]}]}", "rules[0].user -> unknown key; did you mean users?"),
        ("{rules: [{action: deny}]}", "default: 'deny' -> every rule denies and so does this"),
        (f"{{rules: [{ALLOW}, {{action: deny, tags: []}}]}}", "rules[1].tags: [] -> this is empty; write what"),
        (f"{{rules: [{ALLOW}, {{action: deny, users: [a]}}]}}", "rules[1].users: ['a'] -> no client has a name; add"),
        ("{rules: [{action: allow, upstreams: [hub]}]}", "rules[0].upstreams[0]: 'hub' -> there is no such upstream"),
        (
            "{rules: [{action: allow, repositories: [library/*]}]}",
            "rules[0].repositories[0]: 'library/*' -> no image is like it, as it begins with no upstream; write",
        ),
        (
            "{rules: [{action: allow, repositories: [docker.io/nginx]}]}",
            "rules[0].repositories[0]: 'docker.io/nginx' -> an official image's full name is another one; write",
        ),
        (
            "{rules: [{action: allow, repositories: ['*', index.docker.io/a/b]}]}",
            "rules[0].repositories[1]: 'index.docker.io/a/b' -> an image's full name is another one; write docker",
        ),
        ("{rules: [{action: allow, reason: because}]}", "rules[0].reason: 'because' -> nobody would be told it"),
        (
            '{default: allow, rules: [{action: deny, reason: "a\\nb"}]}',
            "rules[0].reason: 'a\\nb' -> not a reason; write one",
        ),
        ("{rules: [{action: allow, tags: [1.2]}]}", "rules[0].tags[0]: 1.2 -> not a pattern; write text, in quotes"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(refusal: Refusal, text: str, problem: str) -> None:
    (line,) = refusal(f"access: {text}")
    assert line.startswith(f"access.{problem}")


def test_users_in_rules_may_come_from_certificates(loaded: Load, authority: Authority) -> None:
    own = authority.issue()
    tls = f"{{cert_file: {own.chain_file}, key_file: {own.key_file}, client_ca_file: {authority.ca_file}}}"
    settings = loaded(f"registry: {{tls: {tls}}}\naccess: {{rules: [{{action: allow, users: ['*.nodes.test']}}]}}")
    assert settings.access.rules[0].users == ("*.nodes.test",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no user is in this file, and so nobody could pull"),
        ("# a:b\n", "no user is in this file"),
        ("alice\n", "line 1 is not a user; write name:hash, as `htpasswd -nB name` prints"),
        (f":{HASH}\n", "line 1 is not a user"),
        (f"a b:{HASH}\n", "line 1 is not a user"),
        ("\n\nalice:planted-in-clear\n", "line 3: the password of alice is not hashed with bcrypt"),
        ("alice:$apr1$planted$planted\n", "line 1: the password of alice is not hashed with bcrypt"),
        ("alice:{SHA}planted\n", "is not hashed with bcrypt, and other hashes are too easy to guess from; write it"),
        (f"alice:{HASH}x\n", "is not hashed with bcrypt"),
        (f"alice:{HASH.replace('$05$', '$15$')}\n", "a check of the password of alice would take too long (cost 15)"),
        (f"alice:{HASH}\nbob:{HASH}\nalice:{HASH}\n", "line 3: alice has a password already; remove one of the lines"),
        ("alice:" + "x" * 2_000_000, "this file is larger than 1048576 bytes"),
        (b"\xff\xfe", "this file is not text; write a line for each user"),
    ],
)
def test_a_password_file_that_is_not_safe_to_use_is_refused_without_showing_it(
    refusal: Refusal, tmp_path: Path, content: str | bytes, problem: str
) -> None:
    """S."""
    file = tmp_path / "htpasswd"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (line,) = refusal(f"access: {{htpasswd_file: {file}}}")
    assert line.startswith(f"access.htpasswd_file: '{file}' -> ")
    assert problem in line
    assert "planted" not in line
    assert HASH not in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("node:planted\n", "line 1: the token of node is not one that is safe to use; write 16 to 4096 visible"),
        ("node:planted with blanks in it\n", "is not one that is safe to use"),
        ("planted-token-0123456789\n", "line 1 is not a user; write name:token"),
        (f"a:planted-{TOKEN}\nb:planted-{TOKEN}\n", "line 2: b has the token of another user; give each its own"),
    ],
)
def test_a_token_file_that_is_not_safe_to_use_is_refused_without_showing_it(
    refusal: Refusal, tmp_path: Path, content: str, problem: str
) -> None:
    """S."""
    file = tmp_path / "tokens"
    file.write_text(content)
    (line,) = refusal(f"access: {{tokens_file: {file}}}")
    assert line.startswith(f"access.tokens_file: '{file}' -> ")
    assert problem in line
    assert "planted" not in line

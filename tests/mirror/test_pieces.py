"""Joining a file that somebody else has written, and leaving it again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.mirror.pieces import Lists, Piece, Refused, without
from tests.mirror.trees import MILLPOND, made

NOWHERE = Path("/nowhere")  # nothing is looked up there


def piece(client: str, *names: str) -> Piece:
    return made(client, NOWHERE, *(names or ("docker.io",))).pieces[-1]


def toml(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers and lists are TOML's."""
    return json.dumps(value)


HOSTS = st.from_regex(r"https://[a-z]{1,8}\.test(:[1-9][0-9]{3})?", fullmatch=True)
VALUES = st.one_of(
    st.booleans(), st.integers(-9, 9), st.text("ab[]\"'\\ #=", max_size=8), st.lists(st.text("a[", max_size=3))
)
BLANKS = st.sampled_from(["", "\n", "# a remark\n", '# [host."x"]\n', "\n\n"])


@st.composite
def hosts_files(draw: st.DrawFn) -> str:
    """A hosts.toml as people write it: keys of the server, then hosts, with remarks, and maybe no last line's end."""
    parts = [draw(BLANKS)]
    keys = draw(st.dictionaries(st.sampled_from(["server", "ca", "skip_verify", "override_path", "note"]), VALUES))
    for key, value in keys.items():
        parts += [f"{key} = {toml(value)}\n", draw(BLANKS)]
    if draw(st.booleans()):
        parts.append('text = """\n[not.a.table]\n"""\nlist = [\n[1],\n]\n')
    for host in draw(st.lists(HOSTS, unique=True, max_size=3)):
        parts += [f"[host.{toml(host)}]\n", f"  capabilities = {toml(draw(VALUES))}\n", draw(BLANKS)]
        if draw(st.booleans()):
            parts.append(f'[host.{toml(host)}.header]\nx = ["y"]\n')
    text = "".join(parts)
    return text.rstrip("\n") if draw(st.booleans()) else text


@settings(max_examples=60)
@given(hosts_files())
def test_millpond_comes_first_in_any_hosts_file_and_the_rest_keeps_its_meaning(text: str) -> None:
    merged = piece("containerd").into(text.encode())
    before, after = tomllib.loads(text), tomllib.loads(merged.data.decode())
    assert next(iter(after["host"])) == MILLPOND
    assert list(after["host"])[1:] == list(before.get("host", {}))
    assert after["host"].pop(MILLPOND)["capabilities"] == ["pull", "resolve"]
    if not text.strip():
        assert after.pop("server") == "https://registry-1.docker.io"
    assert (after if after["host"] else {k: v for k, v in after.items() if k != "host"}) == before


@settings(max_examples=60)
@given(hosts_files(), st.sampled_from(["# mine\n", '[host."https://late.test"]\n  skip_verify = true\n']))
def test_what_was_added_to_a_hosts_file_meanwhile_stays_when_millpond_leaves(text: str, added: str) -> None:
    merged = piece("containerd").into(text.encode())
    assert merged.undo is not None
    data = merged.data if merged.data.endswith(b"\n") else merged.data + b"\n"
    # An editor ends the last line before it adds one.
    rest = without(data + added.encode(), merged.undo)
    assert rest is not None
    expected = text if not text or text.endswith("\n") else f"{text}\n"
    assert tomllib.loads(rest.decode()) == tomllib.loads((expected if text.strip() else "") + added)


@pytest.mark.parametrize("client", ["containerd", "podman", "buildkit"])
def test_a_file_that_says_the_same_already_is_left_alone(client: str) -> None:
    one = piece(client)
    assert one.printed
    text = f"# by hand\n{one.printed}".encode()
    merged = one.into(text)
    assert (merged.data, merged.undo) == (text, None)


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("containerd", f'[host."{MILLPOND}"]\ncapabilities = ["pull"]\n'),
        ("containerd", f'[host."https://other.test"]\n[host."{MILLPOND}"]\ncapabilities = ["pull", "resolve"]\n'),
        ("containerd", 'host = {"https://other.test" = {}}\n'),
        ("containerd", 'host."https://other.test".skip_verify = true\n[x]\n'),
        ("containerd", 'host = "text"\n'),
        ("podman", '[[registry]]\nprefix = "docker.io"\nlocation = "other.test"\n'),
        ("podman", '[[registry]]\nlocation = "docker.io"\n'),
        ("podman", "[registry]\nx = 1\n"),
        ("buildkit", '[registry."docker.io"]\nmirrors = ["other.test"]\n'),
        ("buildkit", '[registry."127.0.0.1:5000"]\nhttp = false\n'),
    ],
)
def test_a_file_that_says_something_else_of_the_same_is_refused_with_what_to_write(client: str, text: str) -> None:
    one = piece(client)
    with pytest.raises(Refused, match="write this into it by hand") as refused:
        one.into(text.encode())
    tomllib.loads(str(refused.value).partition(":\n")[2])


@pytest.mark.parametrize("data", [b"[", b"\xff", b"x = 1\nx = 2\n"])
def test_a_file_that_its_client_cannot_read_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="repair it or move it away"):
        piece("containerd").into(data)


def test_other_tables_of_a_shared_file_stay_as_they_are() -> None:
    text = '[worker.oci]\n  enabled = true\n[registry."own.test"]\n  http = true'
    merged = piece("buildkit", "docker.io", "ghcr.io").into(text.encode()).data.decode()
    assert merged.startswith(text)
    registries = tomllib.loads(merged)["registry"]
    assert registries.keys() == {"own.test", "docker.io", "ghcr.io", "127.0.0.1:5000"}


TEXTS = st.lists(st.sampled_from(["http://a.test", "b.test", MILLPOND, "127.0.0.1:5000"]), max_size=4)
OTHERS = st.dictionaries(st.text(min_size=1, max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists))
DAEMONS = st.builds(
    lambda others, lists: {**others, **lists},
    OTHERS,
    st.dictionaries(st.sampled_from(["registry-mirrors", "insecure-registries"]), TEXTS),
)


@settings(max_examples=60)
@given(DAEMONS, st.integers(0, 4))
def test_millpond_comes_first_in_any_daemon_json_and_leaves_it_as_it_was(daemon: dict[str, Any], indent: int) -> None:
    merged = piece("docker").into(json.dumps(daemon, indent=indent).encode())
    after = json.loads(merged.data)
    had = MILLPOND in daemon.get("registry-mirrors", [])
    assert after["registry-mirrors"] == ([] if had else [MILLPOND]) + daemon.get("registry-mirrors", [])
    if merged.undo is None:
        assert after == daemon
    else:
        rest = without(merged.data, merged.undo)
        assert rest is not None
        assert json.loads(rest or b"{}") == daemon


@settings(max_examples=60)
@given(DAEMONS, OTHERS, st.lists(st.sampled_from(["http://late.test", "http://later.test"]), unique=True))
def test_what_an_admin_changes_in_daemon_json_meanwhile_stays(
    daemon: dict[str, Any], changes: dict[str, Any], mirrors: list[str]
) -> None:
    merged = piece("docker").into(json.dumps(daemon).encode())
    if merged.undo is None:
        return
    changed = {**json.loads(merged.data), **changes}
    changed["registry-mirrors"] = changed["registry-mirrors"] + mirrors
    rest = without(json.dumps(changed).encode(), merged.undo)
    assert rest is not None
    expected: Mapping[str, Any] = {**daemon, **changes}
    found = json.loads(rest or b"{}")
    assert found.get("registry-mirrors", []) == daemon.get("registry-mirrors", []) + mirrors
    rest_of = (expected.keys() | found.keys()) - {"registry-mirrors", "insecure-registries"}
    assert {key: found.get(key) for key in rest_of} == {key: expected.get(key) for key in rest_of}


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"registry-mirrors": "x"}', '{"registry-mirrors": [1]}', '{"a": 1, "a": 2}']
)
def test_a_daemon_json_that_would_lose_something_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="repair it"):
        piece("docker").into(text.encode())


def test_an_empty_daemon_json_is_as_none() -> None:
    one = piece("docker")
    assert isinstance(one, Lists)
    assert one.into(b"\n").data.decode() == one.printed


def test_somebody_elses_registries_yaml_is_refused_with_what_to_write() -> None:
    with pytest.raises(Refused, match=r"somebody else's; write this into it by hand:\n# /etc/rancher") as refused:
        piece("k3s").into(b"mirrors: {}\n")
    assert "  docker.io:\n    endpoint:\n      - http://127.0.0.1:5000\n" in str(refused.value)

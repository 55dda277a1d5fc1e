"""WWW-Authenticate as registries send it, and as nobody should."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.challenge import MAX_LINE, MAX_LINES, Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push"'

tokens = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
params = st.dictionaries(tokens.map(str.lower), values, min_size=1, max_size=5).map(lambda d: tuple(d.items()))
challenges = st.builds(Challenge, tokens.map(str.lower), params)


def test_docker_hubs_challenge_is_understood_commas_in_quotes_included() -> None:
    (found,) = parse_challenges([HUB])
    assert found.scheme == "bearer"
    assert found.get("realm") == "https://auth.docker.io/token"
    assert found.get("service") == "registry.docker.io"
    assert found.get("scope") == "repository:library/x:pull,push"
    assert found.get("error") is None


@pytest.mark.parametrize(
    ("lines", "schemes"),
    [
        (['Basic realm="x"', HUB], ["basic", "bearer"]),
        ([f'Basic realm="x", {HUB}'], ["basic", "bearer"]),
        (["Negotiate", "Basic realm=x"], ["negotiate", "basic"]),
        (["Negotiate YWJj==, BASIC REALM=x"], ["negotiate", "basic"]),
        (["NTLM , Basic"], ["ntlm", "basic"]),
        ([", ,, Bearer realm = \t 'x' ,"], ["bearer"]),
        ([""], []),
        ([], []),
        (['realm="without a scheme"'], []),
        (["\N{SNOWMAN} realm=x"], []),
    ],
)
def test_several_challenges_in_one_line_or_many_keep_their_order(lines: list[str], schemes: list[str]) -> None:
    assert [challenge.scheme for challenge in parse_challenges(lines)] == schemes


def test_schemes_and_keys_ignore_case_and_values_keep_theirs() -> None:
    assert parse_challenges(['bEaReR ReAlM="HTTPS://X/Token"']) == (
        Challenge("bearer", (("realm", "HTTPS://X/Token"),)),
    )


def test_an_escaped_quote_does_not_end_the_value() -> None:
    (found,) = parse_challenges([r'Bearer realm="a\"b\\c,d", service=s'])
    assert found.get("realm") == r'a"b\c,d'
    assert found.get("service") == "s"


def test_an_unquoted_url_is_taken_as_it_stands() -> None:
    (found,) = parse_challenges(["Bearer realm=https://example.test/token?a=b,service=s"])
    assert found.get("realm") == "https://example.test/token?a=b"


def test_of_a_repeated_key_the_first_value_counts() -> None:
    (found,) = parse_challenges(['Bearer realm="one", realm="two"'])
    assert found.get("realm") == "one"


def test_a_quote_that_never_ends_is_where_reading_stops() -> None:
    (found,) = parse_challenges(['Bearer service=s, realm="https://example.test'])
    assert found.get("service") == "s"
    assert found.get("realm") is None


def test_lines_that_are_too_long_or_too_many_are_not_looked_at() -> None:
    assert parse_challenges(["Bearer realm=" + "x" * MAX_LINE]) == ()
    assert len(parse_challenges(["Basic"] * (MAX_LINES + 5))) == MAX_LINES


@given(st.lists(st.text(max_size=200), max_size=4))
def test_no_text_makes_it_raise(lines: list[str]) -> None:
    parse_challenges(lines)


@given(st.lists(st.text('Bearer ",=\\\t;a1~', max_size=80), max_size=4))
def test_nothing_made_of_its_own_characters_makes_it_raise(lines: list[str]) -> None:
    for challenge in parse_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower()


@given(st.lists(challenges, max_size=5), st.booleans())
def test_what_is_written_is_read_back(written: list[Challenge], one_line: bool) -> None:
    lines = [_write(challenge) for challenge in written]
    assert parse_challenges([", ".join(lines)] if one_line else lines) == tuple(written)


@pytest.mark.parametrize("piece", ['a="', "a ", 'a="\\', "a=", ",", "=", "a==,", '"', "a=b c"])
def test_hostile_lines_take_linear_time(piece: str) -> None:
    line = (piece * MAX_LINE)[:MAX_LINE]
    began = time.process_time()
    parse_challenges([line] * MAX_LINES)
    assert time.process_time() - began < 1.0


def _write(challenge: Challenge) -> str:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for _, value in challenge.params)
    return f"{challenge.scheme} " + ",".join(
        f'{key}="{value}"' for (key, _), value in zip(challenge.params, quoted, strict=True)
    )

"""The keys of the admin port, and the limits of the registry port."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.settings.conftest import Load, Refusal

TOKEN = "0123456789abcdef0123"


def test_a_token_comes_from_a_file_or_from_the_environment(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    for settings in (loaded(f"admin: {{token_file: {file}}}"), loaded(MILLPOND_ADMIN__TOKEN=TOKEN)):
        assert settings.admin.token is not None
        assert settings.admin.token.get_secret_value() == TOKEN
        assert TOKEN not in repr(settings)


@pytest.mark.parametrize("token", ["short", "x" * 15, "with space 0123456789", "x" * 4097, "ümlaut-0123456789ab"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(refusal: Refusal, tmp_path: Path, token: str) -> None:
    (line,) = refusal(MILLPOND_ADMIN__TOKEN=token)
    assert line.startswith("admin.token (set by MILLPOND_ADMIN__TOKEN)")
    assert "16 to 4096 visible ASCII characters; `openssl rand -hex 32` makes a good one" in line
    assert token not in line
    file = tmp_path / "token-file"
    file.write_text(token)
    (line,) = refusal(f"admin: {{token_file: {file}}}")
    assert line.startswith(f"admin.token_file: '{file}' -> this is no token; write 16 to 4096")
    assert token not in line


def test_a_token_that_is_given_twice_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    (line,) = refusal(f"admin: {{token_file: {file}}}", MILLPOND_ADMIN__TOKEN=TOKEN)
    assert line.endswith("token_file is set as well; keep one of them")


def test_a_token_file_that_is_missing_or_empty_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (line,) = refusal("admin: {token_file: /no/such/file}")
    assert line == (
        "admin.token_file: '/no/such/file' -> there is no such file; write the path of a file that Millpond can read"
    )
    file = tmp_path / "token"
    file.touch()
    (line,) = refusal(f"admin: {{token_file: {file}}}")
    assert line.endswith("this file is empty; put the token in it, alone, as UTF-8 text")


def test_a_token_does_not_belong_into_the_configuration(refusal: Refusal) -> None:
    (line,) = refusal(f"admin: {{token: {TOKEN}}}")
    assert line == (
        "admin.token: (hidden) -> a token does not belong into this file; put it into a file of its own and name that "
        "with token_file, or set the environment variable MILLPOND_ADMIN__TOKEN"
    )


@pytest.mark.parametrize("key", ["max_connections", "max_connections_per_address"])
@pytest.mark.parametrize(("value", "problem"), [("0", "write 1 or more"), ("many", "whole number"), ("true", "whole")])
def test_a_limit_of_connections_is_a_number_above_zero(refusal: Refusal, key: str, value: str, problem: str) -> None:
    (line,) = refusal(f"registry: {{{key}: {value}}}")
    assert line.startswith(f"registry.{key}: ")
    assert problem in line

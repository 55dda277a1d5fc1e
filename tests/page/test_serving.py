"""How the page's files are served."""

from __future__ import annotations

import gzip

import pytest

from tests.conftest import StartMillpond
from tests.page.desk import TOKEN
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get

_FILES = ("", "page/page.css", "page/main.js", "page/mark.svg")
_JSON = {"Content-Type": "application/json"}


def _read(pond: Millpond, path: str, **headers: str) -> Reply:
    return get(f"{pond.admin_url}/{path}", {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("path", _FILES)
def test_a_file_is_asked_for_again_each_time_and_sent_once(pond: Millpond, path: str) -> None:
    first = _read(pond, path)
    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")

    again = _read(pond, path, If_None_Match=first.headers["etag"])
    other = _read(pond, path, If_None_Match='"another"')

    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (other.status, other.body) == (200, first.body)


@pytest.mark.parametrize("path", _FILES)
def test_a_file_is_zipped_for_whoever_takes_that_and_has_another_tag_then(pond: Millpond, path: str) -> None:
    plain, zipped = _read(pond, path), _read(pond, path, Accept_Encoding="br, gzip;q=0.8")
    refused = _read(pond, path, Accept_Encoding="gzip;q=0")

    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert zipped.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in plain.headers
    assert (refused.body, refused.headers["etag"]) == (plain.body, plain.headers["etag"])


@pytest.mark.parametrize("path", _FILES)
def test_a_file_may_load_nothing_from_elsewhere_and_run_nothing_in_markup(pond: Millpond, path: str) -> None:
    headers = _read(pond, path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))

    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["page/nothing.js", "page/..%2fpage.py", "page/page.py", "page/"])
def test_nothing_else_of_the_disk_is_served(pond: Millpond, path: str) -> None:
    assert _read(pond, path).status == 404


def test_signing_in_changes_nothing_and_tells_whether_the_token_is_right(pond: Millpond) -> None:
    def sign_in(**headers: str) -> int:
        return get(f"{pond.admin_url}/sign-in", {**_JSON, **headers}, method="POST", content=b"{}").status

    assert sign_in() == 401
    assert sign_in(Authorization="Bearer wrong") == 401
    assert sign_in(Authorization=f"Bearer {TOKEN}") == 204


def test_without_a_token_this_machine_is_signed_in_already(start_millpond: StartMillpond) -> None:
    alone = start_millpond({})
    assert get(f"{alone.admin_url}/sign-in", _JSON, method="POST", content=b"{}").status == 204

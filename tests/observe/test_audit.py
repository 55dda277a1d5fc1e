"""The audit: every pull, change, decision and reload as a line of JSON, in a file of its own or on standard output."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartMillpond
from tests.edge.access import basic, htpasswd
from tests.support import images
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

TOKEN = "an-admin-token-0123456789"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def image(upstream: ScriptedUpstream, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=71)
    upstream.add(made, "library/x", "1")
    return made


def lines(file: Path, **fields: Any) -> list[dict[str, Any]]:
    """Those of the audit that have these fields; a line that is no JSON is a failure."""
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    assert all({"timestamp", "audit"} <= set(line) for line in found)
    return [line for line in found if all(line.get(name) == value for name, value in fields.items())]


def one(file: Path, **fields: Any) -> dict[str, Any]:
    """The only line with these fields, once it is there."""
    (found,) = wait_until(lambda: lines(file, **fields), f"the audit has a line with {fields}")
    return found


def change(millpond: Millpond, path: str, body: dict[str, Any], token: str = "") -> int:
    headers = JSON | ({"Authorization": f"Bearer {token}"} if token else {})
    return get(f"{millpond.admin_url}/api/v1/{path}", headers, method="POST", content=json.dumps(body).encode()).status


def test_a_pull_is_one_line_in_the_audit_and_one_in_the_log_with_its_source_and_reason(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    file, users = tmp_path / "audit", tmp_path / "htpasswd"
    htpasswd(users, {"alice": "secret-of-alice"})
    log = {"format": "json", "audit": str(file)}
    millpond = start_millpond({"docker.io": upstream.upstream()}, log=log, access={"htpasswd_file": str(users)})
    repository = f"{millpond.url}/v2/library/x"
    for reference in ("1", *(blob.digest for blob in image.blobs)):
        noun = "manifests" if reference == "1" else "blobs"
        assert get(f"{repository}/{noun}/{reference}", basic("alice", "secret-of-alice")).status == 200
    told = one(file, audit="pull", image="docker.io/library/x:1")
    size = len(image.body) + sum(blob.size for blob in image.blobs)
    expected = {"client": "127.0.0.1", "user": "alice", "digest": image.digest, "source": "upstream", "bytes": size}
    assert {name: told[name] for name in expected} == expected
    assert told["status"] == 200
    assert told["outcome"] == "complete"
    assert told["why"]
    (line,) = wait_until(lambda: millpond.log_lines(event="pull"), "the log has the pull")
    assert {name: line[name] for name in expected} == expected
    assert line["why"] == told["why"]
    assert "secret-of-alice" not in file.read_text() + millpond.log_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_last_pull_before_the_end_is_told_too(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    file = tmp_path / "audit"
    millpond = start_millpond({"docker.io": upstream.upstream()}, log={"format": "json", "audit": str(file)})
    pull(f"{millpond.url}/v2/library/x", image, "1")
    millpond.terminate()
    assert one(file, audit="pull")["requests"] == 1 + len(image.blobs)


def test_changes_are_told_with_who_asked_and_how_they_were_answered_but_no_token(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    file = tmp_path / "audit"
    millpond = start_millpond(
        {"docker.io": upstream.upstream()},
        log={"format": "json", "audit": str(file)},
        env={"MILLPOND_ADMIN__TOKEN": TOKEN},
    )
    pull(f"{millpond.url}/v2/library/x", image, "1")
    body = {"image": "docker.io/library/x:1"}
    assert change(millpond, "pin", body) == 401
    assert change(millpond, "pin", body, "a-wrong-token-9876543210") == 401
    assert change(millpond, "pin", body, TOKEN) == 200
    assert get(f"{millpond.admin_url}/api/v1/status").status == 200
    wait_until(lambda: len(lines(file, audit="change")) == 3, "three changes are told")
    assert [line["status"] for line in lines(file, change="pin")] == [401, 401, 200]
    told = one(file, status=200, change="pin")
    assert told["asked"] == body
    assert told["proved"] is True
    assert told["client"] == "127.0.0.1"
    assert not [line for line in lines(file, status=401) if line["proved"]]
    assert "token" not in file.read_text()


def test_a_body_that_is_long_or_no_json_is_told_by_its_length(
    upstream: ScriptedUpstream, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    file = tmp_path / "audit"
    millpond = start_millpond({"docker.io": upstream.upstream()}, log={"format": "json", "audit": str(file)})
    for content in (b"x" * 20_000, b"{nonsense"):
        url = f"{millpond.admin_url}/api/v1/pin"
        assert get(url, JSON, method="POST", content=content).status == 400
        assert one(file, asked=f"{len(content)} bytes")["status"] == 400


def test_decisions_of_a_policy_and_refusals_at_the_door_are_told(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    file = tmp_path / "audit"
    millpond = start_millpond(
        {"docker.io": upstream.upstream()},
        log={"format": "json", "audit": str(file)},
        policy={"block": [{"digest": image.digest, "reason": "CVE-1"}]},
    )
    assert get(f"{millpond.url}/v2/library/x/manifests/1").status == 403
    told = one(file, audit="decision")
    assert told["rule"] == "policy.block[0]"
    assert told["decision"] == "refused"
    assert told["image"] == f"docker.io/library/x@{image.digest}"
    assert told["reason"] == "CVE-1"
    told = one(file, audit="pull")
    assert told["status"] == 403
    assert "CVE-1" in told["why"]
    log = {"format": "json", "audit": str(file)}
    millpond.configure({**millpond.config, "log": log, "access": {"networks": ["192.0.2.0/24"]}})
    assert change(millpond, "reload", {}) == 200
    assert one(file, audit="reload")["changed"] == ["access.networks"]
    assert get(f"{millpond.url}/v2/").status == 403
    assert one(file, audit="refused")["client"] == "127.0.0.1"


def test_a_file_that_was_moved_away_is_begun_anew_at_a_reload_and_nothing_is_lost(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    file, moved, third = tmp_path / "audit", tmp_path / "audit.1", tmp_path / "third"
    millpond = start_millpond({"docker.io": upstream.upstream()}, log={"format": "json", "audit": str(file)})
    assert change(millpond, "pin", {"image": "docker.io/library/before:1"}) == 404
    one(file, audit="change")
    file.rename(moved)
    millpond.process.send(signal.SIGHUP)
    assert one(file, audit="reload") == {**one(file, audit="reload"), "changed": [], "restart": []}
    assert len(lines(moved)) == 1
    millpond.configure({**millpond.config, "log": {"format": "json", "audit": str(third)}})
    assert change(millpond, "reload", {}) == 200
    assert one(third, audit="reload")["changed"] == ["log.audit"]
    assert one(third, audit="change")["change"] == "reload"


def test_it_can_go_to_standard_output(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()}, log={"format": "json", "audit": "stdout"})
    pull(f"{millpond.url}/v2/library/x", image, "1")
    wait_until(lambda: millpond.log_lines(audit="pull", image="docker.io/library/x:1"), "the pull is told")


def test_without_it_nothing_is_written_and_a_place_that_cannot_be_is_refused(
    upstream: ScriptedUpstream, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()})
    assert change(millpond, "reload", {}) == 200
    assert not [line for line in millpond.log_lines() if "audit" in line]
    millpond.configure({**millpond.config, "log": {"audit": str(tmp_path / "nowhere" / "audit")}})
    assert change(millpond, "reload", {}) == 409
    refused = {"event": "configuration refused, the old one stays"}
    wait_until(lambda: millpond.log_lines(**refused), "the refusal is told")
    assert "log.audit" in millpond.log_lines(**refused)[-1]["why"]

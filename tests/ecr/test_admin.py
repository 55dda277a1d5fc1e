"""The admin API of the ECR tier, over sockets: what it answers, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from proxy.admin import answers
from proxy.admin.openapi import document
from proxy.ecr import queue as queue_module
from proxy.ecr.desk import IMAGES_AT_ONCE
from tests.ecr.office import Office
from tests.support.ecr import EcrDouble
from tests.support.openapi import Document
from tests.support.waiting import wait_until

JSON = {"Content-Type": "application/json"}
DOCUMENT = Document(document())


@pytest.fixture
def office(cloud: EcrDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    with Office(cloud, tmp_path).open() as opened:
        yield opened


def ask(office: Office, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of a GET, of a POST where there is a body; held against the API's document."""
    connection = HTTPConnection("127.0.0.1", office.port, timeout=30)
    try:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", path, data, JSON if headers is None else headers)
        response = connection.getresponse()
        status, text = response.status, response.read().decode()
        DOCUMENT.check_answer("GET" if data is None else "POST", path, status, response.headers["Content-Type"], text)
        return status, text
    finally:
        connection.close()


def rows(office: Office, path: str, body: Any = None) -> list[dict[str, Any]]:
    status, text = ask(office, path, body)
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines() if line]


def test_a_sync_pushes_to_every_target_that_takes_the_image_and_tells_how_it_ended(office: Office) -> None:
    nginx, app = office.shelf.add("docker.io/nginx", "1.27"), office.shelf.add("ghcr.io/org/app", "v1", b"two")
    found = rows(office, "/api/v1/ecr/sync", {"images": ["nginx:1.27", f"ghcr.io/org/app:v1@{app.digest}"]})
    assert found[-1] == {"summary": {"done": 3, "failed": 0}}
    ends = {(row["image"], row["target"]): row["state"] for row in found[:-1]}
    assert ends == {
        ("docker.io/library/nginx:1.27", "prod"): "done",
        ("docker.io/library/nginx:1.27", "dev"): "done",
        (f"ghcr.io/org/app:v1@{app.digest}", "prod"): "done",
    }
    for region in ("us-east-1", "eu-west-1"):
        stored = office.cloud.registry(region=region).image("docker.io/library/nginx", "1.27")
        assert stored is not None
        assert stored.digest == nginx.digest
    assert office.cloud.registry().image("ghcr.io/org/app", "v1") is not None


def test_a_sync_tells_of_each_image_that_is_not_to_be_had_and_pushes_the_others(office: Office) -> None:
    office.shelf.add("docker.io/nginx")
    found = rows(office, "/api/v1/ecr/sync", {"images": ["nginx", "missing"]})
    assert found[-1] == {"summary": {"done": 2, "failed": 1}}
    (failed,) = [row for row in found[:-1] if row["state"] == "failed"]
    assert (failed["image"], failed["target"]) == ("docker.io/library/missing:latest", None)
    assert failed["reason"] == "there is no latest in docker.io/library/missing"


def test_a_sync_of_more_images_than_go_at_once_pushes_all_of_them(office: Office) -> None:
    names = [f"app{number}" for number in range(2 * IMAGES_AT_ONCE + 1)]
    for name in names:
        office.shelf.add(f"docker.io/{name}", content=name.encode())
    found = rows(office, "/api/v1/ecr/sync", {"images": [*names, "missing"]})
    assert found[-1] == {"summary": {"done": 2 * len(names), "failed": 1}}


def test_a_sync_of_what_no_target_takes_says_so(office: Office) -> None:
    office.shelf.add("quay.io/app")
    row, last = rows(office, "/api/v1/ecr/sync", {"images": ["quay.io/app"]})
    assert (row["state"], row["target"]) == ("failed", None)
    assert row["reason"] == "no target takes images of quay.io; add it to the upstreams of one"
    assert last == {"summary": {"done": 0, "failed": 1}}


def test_a_sync_into_a_full_queue_fails_for_that_target(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "MAX_OPEN", 0)
    office.shelf.add("docker.io/nginx")
    *found, last = rows(office, "/api/v1/ecr/sync", {"images": ["nginx"]})
    assert [(row["target"], row["state"]) for row in found] == [("prod", "failed"), ("dev", "failed")]
    assert found[0]["reason"] == "its queue is full; ask again when it is shorter"
    assert last == {"summary": {"done": 0, "failed": 2}}


def test_a_sync_does_not_sit_and_wait_for_a_target_that_refuses(office: Office) -> None:
    office.shelf.add("ghcr.io/app")
    office.cloud.deny("*")
    found = rows(office, "/api/v1/ecr/sync", {"images": ["ghcr.io/app"]})
    assert found[-1] == {"summary": {"done": 0, "failed": 1}}
    assert found[-2]["state"] == "waiting"
    assert "AccessDenied" in found[-2]["reason"]


def test_a_rejected_image_is_in_the_status_with_its_reason_until_it_is_retried(office: Office) -> None:
    image = office.shelf.add("ghcr.io/app")
    office.cloud.fail("PutImage", "InvalidParameterException")
    found = rows(office, "/api/v1/ecr/sync", {"images": ["ghcr.io/app"]})
    assert found[-1] == {"summary": {"done": 0, "failed": 1}}
    status, text = ask(office, "/api/v1/ecr")
    assert status == 200
    (job,) = json.loads(text)["jobs"]
    assert (job["state"], job["repository"], job["digest"]) == ("rejected", "ghcr.io/app", image.digest)
    assert "InvalidParameterException" in job["reason"]
    assert json.loads(ask(office, "/api/v1/ecr/retry", {"target": "dev"})[1]) == {"retried": 0}
    assert json.loads(ask(office, "/api/v1/ecr/retry", {"target": "prod", "image": "ghcr.io/app"})[1]) == {"retried": 1}
    wait_until(lambda: office.cloud.registry().image("ghcr.io/app", "latest"), "the image has been pushed")


@pytest.mark.parametrize("named", ["ghcr.io/app", "ghcr.io/app:v1", "ghcr.io/app@{digest}", "ghcr.io/app:v1@{digest}"])
def test_an_image_to_retry_may_be_named_in_each_way(office: Office, named: str) -> None:
    image = office.shelf.add("ghcr.io/app", "v1")
    office.shelf.add("ghcr.io/app", "v2", b"two")
    office.cloud.fail("PutImage", "InvalidParameterException", times=2)
    rows(office, "/api/v1/ecr/sync", {"images": ["ghcr.io/app:v1", "ghcr.io/app:v2"]})
    body = {"image": named.format(digest=image.digest)}
    assert json.loads(ask(office, "/api/v1/ecr/retry", body)[1]) == {"retried": 2 if named == "ghcr.io/app" else 1}


def test_a_comparison_has_a_row_for_each_image_on_disk_and_counts_them(office: Office) -> None:
    office.shelf.add("docker.io/nginx")
    office.shelf.add("ghcr.io/app", "v1", b"two")
    rows(office, "/api/v1/ecr/sync", {"images": ["nginx"]})
    first, second, last = rows(office, "/api/v1/ecr/verify")
    assert (first["image"], first["verdict"]) == ("docker.io/library/nginx:latest", "same")
    assert (second["image"], second["verdict"]) == ("ghcr.io/app:v1", "differs")
    assert last == {"summary": {"same": 1, "differs": 1, "unverified": 0}}
    assert rows(office, "/api/v1/ecr/verify?image=nginx") == [
        first,
        {"summary": {"same": 1, "differs": 0, "unverified": 0}},
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/v1/ecr/sync", b"{", 400, "not JSON"),
        ("/api/v1/ecr/sync", [], 400, "no other keys than: images"),
        ("/api/v1/ecr/sync", {"images": ["a"], "target": "x"}, 400, "no other keys than: images"),
        ("/api/v1/ecr/sync", {"images": []}, 400, "a list of image names"),
        ("/api/v1/ecr/sync", {"images": [5]}, 400, "a list of image names"),
        ("/api/v1/ecr/sync", {"images": ["nginx", "no such/name"]}, 400, "is not a repository name"),
        ("/api/v1/ecr/sync", {"images": ["nowhere.test/a"]}, 400, "no upstream 'nowhere.test' is configured"),
        ("/api/v1/ecr/sync", b" " * (answers.MAX_BODY + 1), 413, "send fewer images"),
        ("/api/v1/ecr/retry", {"target": 5}, 400, '"target" is to be text'),
        ("/api/v1/ecr/retry", {"target": "stage"}, 400, "there is no ECR target 'stage'; one of: prod, dev"),
        ("/api/v1/ecr/verify?image=nginx:", None, 400, "is not a tag"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_begins(
    office: Office, path: str, body: Any, status: int, says: str
) -> None:
    office.shelf.add("docker.io/nginx")
    answered, text = ask(office, path, body)
    assert answered == status
    assert says in json.loads(text)["error"]
    assert not office.cloud.calls


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}])
def test_what_a_web_page_could_send_is_refused(office: Office, headers: dict[str, str]) -> None:
    for path in ("sync", "retry"):
        status, text = ask(office, f"/api/v1/ecr/{path}", {}, headers)
        assert (status, json.loads(text)) == (415, {"error": "this wants a body of the type application/json"})


def test_a_stream_shows_life_while_nothing_happens_and_ends_with_the_server(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HEARTBEAT", 0.05)
    office.shelf.add("ghcr.io/app")
    stall = office.cloud.stall("PutImage")
    connection = HTTPConnection("127.0.0.1", office.port, timeout=30)
    connection.request("POST", "/api/v1/ecr/sync", json.dumps({"images": ["ghcr.io/app"]}), JSON)
    response = connection.getresponse()
    while response.readline() != b"\n":
        pass
    office.draining.set()
    last = [json.loads(line) for line in response.read().splitlines() if line][-1]
    assert last == {"error": "the server is about to end; what was begun goes on when it runs again"}
    stall.release()
    connection.close()


def test_whoever_leaves_a_sync_does_not_end_the_push(office: Office) -> None:
    office.shelf.add("ghcr.io/app")
    stall = office.cloud.stall("PutImage")
    connection = HTTPConnection("127.0.0.1", office.port, timeout=30)
    connection.request("POST", "/api/v1/ecr/sync", json.dumps({"images": ["ghcr.io/app"]}), JSON)
    assert connection.getresponse().readline()
    connection.close()
    stall.release()
    wait_until(lambda: office.cloud.registry().image("ghcr.io/app", "latest"), "the image has been pushed")

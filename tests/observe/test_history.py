"""The history of pulls: what the admin port tells of each, why it missed, and the sums that outlive the program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.edge.access import ask_from, basic, htpasswd
from tests.support import images
from tests.support.faults import Gate, change, refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, head, opened, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

REPOSITORY: Final = "library/remembered"
NAME: Final = f"docker.io/{REPOSITORY}"
LAYER: Final = 3_000_000  # bytes, of which two thirds are left when it is packed
ALWAYS_OLD: Final = {"tag_ttl": "0s"}  # every request finds the tag past its time


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as made:
        yield made


@pytest.fixture
def image(images_directory: Path, upstream: ScriptedUpstream) -> Manifest:
    made = images.index([images.simple_image(images_directory, seed=81, layers=2, size=LAYER)])
    upstream.add(made, REPOSITORY, "1")
    return made


@pytest.fixture
def millpond(start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest) -> Millpond:
    return start_millpond({"docker.io": upstream.upstream(connections_per_blob=1)})


def test_a_pull_is_one_entry_with_what_it_brought_and_why(millpond: Millpond, image: Manifest) -> None:
    """An index, its image and all of its blobs by one client, the next time as well: two entries, newest first."""
    for number in (1, 2):
        assert get(_manifest(millpond, "1"), method="HEAD").status == 200  # as containerd resolves a tag
        pull(_base(millpond), image, "1")
        # A request is noted a moment after its last byte, and so is a blob.
        _wait_for(millpond, number, requests=_requests(image))
        landed(millpond)
    newest, oldest = _pulls(millpond)
    assert _of(oldest, "image", "digest", "client", "user", "source", "status", "outcome", "why") == {
        "image": f"{NAME}:1",
        "digest": image.digest,
        "client": "127.0.0.1",
        "user": "",
        "source": "upstream",
        "status": 200,
        "outcome": "complete",
        "why": "the tag was never pulled here before",
    }
    assert _of(newest, "image", "source", "why") == {"image": f"{NAME}:1", "source": "hit", "why": ""}
    assert oldest["bytes"] == newest["bytes"] == _size(image)
    assert oldest["at"] <= newest["at"]
    assert oldest["seconds"] > 0


def test_pulls_are_found_by_any_part_of_them_and_page_by_page(millpond: Millpond, image: Manifest) -> None:
    pull(_base(millpond), image, "1")
    for tag in ("none", "absent"):
        assert get(_manifest(millpond, tag)).status == 404
    _wait_for(millpond, 3)
    assert [found["image"] for found in _pulls(millpond)] == [f"{NAME}:absent", f"{NAME}:none", f"{NAME}:1"]
    questions = {"ABSENT": ["absent"], "*:n*e": ["none"], image.digest: ["1"], "failed": ["absent", "none"]}
    for query, expected in questions.items():
        found = _pulls(millpond, q=query)
        assert [one["image"].rpartition(":")[2] for one in found] == expected, query
    first = _pulls(millpond, limit=2)
    assert len(first) == 2
    assert [one["image"] for one in _pulls(millpond, before=first[-1]["id"])] == [f"{NAME}:1"]


def test_a_failed_pull_says_with_which_status_and_why(millpond: Millpond, upstream: ScriptedUpstream) -> None:
    upstream.script("/v2/", then=refuse(500))
    assert get(_manifest(millpond, "1")).status == 502
    _wait_for(millpond, 1)
    [failed] = _pulls(millpond)
    assert _of(failed, "status", "outcome", "source") == {"status": 502, "outcome": "failed", "source": None}
    assert "500" in failed["why"]


def test_what_failed_first_and_was_then_served_is_complete(
    millpond: Millpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    """Clients try again: that is one pull, and all is well in the end."""
    upstream.script("/v2/", then=refuse(404))
    assert get(_manifest(millpond, "2")).status == 404
    upstream.behave()
    upstream.add(image, REPOSITORY, "2")
    wait_until(lambda: get(_manifest(millpond, "2")).status == 200, "the refusal is forgotten")
    wait_until(lambda: _pulls(millpond)[0]["outcome"] == "complete", "the later request is noted")
    [only] = _pulls(millpond)
    assert _of(only, "status", "why", "digest") == {
        "status": 200,
        "why": "the tag was never pulled here before",
        "digest": image.digest,
    }


def test_a_client_that_leaves_is_told_from_a_pull_that_is_complete(
    millpond: Millpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    gate = Gate()
    layer = max(image.all_blobs().values(), key=lambda blob: blob.size).digest
    upstream.script(layer, change(gates={1_000_000: gate}))
    assert get(_manifest(millpond, "1")).status == 200
    with opened(f"{_base(millpond)}/blobs/{layer}") as download:
        assert download.read(100_000)
        wait_until(lambda: _pulls(millpond)[0]["outcome"] == "pulling", "it is told while it goes on")
    gate.open()
    wait_until(lambda: _pulls(millpond)[0]["outcome"] == "client left", "its end is noted")
    [left] = _pulls(millpond)
    assert left["why"] == "the client closed the connection"


def test_a_challenge_is_no_pull(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest, tmp_path: Path
) -> None:
    """What strangers may not have a user may: clients come again with a name when they are asked for one."""
    rules = [{"action": "allow", "users": ["amy"], "repositories": [NAME]}]
    users = htpasswd(tmp_path / "users", {"amy": "a password"})
    access = {"htpasswd_file": users, "anonymous": True, "rules": rules, "default": "deny"}
    millpond = start_millpond({"docker.io": upstream.upstream()}, access=access)
    assert get(_manifest(millpond, "1")).status == 401
    assert get(_manifest(millpond, "1"), basic("amy", "a password")).status == 200
    _wait_for(millpond, 1)
    assert _pulls(millpond)[0]["user"] == "amy"


def test_the_pulls_of_two_clients_are_two_pulls(millpond: Millpond, image: Manifest) -> None:
    """At the same time, and of the same: it is their addresses that tell them apart."""
    path = f"/v2/docker.io/{REPOSITORY}/manifests"
    for reference in ("1", image.children[0].digest):
        for address in ("127.0.0.2", "127.0.0.3"):
            assert ask_from(millpond, address, f"{path}/{reference}").status == 200
    _wait_for(millpond, 2, requests=2)
    assert [_of(one, "client", "requests") for one in _pulls(millpond)] == [
        {"client": "127.0.0.3", "requests": 2},
        {"client": "127.0.0.2", "requests": 2},
    ]


# Why it missed


def test_a_tag_that_moved_and_one_that_did_not_are_told_apart(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream(**ALWAYS_OLD)})
    assert _why(millpond, 1) == "the tag was never pulled here before"
    assert _why(millpond, 2) == "the tag was checked moments ago, and tag_ttl is 0 s: upstream has confirmed it"
    upstream.add(images.chart(seed=3), REPOSITORY, "1")
    assert _why(millpond, 3) == "the tag has moved at upstream since it was checked moments ago"


def test_a_tag_that_stands_in_says_for_what(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream(**ALWAYS_OLD)})
    assert get(_manifest(millpond, "1")).status == 200
    _fail(upstream, 500)
    why = _why(millpond, 2)
    assert why.startswith("upstream could not confirm the tag, so that what it said ")
    assert "500" in why
    assert _pulls(millpond)[0]["source"] == "stale"


def test_a_tag_that_upstream_deleted_says_so(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream(**ALWAYS_OLD, on_deleted="serve")})
    assert get(_manifest(millpond, "1")).status == 200
    _fail(upstream, 404)
    assert _why(millpond, 2) == "upstream has deleted the tag, and on_deleted keeps what is cached"


def test_what_was_evicted_damaged_or_lost_says_so_also_after_a_restart(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    millpond = start_millpond(
        {"docker.io": upstream.upstream(connections_per_blob=1)}, cache={"max_size": str(4 * LAYER)}
    )
    pull(_base(millpond), image, "1")
    layers = [blob.digest for blob in image.all_blobs().values() if blob.size > LAYER // 2]
    wait_until(lambda: millpond.metric("millpond_flights") == 0, "all of it is on disk")
    _damage(millpond.blob_file(layers[0]))
    millpond.blob_file(layers[1]).unlink()
    assert [_blob_reason(millpond, layer) for layer in layers] == [
        "a blob of it was found damaged on disk moments ago, and dropped",
        "a blob of it was found to be missing from the disk moments ago",
    ]
    other = upstream.add_blob("library/other", bytes(3 * LAYER + LAYER // 2))
    assert _blob_reason(millpond, other, "library/other") == "a blob of it was never pulled here before"
    wait_until(lambda: millpond.metric("millpond_flights") == 0, "it has landed, and made room for itself")
    millpond.restart()
    assert get(_manifest(millpond, "1")).status == 200
    millpond.settle_log()
    reason = millpond.log_lines(event="served", item="1")[-1]["reason"]
    assert reason.startswith("the tag was evicted ")
    assert reason.endswith(" ago to make room")


def test_what_passes_by_the_disk_says_why(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()}, cache={"max_size": str(LAYER // 2)})
    assert get(_manifest(millpond, "1")).status == 200
    assert get(_manifest(millpond, next(image.walk()).digest)).status == 200
    layer = max(image.all_blobs().values(), key=lambda blob: blob.size).digest
    assert _blob_reason(millpond, layer) == (
        "a blob of it was never pulled here before; it passes by the disk: it is larger than cache.max_size"
    )


def test_whoever_joins_a_fetch_is_told_so(millpond: Millpond, upstream: ScriptedUpstream, image: Manifest) -> None:
    gate = Gate()
    layer = max(image.all_blobs().values(), key=lambda blob: blob.size).digest
    upstream.script(layer, change(gates={1_000_000: gate}))
    assert get(_manifest(millpond, "1")).status == 200
    url = f"{_base(millpond)}/blobs/{layer}"
    with opened(url) as first, opened(url, {"X-Request-Id": "second"}) as second:
        gate.open()
        assert first.drain()
        assert second.drain()
    millpond.settle_log()
    assert millpond.log_lines(id="second")[0]["reason"] == "a fetch of it was under way already"


def test_a_look_at_a_blob_that_is_not_here_has_its_reason_as_a_download_has(
    millpond: Millpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    upstream.add(image, "library/other", "1")
    layer = max(image.all_blobs().values(), key=lambda blob: blob.size).digest

    def reason(repository: str) -> str | None:
        assert head(f"{millpond.url}/v2/docker.io/{repository}/blobs/{layer}").status == 200
        millpond.settle_log()
        line = millpond.log_lines(event="served", item=layer, method="HEAD")[-1]
        assert line["origin"] == ("upstream" if "reason" in line else "hit")
        told: str | None = line.get("reason")
        return told

    assert reason(REPOSITORY) == "a blob of it was never pulled here before"
    pull(_base(millpond), image, "1")
    landed(millpond)
    assert reason(REPOSITORY) is None
    assert reason("library/other") == "it is on disk, but nobody has pulled it from this repository yet"


# Sums


def test_sums_and_pulls_outlive_the_program(millpond: Millpond, image: Manifest) -> None:
    for number in (1, 2, 3):
        pull(_base(millpond), image, "1")
        _wait_for(millpond, number, requests=_requests(image) - 1)
    before = _savings(millpond)
    [day] = before["days"]
    assert _of(day, "upstream", "pulls", "hits", "served_bytes", "fetched_bytes", "saved_bytes", "saved_pulls") == {
        "upstream": "docker.io",
        "pulls": 3,
        "hits": 2,
        "served_bytes": 3 * _size(image),
        "fetched_bytes": _size(image),
        "saved_bytes": 2 * _size(image),
        "saved_pulls": 2,  # the first one was counted by Docker Hub
    }
    assert before["since"] == day["day"]
    assert before["images"] == [
        {"name": NAME, "pulls": 3, "served_bytes": 3 * _size(image), "saved_bytes": 2 * _size(image)}
    ]
    pulls = _pulls(millpond)
    millpond.restart()
    assert _savings(millpond) == before
    assert [_of(one, *pulls[0].keys() - {"done"}) for one in _pulls(millpond)] == [
        _of(one, *one.keys() - {"done"}) for one in pulls
    ]
    pull(_base(millpond), image, "1")
    _wait_for(millpond, 4, requests=_requests(image) - 1)
    assert _savings(millpond)["days"][0]["pulls"] == 4
    assert [one["id"] for one in _pulls(millpond)] == ["4", "3", "2", "1"]


def test_a_check_without_a_download_is_no_pull_that_docker_hub_would_have_counted(
    millpond: Millpond, image: Manifest
) -> None:
    pull(_base(millpond), image, "1")
    assert get(_manifest(millpond, "1"), method="HEAD").status == 200
    _wait_for(millpond, 2)
    [day] = _savings(millpond)["days"]
    assert _of(day, "pulls", "hits", "saved_pulls") == {"pulls": 2, "hits": 1, "saved_pulls": 0}


def _base(millpond: Millpond) -> str:
    return f"{millpond.url}/v2/docker.io/{REPOSITORY}"


def _manifest(millpond: Millpond, reference: str) -> str:
    return f"{_base(millpond)}/manifests/{reference}"


def _requests(image: Manifest) -> int:
    """Of one pull, the HEAD included."""
    return 1 + len(list(image.walk())) + len(image.all_blobs())


def _size(image: Manifest) -> int:
    """Bytes of one pull: manifests and blobs."""
    return image.total_size + sum(len(manifest.body) for manifest in image.walk())


def _api(millpond: Millpond, path: str) -> Any:
    reply = get(f"{millpond.admin_url}/api/v1/{path}")
    assert reply.status == 200, reply.text
    return reply.json()


def _pulls(millpond: Millpond, **query: object) -> list[dict[str, Any]]:
    path = "pulls?" + "&".join(f"{name}={value}" for name, value in query.items())
    found: list[dict[str, Any]] = _api(millpond, path)["pulls"]
    return found


def _savings(millpond: Millpond) -> dict[str, Any]:
    found: dict[str, Any] = _api(millpond, "savings")
    return found


def _wait_for(millpond: Millpond, count: int, requests: int = 1) -> None:
    """Until so many pulls are told, the newest of which has had so many requests."""

    def there() -> bool:
        found = _pulls(millpond)
        return len(found) == count and found[0]["requests"] == requests and found[0]["outcome"] != "pulling"

    wait_until(there, f"{count} pulls are told, the newest with {requests} requests")


def _why(millpond: Millpond, count: int) -> str:
    """The reason of the next pull of the tag, the `count`th in all."""
    assert get(_manifest(millpond, "1")).status == 200
    _wait_for(millpond, count)
    return _lately(_pulls(millpond)[0]["why"])


def _blob_reason(millpond: Millpond, digest: str, repository: str = REPOSITORY) -> str:
    assert get(f"{millpond.url}/v2/docker.io/{repository}/blobs/{digest}").digest == digest
    millpond.settle_log()
    return _lately(millpond.log_lines(event="served", item=digest)[-1]["reason"])


def _lately(reason: str) -> str:
    """A busy machine takes a second or more for what is a moment elsewhere."""
    return re.sub(r"\b\d{1,2} s ago", "moments ago", reason)


def _fail(upstream: ScriptedUpstream, status: int) -> None:
    """From now on upstream answers everything so."""
    for method in ("GET", "HEAD"):
        upstream.script("/v2/", then=refuse(status), method=method)


def _damage(file: Path) -> None:
    """Change its last byte, as a failing disk does."""
    file.chmod(0o600)
    body = file.read_bytes()
    file.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


def _of(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}

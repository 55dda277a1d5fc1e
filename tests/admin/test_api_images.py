"""What is cached and what is changed of it, over the API: each change is seen in what is asked next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.admin.watched import Watched
from tests.support import images
from tests.support.faults import refuse
from tests.support.images import Manifest
from tests.support.pulls import get
from tests.support.waiting import wait_until


def test_an_image_is_found_by_any_part_of_its_name_and_shown_with_all_it_consists_of(
    watched: Watched, tmp_path: Path
) -> None:
    children = [
        images.simple_image(tmp_path, seed=seed, architecture=name) for seed, name in ((31, "amd64"), (32, "arm64"))
    ]
    index = images.index(children)
    watched.upstream.add(index, "library/found", "v1", "stable")
    watched.pull(index, "library/found", "v1")
    (row,) = watched.read("images", q="*/found:v*")["images"]
    assert (row["name"], row["tag"], row["digest"]) == ("docker.io/library/found", "v1", index.digest)
    assert row["size"] == row["present"] == _whole(index)
    assert row["platforms"] == ["linux/amd64", "linux/arm64"]
    assert (row["held"], row["pinned"]) == ({"disk": "whole"}, False)
    detail = watched.read("image", name="found:v1")
    assert {child["platform"]: child["digest"] for child in detail["children"]} == {
        "linux/amd64": children[0].digest,
        "linux/arm64": children[1].digest,
    }
    assert detail["tags"] == ["v1"]


def test_many_images_come_in_pages_that_leave_none_out(watched: Watched, tmp_path: Path) -> None:
    for number in range(5):
        image = images.simple_image(tmp_path, seed=33, note=str(number))
        watched.upstream.add(image, "library/paged", f"v{number}")
        watched.pull(image, "library/paged", f"v{number}")
    found, after = [], ""
    while True:
        page = watched.read("images", q="paged", limit=2, after=after)
        assert page["total"] == 5
        found += [row["tag"] for row in page["images"]]
        if not (after := page["next"]):
            break
    assert found == [f"v{number}" for number in range(5)]


def test_what_is_pinned_is_shown_as_pinned_and_is_purged_only_when_it_no_longer_is(
    watched: Watched, tmp_path: Path
) -> None:
    image = _pulled(watched, tmp_path, "library/kept", 34)
    pinned = watched.change("pin", image="kept")
    assert pinned == {"image": "docker.io/library/kept:latest", "digests": 3, "bytes": _whole(image)}
    assert watched.read("images", q="kept:latest")["images"][0]["pinned"]
    assert watched.read("status")["cache"]["pinned_bytes"] == _whole(image)
    assert "is pinned" in watched.change("purge", 409, image="kept")["error"]
    assert watched.change("unpin", image="kept")["bytes"] == _whole(image)
    assert "is not pinned" in watched.change("unpin", 404, image="kept")["error"]
    assert watched.change("purge", image="kept")["bytes"] == _whole(image)
    assert watched.read("images", q="kept")["total"] == 0
    assert not watched.millpond.blob_file(image.digest).exists()


def test_what_goes_next_is_what_was_used_longest_ago(watched: Watched, tmp_path: Path) -> None:
    first = _pulled(watched, tmp_path, "library/older", 35)
    _pulled(watched, tmp_path, "library/newer", 36)
    going = [row["digest"] for row in watched.read("evictions", limit=200)["next"]]
    assert going.index(first.digest) < len(going) - 3
    assert len(watched.read("evictions", limit=1)["next"]) == 1


def test_a_refresh_asks_upstream_at_once_where_the_tag_points(watched: Watched, tmp_path: Path) -> None:
    old = _pulled(watched, tmp_path, "library/moves", 37)
    new = images.simple_image(tmp_path, seed=38)
    watched.upstream.add(new, "library/moves", "latest")
    refreshed = watched.change("refresh", image="moves")
    assert (refreshed["before"], refreshed["after"], refreshed["changed"]) == (old.digest, new.digest, True)
    watched.upstream.script("library/moves/", then=refuse(503), method="")
    assert "503" in watched.change("refresh", 503, image="moves")["error"]
    watched.recover()


def test_what_is_warmed_is_here_before_anybody_pulls_it(watched: Watched, tmp_path: Path) -> None:
    children = [
        images.simple_image(tmp_path, seed=seed, architecture=name) for seed, name in ((39, "amd64"), (40, "arm64"))
    ]
    index = images.index(children)
    watched.upstream.add(index, "library/warm", "v1")
    rows = watched.rows("warm", images=["warm:v1", "nowhere:v1"], platforms=["linux/arm64"])
    ends = {row["image"]: row for row in rows[:-1]}
    assert rows[-1]["summary"] == {"done": 1, "failed": 1, "bytes": children[1].total_size}
    assert ends["docker.io/library/warm:v1"]["state"] == "done"
    assert "404" in ends["docker.io/library/nowhere:v1"]["reason"]
    wait_until(lambda: watched.read("image", name="warm:v1")["platforms"] == ["linux/arm64"], "one platform is here")


@pytest.mark.parametrize(
    ("noun", "body", "status", "told"),
    [
        ("pin", {}, 400, '"image" is missing'),
        ("pin", {"image": 5}, 400, '"image" is to be text'),
        ("pin", {"image": "no such/name"}, 400, "is not a repository name"),
        ("pin", {"image": "nowhere.test/a"}, 400, "no upstream 'nowhere.test' is configured"),
        ("purge", {"image": "alpine", "force": True}, 400, "no other keys than: image"),
        ("refresh", {"image": f"alpine@sha256:{'0' * 64}"}, 400, "never changes"),
        ("refresh", {"image": "never:seen"}, 404, "404"),
        ("warm", {"images": []}, 400, "one at least"),
        ("warm", {"images": "alpine"}, 400, "a list of image names"),
        ("warm", {"images": ["alpine"], "platforms": "some"}, 400, '"platforms" is to be "all"'),
        ("warm", {"images": ["alpine"], "platforms": ["linux"]}, 400, "os/architecture"),
        ("reload", {"file": "other"}, 400, "no other keys"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(
    watched: Watched, noun: str, body: dict[str, object], status: int, told: str
) -> None:
    assert told in watched.change(noun, status, **body)["error"]


@pytest.mark.parametrize(
    ("noun", "query", "status", "told"),
    [
        ("image", {}, 400, '"name" is missing'),
        ("image", {"name": "never:seen"}, 404, "is not cached; pull it"),
        ("images", {"limit": "many"}, 400, '"limit" is to be a whole number'),
        ("images", {"limit": "9" * 5000}, 400, '"limit" is to be a whole number'),
        ("images", {"q": "x" * 5000}, 400, "up to 500 are looked for"),
        ("explain", {}, 400, '"image" is missing'),
        ("explain", {"image": "a:b:c"}, 400, "is not a"),
        ("pulls", {"before": "-1"}, 400, '"before" is to be a whole number'),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_what_would(
    watched: Watched, noun: str, query: dict[str, str], status: int, told: str
) -> None:
    assert told in watched.read(noun, status, **query)["error"]


def test_a_page_of_somebody_else_cannot_send_a_form_here(watched: Watched) -> None:
    """A form's type needs no leave of the browser; ours does."""
    url = f"{watched.millpond.admin_url}/api/v1/purge"
    headers = {"Content-Type": "text/plain"}
    reply = get(url, headers, method="POST", content=json.dumps({"image": "alpine"}).encode())
    assert reply.status == 415


def _pulled(watched: Watched, directory: Path, repository: str, seed: int) -> Manifest:
    image = images.simple_image(directory, seed=seed)
    watched.upstream.add(image, repository, "latest")
    watched.pull(image, repository)
    return image


def _children(directory: Path, seed: int) -> list[Manifest]:
    """For linux/amd64 and linux/arm64."""
    return [
        images.simple_image(directory, seed=seed + number, architecture=architecture)
        for number, architecture in enumerate(("amd64", "arm64"))
    ]


def _whole(image: Manifest) -> int:
    """Bytes of all blobs and manifests."""
    return image.total_size + sum(len(part.body) for part in image.walk())

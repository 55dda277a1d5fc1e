"""What was pulled, what it saved and why it was as it was, over the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.admin.watched import UPSTREAM, Watched
from tests.support import images
from tests.support.waiting import wait_until


def test_pulls_are_listed_newest_first_with_source_and_reason_and_page_by_page(
    watched: Watched, tmp_path: Path
) -> None:
    image = images.simple_image(tmp_path, seed=51)
    watched.upstream.add(image, "library/listed", "v1")
    watched.pull(image, "library/listed", "v1")
    watched.pull(image, "library/listed", "v1")
    wait_until(lambda: [each["source"] for each in _pulls(watched)] == ["hit", "upstream"], "both are listed")
    second, first = _pulls(watched)
    assert (first["image"], first["digest"], first["status"]) == ("docker.io/library/listed:v1", image.digest, 200)
    assert first["bytes"] == second["bytes"] == image.total_size + len(image.body)
    assert first["why"]
    assert first["client"] == "127.0.0.1"
    assert watched.read("pulls", limit=1)["pulls"] == [second]
    assert first in watched.read("pulls", before=second["id"])["pulls"]
    assert second not in watched.read("pulls", before=second["id"])["pulls"]


def test_what_was_not_fetched_again_is_saved(watched: Watched, tmp_path: Path) -> None:
    image = images.simple_image(tmp_path, seed=52)
    watched.upstream.add(image, "library/saved", "v1")
    before = watched.read("status")["totals"]
    watched.pull(image, "library/saved", "v1")
    watched.pull(image, "library/saved", "v1")
    whole = image.total_size + len(image.body)

    def saved() -> bool:
        totals: dict[str, int] = watched.read("status")["totals"]
        grown = totals["saved_bytes"] - before["saved_bytes"], totals["saved_pulls"] - before["saved_pulls"]
        return grown == (whole, 1)

    wait_until(saved, "the second pull was saved")
    savings = watched.read("savings", days=7)
    (today,) = [row for row in savings["days"] if row["upstream"] == UPSTREAM and row["day"] == savings["since"]]
    assert today["saved_bytes"] >= whole
    (row,) = [row for row in savings["images"] if row["name"] == "docker.io/library/saved"]
    assert (row["pulls"], row["served_bytes"], row["saved_bytes"]) == (2, 2 * whole, whole)


def test_an_explanation_says_the_cause_and_what_the_next_pull_would_do(watched: Watched, tmp_path: Path) -> None:
    image = images.simple_image(tmp_path, seed=53)
    watched.upstream.add(image, "library/why", "v1")
    watched.pull(image, "library/why", "v1")
    told = watched.read("explain", image="why:v1")
    assert (told["name"], told["digest"]) == ("docker.io/library/why:v1", image.digest)
    assert told["cause"].endswith(".")
    assert told["next"].endswith(".")
    assert {"name", "access", "freshness", "upstream"} <= {step["what"] for step in told["steps"]}


def _pulls(watched: Watched) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = watched.read("pulls", q="library/listed")["pulls"]
    return found

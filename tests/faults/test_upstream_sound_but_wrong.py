"""Answers that are sound in themselves, and not what was asked for: only their digest tells."""

from __future__ import annotations

import pytest

from tests.faults.conftest import UPSTREAM
from tests.support import images
from tests.support.faults import change
from tests.support.millpond import Millpond
from tests.support.pulls import get
from tests.support.scripted import ScriptedUpstream


@pytest.mark.parametrize(("by", "seed"), [("digest", 41), ("tag", 43)])
def test_the_manifest_of_another_image_is_refused_and_not_kept(
    upstream: ScriptedUpstream, millpond: Millpond, by: str, seed: int
) -> None:
    """Row 3, W P: by digest, and by a tag whose digest upstream states. It is a manifest as good as any other."""
    repository = f"library/other-by-{by}"
    asked, other = images.chart(seed=seed), images.chart(seed=seed + 1)
    assert asked.digest != other.digest
    upstream.add(asked, repository, "1")
    upstream.script(f"{repository}/manifests/", then=change(body=other.body))
    url = f"{millpond.url}/v2/{UPSTREAM}/{repository}/manifests/{asked.digest if by == 'digest' else '1'}"
    reply = get(url)
    assert (reply.status, reply.error_code) == (502, "UNAVAILABLE")
    assert asked.digest in reply.json()["errors"][0]["message"]
    assert not millpond.blob_file(asked.digest).exists()
    assert not millpond.blob_file(other.digest).exists()
    upstream.behave()
    assert get(url).body == asked.body

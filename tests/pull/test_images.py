"""What is cached, as images: searched, looked at, what goes next; pinned, purged and refreshed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.cache.catalog import TagRecord
from proxy.edge.routes import Namespace
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, ManifestUnknown, NameUnknown, RequestError, UpstreamFailure
from proxy.oci.manifest import parse_manifest
from proxy.oci.names import Repository, Tag
from proxy.pull.freshness import TagPolicy
from proxy.pull.images import MAX_QUERY, Images
from proxy.pull.keeping import Conflict, Keeping, NotPinned
from tests.cache.disks import content
from tests.pull.house import House, house
from tests.support import images
from tests.support.faults import refuse
from tests.support.images import Manifest
from tests.support.pulls import pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

HUB: Final = "docker.io"
QUAY: Final = "quay.io"
APP: Final = "library/app"
ONE: Final = "docker.io/library/app:1"


def image(*seeds: int, architecture: str = "amd64", note: str = "") -> Manifest:
    """An image with a layer for each of the seeds."""
    layers = [images.blob(content(2000, seed)) for seed in seeds]
    return images.image(layers, architecture=architecture, note=note)


def parts(*manifests: Manifest) -> set[Digest]:
    """All that whole images consist of."""
    found: set[Digest] = set()
    for manifest in manifests:
        found.update(Digest.parse(digest) for digest in manifest.all_blobs())
        found.update(Digest.parse(part.digest) for part in manifest.walk())
    return found


def size(*manifests: Manifest) -> int:
    whole = {blob.digest: blob.size for manifest in manifests for blob in manifest.all_blobs().values()}
    return sum(whole.values()) + sum(len(part.body) for manifest in manifests for part in manifest.walk())


@dataclass(frozen=True, slots=True)
class Site:
    """A Millpond before one upstream that has two names, and what an operator has of it."""

    running: House
    upstream: ScriptedUpstream
    images: Images
    keeping: Keeping

    async def pull(self, manifest: Manifest, repository: str = APP, tag: str = "1", name: str = HUB) -> None:
        """Upstream has it under this tag, and a client pulls all of it."""
        self.upstream.add(manifest, repository, *([tag] if tag else []))
        base = self.running.base(repository, name)
        await asyncio.to_thread(pull, base, manifest, tag or manifest.digest)
        await wait_until_async(lambda: self.running.metric("millpond_flights") == 0, "all blobs have landed")

    async def names(self, query: str = "", **page: Any) -> list[str]:
        return [_name(row) for row in (await self.images.search(query, **page))["images"]]

    def on_disk(self, *manifests: Manifest) -> set[Digest]:
        return {digest for digest in parts(*manifests) if digest in self.running.cache.blobs}


def _name(row: dict[str, Any]) -> str:
    return f"{row['name']}:{row['tag']}" if row["tag"] else f"{row['name']}@{row['digest']}"


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def open_site(upstream: ScriptedUpstream, tmp_path: Path) -> OpenSite:
    """Opens a site; options are those of `house`."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Site]:
        async with house(tmp_path, {HUB: upstream.url, QUAY: upstream.url}, **options) as running:
            namespace = Namespace({HUB: HUB, QUAY: QUAY}, HUB)

            def locate(name: str) -> Repository:
                return namespace.locate(name, None, None)

            shown = Images(running.cache, locate, lambda repository, _: {"prod": f"asked for {repository}"})
            yield Site(running, upstream, shown, Keeping(running.cache, shown, locate, running.manifests.revalidate))

    return opened


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened


# Search


async def test_an_image_is_shown_with_its_sizes_platform_times_and_where_it_is_held(site: Site) -> None:
    made = image(1, 2)
    before = time.time()
    await site.pull(made)
    (row,) = (await site.images.search())["images"]
    times = [row.pop("checked"), row.pop("used")]
    assert row == {
        "name": "docker.io/library/app",
        "tag": "1",
        "digest": made.digest,
        "media_type": images.OCI_MANIFEST,
        "size": size(made),
        "present": size(made),
        "platforms": ["linux/amd64"],
        "pinned": False,
        "held": {"disk": "whole", "prod": "asked for docker.io/library/app"},
    }
    assert all(before <= moment <= time.time() for moment in times)


async def test_of_an_index_the_platforms_are_those_on_disk_and_the_rest_is_lacking(site: Site) -> None:
    amd, arm = image(1), image(2, architecture="arm64")
    attestation = images.artifact(images.OCI_CONFIG, [])
    both = images.index([amd, arm, images.Manifest(images.OCI_MANIFEST, attestation.body, platform="unknown/unknown")])
    site.upstream.add(both, APP, "1")
    assert (await site.running.get(APP, "manifests/1")).status == 200
    (row,) = (await site.images.search())["images"]
    assert (row["platforms"], row["held"]["disk"], row["present"]) == ([], "part", len(both.body))
    await site.pull(amd, tag="")
    (row,) = (await site.images.search())["images"]  # the child is no image by itself
    assert (row["platforms"], row["held"]["disk"]) == (["linux/amd64"], "part")
    assert row["present"] == size(amd) + len(both.body)
    assert row["size"] == row["present"] + len(arm.body) + len(attestation.body)


async def test_a_whole_index_is_whole_and_an_attestation_is_no_platform(site: Site) -> None:
    attestation = replace(images.artifact(images.OCI_CONFIG, [images.blob(b"built")]), platform="unknown/unknown")
    both = images.index([image(1), image(2, architecture="arm64"), attestation])
    await site.pull(both)
    (row,) = (await site.images.search())["images"]
    assert (row["platforms"], row["held"]["disk"]) == (["linux/amd64", "linux/arm64"], "whole")
    assert row["present"] == row["size"] == size(both)


async def test_an_index_whose_images_are_there_for_another_repository_only_is_not_whole(site: Site) -> None:
    both = images.index([image(1), image(2, architecture="arm64")])
    await site.pull(both)
    site.upstream.add(both, "other/app", "1")
    assert (await site.running.get("other/app", "manifests/1")).status == 200
    rows = {row["name"]: row["held"]["disk"] for row in (await site.images.search())["images"]}
    assert rows == {"docker.io/library/app": "whole", "docker.io/other/app": "part"}


async def test_what_was_pulled_by_digest_is_an_image_and_what_a_list_of_referrers_names_is_not(site: Site) -> None:
    made = image(1)
    signature = images.artifact(images.OCI_CONFIG, [images.blob(b"signed")], subject=made)
    await site.pull(made, tag="")
    site.upstream.add(signature, APP)
    assert (await site.running.get(APP, f"referrers/{made.digest}")).status == 200
    await site.pull(signature, tag="")
    assert await site.names() == [f"docker.io/library/app@{made.digest}"]


async def test_a_layer_that_is_gone_makes_it_a_part(site: Site) -> None:
    made = image(1, 2)
    await site.pull(made)
    gone = Digest.of(content(2000, 2))
    await site.running.cache.blobs.evict(gone)
    (row,) = (await site.images.search())["images"]
    assert (row["held"]["disk"], row["size"] - row["present"]) == ("part", 2000)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["docker.io/library/app:1", "docker.io/library/app:1.5", "docker.io/org/tool:1", "quay.io/org/tool:2"]),
        ("tool", ["docker.io/org/tool:1", "quay.io/org/tool:2"]),
        (" QUAY.io/ORG ", ["quay.io/org/tool:2"]),
        ("app:1.", ["docker.io/library/app:1.5"]),
        ("app:*", ["docker.io/library/app:1", "docker.io/library/app:1.5"]),
        ("app:1", ["docker.io/library/app:1", "docker.io/library/app:1.5"]),
        ("app:?", ["docker.io/library/app:1"]),
        ("docker.io/*:1", ["docker.io/library/app:1", "docker.io/org/tool:1"]),
        ("org/tool:[2-9]", ["quay.io/org/tool:2"]),
        ("pp:*", []),
        ("nothing", []),
        ("{quay}", ["quay.io/org/tool:2"]),
        ("*@{quay}", ["quay.io/org/tool:2"]),
    ],
)
async def test_a_search_is_a_part_of_the_name_or_a_glob(site: Site, query: str, found: list[str]) -> None:
    quay = image(9)
    for seed, (name, repository, tag) in enumerate(
        [(HUB, "org/tool", "1"), (HUB, APP, "1.5"), (HUB, APP, "1")]  # in no order
    ):
        await site.pull(image(seed), repository, tag, name)
    await site.pull(quay, "org/tool", "2", QUAY)
    assert await site.names(query.replace("{quay}", quay.digest)) == found


async def test_pages_follow_each_other_in_the_order_of_names_whatever_changes_between(site: Site) -> None:
    made = image(1)
    for tag in ("3", "1", "2", "1-a", "x"):
        await site.pull(made, "a/b", tag)
    for repository in ("a/b-c", "a/b/c"):
        await site.pull(made, repository, "1")
    await site.pull(image(7), "a/b", "")
    seen, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = await site.images.search(limit=3, after=after)
        assert page["total"] == 8 - pages
        seen += [_name(row) for row in page["images"]]
        after, pages = page["next"], pages + 1
        if pages < 3:
            site.running.cache.catalog.drop_tag(Repository(HUB, "a/b"), ["1", "1-a"][pages - 1])  # shown already
    assert pages == 3
    names = ["a/b:1", "a/b:1-a", "a/b:2", "a/b:3", "a/b:x", f"a/b@{image(7).digest}", "a/b-c:1", "a/b/c:1"]
    assert seen == [f"docker.io/{name}" for name in names]


async def test_a_cursor_or_a_query_that_makes_no_sense_is_refused(site: Site) -> None:
    with pytest.raises(RequestError, match="leave it out to begin anew"):
        await site.images.search(after="nonsense")
    with pytest.raises(RequestError, match=f"the search has {MAX_QUERY + 1} characters"):
        await site.images.search("x" * (MAX_QUERY + 1))


async def test_a_search_through_very_many_images_gives_way_to_the_event_loop(site: Site) -> None:
    """H."""
    catalog = site.running.cache.catalog
    made = parse_manifest(image(1).body, images.OCI_MANIFEST)
    for number in range(20):
        repository = Repository(HUB, f"many/{number}")
        catalog.add_manifest(repository, made)
        for tag in range(500):
            catalog.set_tag(repository, Tag(f"{tag}"), TagRecord(made.digest, 0.0))
    searching = asyncio.create_task(site.images.search("many/*:7*", limit=10))
    turns = 0
    while not searching.done():
        await asyncio.sleep(0)
        turns += 1
    page = await searching
    assert (page["total"], len(page["images"])) == (20 * 11, 10)
    assert turns >= 20


async def test_to_look_is_no_use(site: Site) -> None:
    await site.pull(image(1))
    await site.pull(image(2), "library/later")
    order = site.running.cache.blobs.digests()
    await site.images.search()
    await site.images.one(ONE)
    await site.images.evictions()
    assert site.running.cache.blobs.digests() == order


# One image


async def test_one_image_has_its_children_its_tags_and_its_blobs(site: Site) -> None:
    amd, arm = image(1), image(2, architecture="arm64")
    both = images.index([amd, arm])
    await site.pull(both)
    await site.pull(both, tag="stable")
    await site.running.cache.blobs.evict(Digest.of(content(2000, 2)))
    row = await site.images.one("app:1")
    assert (row["name"], row["tag"], row["digest"]) == ("docker.io/library/app", "1", both.digest)
    assert row["tags"] == ["1", "stable"]
    assert row["children"] == [
        {"digest": amd.digest, "platform": "linux/amd64", "size": size(amd), "present": size(amd)},
        {"digest": arm.digest, "platform": "linux/arm64", "size": size(arm), "present": size(arm) - 2000},
    ]
    assert {blob["digest"]: (blob["size"], blob["on_disk"]) for blob in row["blobs"]} == {
        digest: (blob.size, digest != Digest.of(content(2000, 2))) for digest, blob in both.all_blobs().items()
    }
    await site.running.cache.blobs.evict(Digest.parse(arm.digest))  # of what it named, nothing is known any more
    lacking = (await site.images.one("app:1"))["children"][1]
    assert lacking == {"digest": arm.digest, "platform": "linux/arm64", "size": len(arm.body), "present": 0}
    child = await site.images.one(f"docker.io/library/app@{amd.digest}")
    assert (child["tag"], child["platforms"], child["children"]) == (None, ["linux/amd64"], [])
    assert len(child["blobs"]) == len(amd.blobs)


async def test_an_image_that_is_not_cached_says_how_to_bring_it(site: Site) -> None:
    with pytest.raises(ManifestUnknown, match=r"docker.io/library/app:1 is not cached; .*`millpond warm docker.io"):
        await site.images.one(ONE)
    with pytest.raises(NameUnknown):
        await site.images.one("example.com/app:1")


# What goes next


async def test_what_goes_next_comes_in_order_with_an_image_that_names_it(site: Site) -> None:
    first, second = images.index([image(1)]), image(2, architecture="arm64")
    await site.pull(first)
    await site.pull(second, "library/later", "")
    orphan = site.running.cache.blobs
    await orphan.put(Digest.of(b"nobody's"), b"nobody's")
    rows = (await site.images.evictions(200))["next"]
    assert [row["digest"] for row in rows] == site.running.cache.blobs.digests()
    assert (await site.images.evictions(2))["next"] == rows[:2]
    owners = {row["digest"]: row["image"] for row in rows}
    assert owners == {
        **dict.fromkeys(parts(first), ONE),
        **dict.fromkeys(parts(second), f"docker.io/library/later@{second.digest}"),
        Digest.of(b"nobody's"): None,
    }
    assert all(row["size"] == orphan.size(row["digest"]) and row["used"] for row in rows)
    site.keeping.pin(ONE)
    assert {row["digest"] for row in (await site.images.evictions(200))["next"]} == set(owners) - parts(first)


# Pins


async def test_a_pinned_image_is_served_from_disk_after_a_flood_and_shown_as_pinned(open_site: OpenSite) -> None:
    made = image(1, 2)
    async with open_site(max_size=20_000) as site:
        await site.pull(made)
        answer = site.keeping.pin("app:1")
        assert answer == {"image": ONE, "digests": len(parts(made)), "bytes": size(made)}
        for seed in range(10, 20):
            await site.pull(image(seed, seed + 100), f"library/flood-{seed}")
        assert site.on_disk(made) == parts(made)
        (row,) = (await site.images.search("app:1"))["images"]
        assert (row["pinned"], row["held"]["disk"]) == (True, "whole")
        assert site.keeping.unpin(ONE) == answer
        (row,) = (await site.images.search("app:1"))["images"]
        assert not row["pinned"]


async def test_when_pins_fill_the_budget_new_content_passes_through(open_site: OpenSite) -> None:
    """B."""
    made, other = image(1, 2), image(3)
    async with open_site(max_size=size(made) + 100) as site:
        await site.pull(made)
        site.keeping.pin(ONE)
        await site.pull(other, "library/other")  # every byte arrives, verified
        assert site.on_disk(other) == set()
        assert site.on_disk(made) == parts(made)


async def test_a_pin_wants_a_cached_image_and_unpinning_says_which_pin_keeps_it(site: Site) -> None:
    with pytest.raises(ManifestUnknown):
        site.keeping.pin(ONE)
    made = image(1)
    await site.pull(made)
    with pytest.raises(NotPinned, match=r"docker.io/library/app:1 is not pinned$"):
        site.keeping.unpin(ONE)
    by_digest = f"docker.io/library/app@{made.digest}"
    site.keeping.pin(by_digest)
    with pytest.raises(NotPinned, match=f"not pinned by this name, but it is kept by the pin of {by_digest}"):
        site.keeping.unpin(ONE)
    site.keeping.unpin(by_digest)


# Purge


async def test_a_purge_removes_what_no_other_image_names_and_nothing_else(site: Site) -> None:
    """A."""
    made, same, elsewhere = image(1, 2, 3), image(1, note="same repository"), image(2, note="elsewhere")
    await site.pull(made)
    await site.pull(same, tag="2")
    await site.pull(elsewhere, "org/tool", "1", QUAY)
    others = parts(same, elsewhere)
    before = site.running.cache.blobs.accounted
    answer = await site.keeping.purge(ONE)
    assert site.on_disk(made, same, elsewhere) == others
    assert answer == {
        "image": ONE,
        "digests": len(parts(made) - others),
        "bytes": before - site.running.cache.blobs.accounted,
    }
    assert await site.names() == ["docker.io/library/app:2", "quay.io/org/tool:1"]
    asked = len(site.upstream.seen("manifests/1"))
    await site.pull(made)  # a client finds nothing of it here
    assert len(site.upstream.seen("manifests/1")) > asked
    assert site.on_disk(made) == parts(made)


async def test_a_purged_index_takes_its_images_along_but_not_those_with_tags_or_other_indexes(site: Site) -> None:
    alone, tagged, shared = image(1), image(2, architecture="arm64"), image(3, architecture="s390x")
    index, other = images.index([alone, tagged, shared]), images.index([shared])
    await site.pull(index)
    await site.pull(other, tag="other")
    await site.pull(tagged, tag="arm")
    await site.keeping.purge(ONE)
    assert site.on_disk(index, other, tagged) == parts(other, tagged)
    assert await site.names() == ["docker.io/library/app:arm", "docker.io/library/app:other"]


async def test_a_tag_goes_alone_while_another_points_at_the_same(site: Site) -> None:
    made = image(1)
    await site.pull(made)
    await site.pull(made, tag="stable")
    assert await site.keeping.purge(ONE) == {"image": ONE, "digests": 0, "bytes": 0}
    assert await site.names() == ["docker.io/library/app:stable"]
    assert site.on_disk(made) == parts(made)


async def test_a_digest_takes_its_tags_along(site: Site) -> None:
    made = image(1)
    await site.pull(made)
    await site.pull(made, tag="stable")
    answer = await site.keeping.purge(f"app@{made.digest}")
    assert (answer["digests"], await site.names(), site.on_disk(made)) == (len(parts(made)), [], set())


async def test_the_same_manifest_stays_for_another_repository(site: Site) -> None:
    made = image(1)
    await site.pull(made)
    await site.pull(made, "org/tool", "1", QUAY)
    assert (await site.keeping.purge(ONE))["digests"] == 0
    assert await site.names() == ["quay.io/org/tool:1"]
    assert site.on_disk(made) == parts(made)


async def test_neither_a_pinned_image_nor_a_part_of_another_is_purged(site: Site) -> None:
    child = image(1)
    both = images.index([child])
    await site.pull(both)
    site.keeping.pin(ONE)
    for name in (ONE, f"docker.io/library/app@{both.digest}"):
        with pytest.raises(Conflict, match=f"{re.escape(ONE)} is pinned; unpin it first"):
            await site.keeping.purge(name)
    site.keeping.unpin(ONE)
    with pytest.raises(Conflict, match="is part of another image of docker"):
        await site.keeping.purge(f"app@{child.digest}")
    with pytest.raises(ManifestUnknown):
        await site.keeping.purge("app:none")
    assert site.on_disk(both) == parts(both)


async def test_a_purge_leaves_what_a_pin_keeps_though_its_manifest_is_damaged(site: Site) -> None:
    pinned, other = image(1), image(1, 2, note="other")
    await site.pull(pinned)
    site.keeping.pin(ONE)
    await site.pull(other, tag="2")
    await site.running.cache.blobs.evict(Digest.parse(pinned.digest))
    answer = await site.keeping.purge("app:2")
    assert site.on_disk(pinned, other) == parts(pinned) - {pinned.digest}
    assert answer["digests"] == len(parts(other) - parts(pinned))


async def test_a_purge_survives_a_restart(open_site: OpenSite) -> None:
    made = image(1)
    async with open_site() as site:
        await site.pull(made)
        await site.keeping.purge(ONE)
    async with open_site() as site:
        assert (await site.names(), site.on_disk(made)) == ([], set())


# Refresh


async def test_a_refresh_asks_upstream_at_once_and_a_pin_follows(site: Site) -> None:
    old, new = image(1), image(2)
    await site.pull(old)
    site.keeping.pin(ONE)
    answer = await site.keeping.refresh(ONE)
    same = {"image": ONE, "before": old.digest, "after": old.digest, "changed": False, "confirmed": True}
    assert answer == same
    site.upstream.add(new, APP, "1")
    assert (await site.running.get(APP, "manifests/1")).digest == old.digest  # within its time
    assert await site.keeping.refresh("app:1") == {**same, "after": new.digest, "changed": True}
    assert (await site.running.get(APP, "manifests/1")).digest == new.digest
    (pin,) = site.running.cache.pins
    assert pin.digest == new.digest


async def test_a_refresh_of_a_tag_that_is_not_here_brings_its_manifest(site: Site) -> None:
    made = image(1)
    site.upstream.add(made, APP, "1")
    answer = await site.keeping.refresh(ONE)
    assert (answer["before"], answer["after"], answer["changed"]) == (None, made.digest, True)


async def test_a_refresh_never_answers_with_what_is_old(site: Site) -> None:
    await site.pull(image(1))
    site.upstream.script("manifests/1", then=refuse(503), method="HEAD")
    with pytest.raises(UpstreamFailure):
        await site.keeping.refresh(ONE)
    assert await site.names() == [ONE]  # upstream has said nothing


async def test_a_tag_that_upstream_has_deleted_is_gone_after_a_refresh(site: Site) -> None:
    await site.pull(image(1))
    site.upstream.remove_tag(APP, "1")
    with pytest.raises(ManifestUnknown):
        await site.keeping.refresh(ONE)
    assert site.running.cache.catalog.tag(Repository(HUB, APP), Tag("1")) is None


async def test_a_deleted_tag_that_is_to_be_served_stays_after_a_refresh(open_site: OpenSite) -> None:
    async with open_site(policy=TagPolicy(keep_deleted=True)) as site:
        await site.pull(image(1))
        site.upstream.remove_tag(APP, "1")
        with pytest.raises(ManifestUnknown):
            await site.keeping.refresh(ONE)
        assert await site.names() == [ONE]


async def test_a_digest_is_not_refreshed(site: Site) -> None:
    with pytest.raises(RequestError, match="is a digest, which never changes; name a tag"):
        await site.keeping.refresh(f"app@{image(1).digest}")


async def test_a_tag_that_upstream_denies_is_gone_after_a_refresh(site: Site) -> None:
    await site.pull(image(1))
    site.upstream.script("manifests/1", then=refuse(403), method="HEAD")
    with pytest.raises(Denied):
        await site.keeping.refresh(ONE)
    assert site.running.cache.catalog.tag(Repository(HUB, APP), Tag("1")) is None

"""Pins: what is pinned stays with all that it names, through evictions, moves and restarts, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from proxy.cache import pins
from proxy.cache.catalog import TagRecord
from proxy.cache.ledger import Record
from proxy.cache.sweep import sweep
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure, RequestError
from proxy.oci.figures import sized
from proxy.oci.manifest import parse_manifest
from proxy.oci.names import Repository, Tag
from tests.cache.disks import Opened, content, opened
from tests.support import images
from tests.support.images import Manifest

pytestmark = pytest.mark.anyio

APP: Final = Repository("docker.io", "library/app")
OTHER: Final = Repository("ghcr.io", "org/other")
ONE: Final = Tag("1")


def image(*seeds: int, size: int = 1000, note: str = "") -> Manifest:
    """An image with a layer of `size` bytes for each of the seeds."""
    return images.image([images.blob(content(size, seed)) for seed in seeds], note=note)


def digests(manifest: Manifest) -> set[Digest]:
    """All that a whole image consists of."""
    blobs = manifest.all_blobs()
    return {Digest.parse(digest) for digest in (*blobs, *(part.digest for part in manifest.walk()))}


def size(manifest: Manifest) -> int:
    return manifest.total_size + sum(len(part.body) for part in manifest.walk())


def know(cache: Opened, manifest: Manifest, repository: Repository = APP) -> None:
    """The repository holds the manifest."""
    cache.cache.catalog.add_manifest(repository, parse_manifest(manifest.body, manifest.media_type))


def point(cache: Opened, manifest: Manifest, repository: Repository = APP, tag: Tag = ONE) -> None:
    cache.cache.catalog.set_tag(repository, tag, TagRecord(Digest.parse(manifest.digest), cache.clock.now))


async def pull(cache: Opened, manifest: Manifest, repository: Repository = APP, tag: Tag = ONE) -> None:
    """As a client pulls all of it by its tag: manifests from the top, then the blobs."""
    for part in reversed(list(manifest.walk())):
        await cache.keep(part.body)
        know(cache, part, repository)
        if part is manifest:
            point(cache, manifest, repository, tag)
    for blob in manifest.all_blobs().values():
        await cache.keep(blob.read())


def pin(cache: Opened, manifest: Manifest, repository: Repository = APP, tag: Tag = ONE) -> None:
    cache.cache.pins.pin(repository, tag, Digest.parse(manifest.digest))


async def flood(cache: Opened, total: int) -> None:
    """So many bytes of something else arrive, in small blobs."""
    for seed in range(1000, 1000 + total // 500):
        await cache.keep(content(500, seed))


async def test_a_pinned_image_stays_whole_while_everything_else_goes(tmp_path: Path) -> None:
    """A."""
    pinned, other = image(1, 2), image(3)
    async with opened(tmp_path, max_size=10_000) as cache:
        await pull(cache, pinned)
        await pull(cache, other, OTHER)
        pin(cache, pinned)
        await flood(cache, 30_000)
        assert {digest for digest in digests(pinned) | digests(other) if digest in cache.store} == digests(pinned)
        assert cache.store.pinned == size(pinned)
        assert cache.store.accounted <= 10_000
        cache.assert_exact()


async def test_what_is_unpinned_goes_again_but_not_first(tmp_path: Path) -> None:
    pinned = image(1)
    async with opened(tmp_path, max_size=10_000) as cache:
        await pull(cache, pinned)
        pin(cache, pinned)
        later = await cache.keep(content(2000))
        cache.cache.pins.unpin(APP, ONE)
        assert cache.store.used(Digest.parse(pinned.digest)) == cache.clock.now  # so that it stays so after a restart
        assert [digest for digest, _ in cache.store.next_to_go(1)] == [later]
        assert cache.store.pinned == 0
        await flood(cache, 30_000)
        assert not {digest for digest in digests(pinned) if digest in cache.store}
        cache.assert_exact()


async def test_a_layer_that_two_pinned_images_share_stays_until_both_are_unpinned(tmp_path: Path) -> None:
    first, second = image(1, 2), image(1, 3, note="second")
    shared = digests(first) & digests(second)
    assert Digest.of(content(1000, 1)) in shared
    async with opened(tmp_path, max_size=10_000) as cache:
        for manifest, repository in ((first, APP), (second, OTHER)):
            await pull(cache, manifest, repository)
            pin(cache, manifest, repository)
        cache.cache.pins.unpin(APP, ONE)
        await flood(cache, 30_000)
        assert {digest for digest in digests(first) if digest in cache.store} == shared
        cache.cache.pins.unpin(OTHER, ONE)
        await flood(cache, 30_000)
        assert not {digest for digest in shared if digest in cache.store}


async def test_pins_outlive_a_restart(tmp_path: Path) -> None:
    """K."""
    pinned = image(1, 2)
    async with opened(tmp_path, max_size=10_000) as cache:
        await pull(cache, pinned)
        await pull(cache, image(3), OTHER)
        pin(cache, pinned)
        pin(cache, image(3), OTHER)
        cache.cache.pins.unpin(OTHER, ONE)
        since = cache.clock.now
    async with opened(tmp_path, max_size=10_000) as cache:
        await sweep(cache.store, cache.cache.catalog)
        assert [(str(pin.image), pin.since) for pin in cache.cache.pins] == [("docker.io/library/app:1", since)]
        await flood(cache, 30_000)
        assert {digest for digest in digests(pinned) if digest in cache.store} == digests(pinned)
        assert cache.store.pinned == size(pinned)


async def test_a_smaller_budget_after_a_restart_takes_everything_but_the_pinned(tmp_path: Path) -> None:
    pinned = image(1, 2)
    async with opened(tmp_path) as cache:
        await pull(cache, pinned)
        pin(cache, pinned)
        await pull(cache, image(3), OTHER)
    async with opened(tmp_path, max_size=100) as cache:
        await sweep(cache.store, cache.cache.catalog)
        assert set(cache.store.digests()) == digests(pinned)
        cache.assert_exact()


async def test_a_pin_follows_its_tag_and_lets_go_of_what_the_tag_was(tmp_path: Path) -> None:
    old, new = image(1, 2), image(2, 3)
    async with opened(tmp_path, max_size=10_000) as cache:
        await pull(cache, old)
        pin(cache, old)
        await pull(cache, new)
        await flood(cache, 30_000)
        both = digests(old) | digests(new)
        assert {digest for digest in both if digest in cache.store} == digests(new)
        assert cache.store.pinned == size(new)
        cache.cache.catalog.drop_tag(APP, ONE)
    async with opened(tmp_path, max_size=10_000) as cache:
        (kept,) = cache.cache.pins
        assert kept.digest == new.digest
        assert cache.store.pinned == size(new)


async def test_where_a_tag_points_counts_more_than_what_its_pin_remembers(tmp_path: Path) -> None:
    """K: a kill between the two ledgers."""
    old, new = image(1, 2), image(2, 3)
    async with opened(tmp_path) as cache:
        await pull(cache, new)
        cache.cache.register("pins").note(f"{APP} {ONE}", [old.digest, 1.0])
    async with opened(tmp_path) as cache:
        assert cache.store.pinned == size(new)


async def test_a_pin_by_digest_stays_where_it_is_when_the_tag_moves(tmp_path: Path) -> None:
    old, new = image(1), image(2)
    async with opened(tmp_path, max_size=10_000) as cache:
        await pull(cache, old)
        digest = Digest.parse(old.digest)
        cache.cache.pins.pin(APP, digest, digest)
        await pull(cache, new)
        await flood(cache, 30_000)
        assert {digest for digest in digests(old) | digests(new) if digest in cache.store} == digests(old)


async def test_what_is_pulled_of_a_pinned_index_later_stays_as_well(tmp_path: Path) -> None:
    amd, arm = image(1), images.image([images.blob(content(1000, 2))], architecture="arm64")
    both = images.index([amd, arm])
    async with opened(tmp_path, max_size=10_000) as cache:
        await cache.keep(both.body)
        know(cache, both)
        point(cache, both)
        pin(cache, both)
        await pull(cache, both)
        await flood(cache, 30_000)
        assert {digest for digest in digests(both) if digest in cache.store} == digests(both)


async def test_a_tag_that_upstream_deleted_and_a_manifest_that_was_damaged_release_nothing(tmp_path: Path) -> None:
    pinned = image(1, 2)
    root = Digest.parse(pinned.digest)
    async with opened(tmp_path, max_size=10_000) as cache:
        await pull(cache, pinned)
        pin(cache, pinned)
        cache.cache.catalog.drop_tag(APP, ONE)
        await cache.store.evict(root)  # what is damaged goes, pinned or not
        await flood(cache, 30_000)
        assert {digest for digest in digests(pinned) if digest in cache.store} == digests(pinned) - {root}
        await pull(cache, pinned)
        await flood(cache, 30_000)
        assert root in cache.store


async def test_when_pins_leave_no_room_nothing_is_evicted_and_the_reason_says_so(tmp_path: Path) -> None:
    """A, B."""
    pinned, other = image(1, 2), content(500)
    async with opened(tmp_path, max_size=size(pinned) + 600) as cache:
        await pull(cache, pinned)
        pin(cache, pinned)
        kept = await cache.keep(other)
        with pytest.raises(DiskFailure, match=rf"and {sized(size(pinned))} that are pinned \(unpin an image"):
            await cache.store.begin(Digest.of(b"x"), 700)
        assert kept in cache.store
        assert cache.store.trouble == ""  # what fits is still kept
        assert cache.store.crowded.startswith("no room for 700 bytes beside 0 bytes that are arriving and ")
        cache.cache.pins.unpin(APP, ONE)
        await cache.keep(content(700))
        assert cache.store.crowded == ""
        cache.assert_exact()


async def test_a_client_of_a_pinned_image_takes_nothing_from_its_place(tmp_path: Path) -> None:
    """A use is remembered, and the order of the others is theirs."""
    pinned = image(1)
    async with opened(tmp_path) as cache:
        await pull(cache, pinned)
        pin(cache, pinned)
        first, second = await cache.keep(content(10)), await cache.keep(content(20))
        root = Digest.parse(pinned.digest)
        assert await cache.read(root) == pinned.body
        assert cache.store.used(root) == cache.clock.now
        assert [digest for digest, _ in cache.store.next_to_go(10)] == [first, second]
        assert (root in cache.store, cache.store.size(root)) == (True, len(pinned.body))


async def test_records_that_say_nothing_are_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as cache:
        register = cache.cache.register("pins")
        records: dict[str, Record] = {"docker.io/a 1": [], "docker.io/A 1": ["x", 1], "": [1, 2], "a/b :": [{}, "x"]}
        for key, record in records.items():
            register.note(key, record)
    async with opened(tmp_path) as cache:
        assert len(cache.cache.pins) == 0
    async with opened(tmp_path) as cache:
        assert cache.cache.register("pins").held == {}


async def test_only_so_many_images_can_be_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "MAX_PINS", 1)
    async with opened(tmp_path) as cache:
        pin(cache, image(1))
        pin(cache, image(1))  # once more is no other
        with pytest.raises(RequestError, match="1 images are pinned, which is the limit; unpin some"):
            pin(cache, image(2), OTHER)

"""The catalog: only a repository that was seen to hold a digest gives it out, before and after a restart."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.catalog import Catalog, TagRecord
from proxy.cache.ledger import Record
from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest, parse_manifest
from proxy.oci.names import Repository
from tests.support import images

PUBLIC, PRIVATE = Repository("ghcr.io", "org/public"), Repository("ghcr.io", "org/private")
CHILD = images.artifact(images.EMPTY_CONFIG, [images.blob(b"one"), images.blob(b"two")])
OTHER = images.artifact(images.EMPTY_CONFIG, [images.blob(b"two")])
INDEX = images.index([CHILD, OTHER])
ONE, TWO = (Digest.parse(part.digest) for part in CHILD.blobs[1:])


def read(image: images.Manifest) -> Manifest:
    return parse_manifest(image.body, image.media_type)


def restored(records: dict[str, Record]) -> Catalog:
    catalog = Catalog(lambda *_, **__: None)
    catalog.restore(records)
    return catalog


def noting() -> tuple[Catalog, dict[str, Record]]:
    """A catalog, and what a ledger would hold of it."""
    held: dict[str, Record] = {}

    def note(key: str, record: Record | None, **_: Any) -> None:
        if record is None:
            held.pop(key, None)
        else:
            held[key] = record

    return Catalog(note), held


def test_a_repository_holds_what_its_manifests_name_and_no_other_does() -> None:
    """Row 38; S: CVE-2024-39897."""
    catalog, _ = noting()
    catalog.add_manifest(PRIVATE, read(CHILD))
    assert catalog.blob_size(PRIVATE, ONE) == 3
    assert catalog.media_type(PRIVATE, read(CHILD).digest) == images.OCI_MANIFEST
    assert catalog.blob_size(PUBLIC, ONE) is None
    assert catalog.media_type(PUBLIC, read(CHILD).digest) is None
    assert catalog.blob_size(Repository("quay.io", PRIVATE.path), ONE) is None
    catalog.add_blob(PUBLIC, ONE, 3)
    assert catalog.blob_size(PUBLIC, ONE) == 3
    assert catalog.blob_size(PUBLIC, TWO) is None


def test_what_is_forgotten_with_a_manifest_is_only_what_no_other_manifest_names() -> None:
    """Row 38; S."""
    catalog, held = noting()
    for image in (CHILD, OTHER, INDEX):
        catalog.add_manifest(PRIVATE, read(image))
    catalog.set_tag(PRIVATE, "1", TagRecord(read(CHILD).digest, 1.0))
    catalog.set_tag(PRIVATE, "2", TagRecord(read(OTHER).digest, 1.0))
    catalog.forget(read(CHILD).digest)
    assert catalog.blob_size(PRIVATE, ONE) is None
    assert catalog.blob_size(PRIVATE, TWO) == 3
    assert catalog.tags(PRIVATE) == ["2"]
    assert catalog.media_type(PRIVATE, read(CHILD).digest) is None
    assert held == catalog.records()
    catalog.forget(read(OTHER).digest)
    catalog.forget(read(INDEX).digest)
    assert catalog.repositories() == []
    assert held == {}


def test_after_a_restart_the_catalog_knows_the_same() -> None:
    """K S."""
    catalog, held = noting()
    catalog.add_manifest(PRIVATE, read(INDEX))
    catalog.add_manifest(PUBLIC, read(OTHER))
    catalog.add_blob(PUBLIC, ONE, 3)
    catalog.set_tag(PUBLIC, "latest", TagRecord(read(OTHER).digest, 12.25))
    catalog.set_tag(PUBLIC, f"referrers/{ONE}", TagRecord(read(INDEX).digest, 1.0))
    again = restored(held)
    assert again.records() == catalog.records() == {key: [*record] for key, record in held.items()}
    assert again.tag(PUBLIC, "latest") == TagRecord(read(OTHER).digest, 12.25)
    assert again.tags(PUBLIC) == ["latest"]
    assert again.blob_size(PUBLIC, ONE) == 3
    assert again.blob_size(PRIVATE, ONE) is None
    again.keep_only([read(OTHER).digest])
    assert again.repositories() == [PUBLIC]
    assert again.blob_size(PUBLIC, ONE) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(str(ONE)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
keys = st.builds(
    "{} {} {}".format,
    st.sampled_from(["t", "m", "h", "b", "x", ""]),
    st.sampled_from([str(PUBLIC), "docker.io", "/", "no upstream/X", ""]),
    st.sampled_from([str(ONE), "latest", "sha256:x", ""]),
)


@given(st.dictionaries(keys | st.text(max_size=10), st.lists(values, max_size=3), max_size=6))
def test_records_that_make_no_sense_are_skipped_and_never_keep_the_program_from_starting(
    records: dict[str, Record],
) -> None:
    """Row 29; B."""
    catalog = restored(records)
    for repository in catalog.repositories():
        assert Repository.parse(repository.upstream, repository.path).path
    catalog.keep_only([])
    assert catalog.repositories() == []

"""Manifests: whatever upstream sends is either a manifest that fits its type and bounds, or refused as such."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.oci.digest import Digest
from proxy.oci.errors import UpstreamInvalid
from proxy.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    MAX_DESCRIPTORS,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    parse_manifest,
)
from tests.support import images
from tests.unit import grammar

SHA = "sha256:" + "a" * 64

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
descriptors = st.fixed_dictionaries(
    {},
    optional={
        "digest": st.one_of(grammar.digests, grammar.near_digests, json_values),
        "size": st.one_of(st.integers(-1, 1 << 64), json_values),
        "mediaType": st.one_of(st.sampled_from([OCI_MANIFEST, ""]), json_values),
        "platform": st.one_of(st.fixed_dictionaries({"os": json_values, "architecture": st.text()}), json_values),
    },
)
media_types = st.one_of(
    st.sampled_from([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "text/plain", "application/json", ""]),
    st.text(max_size=30),
)
documents = st.fixed_dictionaries(
    {"schemaVersion": st.sampled_from([2, 2, 2, 1, "2", None])},
    optional={
        "mediaType": st.one_of(media_types, json_values),
        "manifests": st.one_of(st.lists(descriptors | json_values, max_size=3), json_values),
        "layers": st.one_of(st.lists(descriptors, max_size=3), json_values),
        "blobs": st.one_of(st.lists(descriptors, max_size=3), json_values),
        "config": descriptors | json_values,
        "subject": descriptors | json_values,
    },
)
bodies = st.one_of(
    documents.map(lambda document: json.dumps(document).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
)


def parsed(body: bytes, content_type: str = OCI_MANIFEST) -> Manifest:
    return parse_manifest(body, content_type)


def document(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


@given(bodies, media_types)
def test_whatever_upstream_sends_is_a_sound_manifest_or_refused_as_invalid(body: bytes, content_type: str) -> None:
    """Rows 34 and 35; P H."""
    try:
        found = parse_manifest(body, content_type)
    except UpstreamInvalid:
        return
    assert found.body == body
    assert found.digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert found.is_index == (found.media_type in INDEXES) == ("manifests" in json.loads(body))
    assert not found.is_index or not found.blobs
    # It goes out as the Content-Type header.
    assert re.fullmatch(r"[!-~]+/[!-~]+", found.media_type)
    for descriptor in (*found.children, *found.blobs):
        assert grammar.is_digest(descriptor.digest)
        assert 0 <= descriptor.size < 1 << 63


@given(bodies, media_types, grammar.digests)
def test_bytes_that_do_not_hash_to_what_was_asked_for_are_refused_before_they_are_read(
    body: bytes, content_type: str, digest: str
) -> None:
    """Row 3; P."""
    with pytest.raises(UpstreamInvalid, match="nothing of it was kept"):
        parse_manifest(body, content_type, Digest.parse(digest))


def test_every_kind_of_image_and_artifact_is_read_as_what_it_is() -> None:
    image = images.artifact(images.OCI_CONFIG, [images.blob(b"layer")])
    index = images.index([image], docker=True)
    read = parse_manifest(image.body, image.media_type, Digest.parse(image.digest))
    assert {found.digest for found in read.blobs} == set(image.all_blobs())
    read = parse_manifest(index.body, index.media_type)
    assert [found.digest for found in read.children] == [image.digest]
    signed = images.artifact(images.OCI_CONFIG, [], subject=image)
    assert parse_manifest(signed.body, signed.media_type).subject == image.digest


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"schemaVersion":2,"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"schemaVersion":2,"config":' + b'{"config":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"schemaVersion":2,"layers":[{"size":' + b"9" * 10_000 + b"}]}",
        b'{"schemaVersion":2,"layers":[{"size":1e999,"digest":"' + SHA.encode() + b'"}]}',
        b'{"schemaVersion":2,"layers":[{"size":NaN,"digest":"' + SHA.encode() + b'"}]}',
        b"\xff\xfe\x00\xd8",
        b"\x00" * 1000,
        b"",
    ],
)
def test_nesting_and_numbers_beyond_reason_are_contained(body: bytes) -> None:
    """Row 34; H: a RecursionError goes no further."""
    with pytest.raises(UpstreamInvalid):
        parsed(body)


def test_an_image_may_carry_deep_nesting_that_is_none_of_our_business_only_as_far_as_json_goes() -> None:
    """Row 34; H."""
    deep = "[" * 500 + "]" * 500
    body = b'{"schemaVersion":2,"layers":[],"annotations":' + deep.encode() + b"}"
    assert parsed(body).body == body


@pytest.mark.parametrize("other", ["config", "layers", "blobs"])
def test_a_document_that_is_an_index_and_an_image_at_once_is_refused(other: str) -> None:
    """Row 35; P: CVE-2021-41190."""
    item: Any = {"digest": SHA, "size": 1, "mediaType": "x/y"}
    body = document(manifests=[], **{other: item if other == "config" else [item]})
    for content_type in (OCI_INDEX, OCI_MANIFEST, "application/json"):
        with pytest.raises(UpstreamInvalid, match=r"ambiguous|does not fit"):
            parse_manifest(body, content_type)
    with pytest.raises(UpstreamInvalid, match="CVE-2021-41190"):
        parse_manifest(body, OCI_INDEX)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (document(manifests=[]), OCI_MANIFEST, "does not fit its type"),
        (document(layers=[]), DOCKER_LIST, "does not fit its type"),
        (document(layers=[], mediaType=OCI_MANIFEST), DOCKER_MANIFEST, "its Content-Type says"),
        (document(layers=[], mediaType="x/y\r\nSet-Cookie: a=b"), "application/json", "is not a media type"),
        (document(layers=[], mediaType="application/\u212a"), "", "is not a media type"),
        (document(layers=[]), "text/h\xf6rbar", "is not a media type"),
        (document(layers=[], mediaType=7), "", "mediaType is not a string"),
        (json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(), DOCKER_MANIFEST, "schema version 2"),
        (b"<html>captive portal</html>", "text/html", "not a JSON manifest"),
        (document(layers={}), OCI_MANIFEST, "not a list"),
        (document(layers=[1]), OCI_MANIFEST, "not an object"),
        (document(layers=[{"digest": SHA, "size": True}]), OCI_MANIFEST, "without a valid size"),
        (document(layers=[{"digest": SHA, "size": 1 << 63}]), OCI_MANIFEST, "without a valid size"),
        (document(layers=[{"digest": 1, "size": 1}]), OCI_MANIFEST, "not a string"),
        (document(subject=[1]), OCI_MANIFEST, "not an object"),
        (document(layers=[{}] * (MAX_DESCRIPTORS + 1)), OCI_MANIFEST, "the limit is 10000"),
        (b" " * (MAX_MANIFEST + 1), OCI_MANIFEST, f"larger than {MAX_MANIFEST} bytes"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(body: bytes, content_type: str, message: str) -> None:
    """Rows 33 to 35 and 39; P S."""
    with pytest.raises(UpstreamInvalid, match=message):
        parse_manifest(body, content_type)


@pytest.mark.parametrize(
    ("content_type", "stated", "expected"),
    [
        (f"{OCI_MANIFEST}; charset=utf-8", None, OCI_MANIFEST),
        ("application/json", DOCKER_MANIFEST, DOCKER_MANIFEST),
        ("", None, OCI_MANIFEST),
        ("text/plain", "", OCI_MANIFEST),
        (OCI_MANIFEST.upper(), OCI_MANIFEST, OCI_MANIFEST),
        ("application/vnd.Made.Up+json", "application/vnd.Made.Up+json", "application/vnd.made.up+json"),
    ],
)
def test_the_type_is_the_headers_or_where_that_is_generic_the_bodys(
    content_type: str, stated: str | None, expected: str
) -> None:
    body = document(layers=[], **({} if stated is None else {"mediaType": stated}))
    assert parse_manifest(body, content_type).media_type == expected


def test_a_digest_that_cannot_be_verified_is_left_out_and_the_manifest_passes() -> None:
    body = document(layers=[{"digest": "blake3:abc", "size": 1}, {"digest": SHA, "size": 2}])
    assert [found.digest for found in parsed(body).blobs] == [SHA]

"""What has to be pushed of an image, and what ECR never takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.ecr.errors import Rejected
from proxy.ecr.image import MAX_LAYER, MAX_MANIFEST, check, children, choose, layers, shortfall
from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest, parse_manifest
from tests.ecr.pond import three_platforms
from tests.support import images


def parsed(made: images.Manifest) -> Manifest:
    return parse_manifest(made.body, made.media_type, Digest.parse(made.digest))


def of_platforms(*platforms: str | None) -> tuple[Manifest, list[str]]:
    """An index with an entry for each platform, and the digests in its order."""
    entries: list[dict[str, Any]] = []
    for number, platform in enumerate(platforms):
        entry: dict[str, Any] = {"mediaType": images.OCI_MANIFEST, "digest": Digest.of(b"%d" % number), "size": 9}
        if platform:
            system, architecture, *variant = platform.split("/")
            entry["platform"] = {"os": system, "architecture": architecture, "variant": "".join(variant)}
        entries.append(entry)
    body = json.dumps({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": entries}).encode()
    return parse_manifest(body, images.OCI_INDEX), [entry["digest"] for entry in entries]


def described(*descriptors: dict[str, Any]) -> Manifest:
    """An image with these layers, and a small config."""
    document = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": images.blob(b"{}", images.OCI_CONFIG).descriptor(),
        "layers": list(descriptors),
    }
    return parse_manifest(json.dumps(document).encode(), images.OCI_MANIFEST)


def test_all_platforms_are_all_children_with_what_was_pulled_first() -> None:
    index = parsed(three_platforms(attested=True))
    pulled = index.children[2].digest

    chosen = [child.digest for child in choose(children(index), "all", {pulled})]

    assert chosen[0] == pulled
    assert set(chosen) == {child.digest for child in index.children}
    assert len(chosen) == 6


def test_attestations_go_with_the_image_that_they_are_of() -> None:
    index = parsed(three_platforms(attested=True))
    amd64, arm64, _, _, of_arm64, _ = (child.digest for child in index.children)

    assert [child.digest for child in choose(children(index), "pulled", {arm64})] == [arm64, of_arm64]
    assert amd64 not in {child.digest for child in choose(children(index), ("linux/arm64",), set())}
    assert {child.digest for child in choose(children(index), ("linux/arm64",), set())} == {arm64, of_arm64}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", ["linux/amd64", "linux/amd64/v3"]),
        ("linux/amd64/v1", ["linux/amd64"]),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"]),
        ("linux/arm/v7", ["linux/arm/v7"]),
        ("linux/arm64/v8", ["linux/arm64"]),
        ("linux/arm64", ["linux/arm64"]),
        ("windows/amd64", ["windows/amd64"]),
        ("linux/riscv64", []),
    ],
)
def test_a_listed_platform_without_a_variant_means_all_of_them(wanted: str, chosen: list[str]) -> None:
    platforms = ["linux/amd64", "linux/amd64/v3", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "windows/amd64"]
    index, digests = of_platforms(*platforms)

    found = {child.digest for child in choose(children(index), (wanted,), set())}

    assert [platform for platform, digest in zip(platforms, digests, strict=True) if digest in found] == chosen


@pytest.mark.parametrize("named", [None, 7, ["sha256:x"], {}, "sha256:none", "itself"])
def test_an_annotation_that_names_no_sibling_makes_no_attestation(named: Any) -> None:
    index, digests = of_platforms(None, "linux/arm64")
    document = json.loads(index.body)
    value = digests[0] if named == "itself" else named
    document["manifests"][0]["annotations"] = {"vnd.docker.reference.digest": value}
    made = parse_manifest(json.dumps(document).encode(), images.OCI_INDEX)

    assert [child.attests for child in children(made)] == [None, None]


def test_what_is_for_no_platform_is_for_all() -> None:
    index, digests = of_platforms(None, "linux/arm64")

    assert [child.digest for child in choose(children(index), ("linux/amd64",), set())] == digests[:1]


def test_an_index_that_lacks_platforms_says_how_many() -> None:
    index = parsed(three_platforms(attested=True))
    entries = children(index)
    digests = [child.digest for child in entries]

    assert shortfall(entries, set(digests)) == ""
    assert shortfall(entries, set(digests[:2])) == "the index stays on disk only: 2 of 3 platforms are pushed"
    assert "not all of their attestations" in shortfall(entries, set(digests[:5]))


def test_a_blob_that_is_named_twice_is_pushed_once() -> None:
    layer = images.blob(b"the same", images.OCI_LAYER).descriptor()

    assert [blob.digest for blob in layers(described(layer, layer))][1:] == [layer["digest"]]


def test_foreign_layers_are_not_pushed() -> None:
    own = images.blob(b"own", images.OCI_LAYER).descriptor()
    elsewhere = images.foreign_layer("https://elsewhere.example/layer").descriptor()
    restricted = {**images.blob(b"restricted").descriptor(), "mediaType": images.OCI_FOREIGN_LAYER}

    assert [blob.digest for blob in layers(described(own, elsewhere, restricted))][1:] == [own["digest"]]


def test_a_layer_that_is_too_large_is_refused_with_both_sizes() -> None:
    layer = images.blob(b"x", images.OCI_LAYER).descriptor()

    assert layers(described({**layer, "size": MAX_LAYER}))
    with pytest.raises(Rejected, match="53,000 MiB; ECR takes 42,000 by its API"):
        layers(described({**layer, "size": 53_000 << 20}))


def test_a_manifest_that_is_too_large_is_refused() -> None:
    padding = "x" * MAX_MANIFEST
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [], "annotations": {"p": padding}}
    )

    with pytest.raises(Rejected, match=f"ECR takes {MAX_MANIFEST}"):
        check(parse_manifest(body.encode(), images.OCI_INDEX))


@pytest.mark.parametrize("algorithm", ["sha512", "blake3"])
def test_content_by_another_digest_than_sha256_is_refused(algorithm: str) -> None:
    strange = {**images.blob(b"x").descriptor(), "digest": f"{algorithm}:{'a' * 128}"}

    with pytest.raises(Rejected, match="sha256"):
        layers(described(strange))


def test_a_manifest_by_sha512_is_refused() -> None:
    body = described().body

    with pytest.raises(Rejected, match="sha256"):
        check(parse_manifest(body, images.OCI_MANIFEST, Digest.of(body, "sha512")))

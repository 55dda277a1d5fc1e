"""The ECR double refuses what ECR refuses, and notes what no right client does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.ecr.conftest import MakeClient
from tests.support import images
from tests.support.ecr import EcrDouble, limits
from tests.support.ecr.pushes import code_of, push, push_layer, put_image, refused, send_parts, sha256

SMALL_PARTS = pytest.mark.parametrize("cloud", [{"part_size": 1000, "min_part": 500}], indirect=True)
CHART = images.chart()
DATA = b"".join(images.noise(3500, 1))


@pytest.fixture
def ecr(make_client: MakeClient, cloud: EcrDouble) -> Iterator[Any]:
    """A client of the double with one empty repository, called app. Whatever happened must have a name in the API."""
    client = make_client()
    client.create_repository(repositoryName="app")
    yield client
    for call in cloud.calls:
        assert call.outcome in limits.errors_of(call.operation) | {"ok"}


def test_an_answer_has_no_member_that_the_api_does_not_have() -> None:
    limits.check_answer("BatchGetImage", {"images": [{"imageId": {"imageTag": "1"}}], "failures": []})
    with pytest.raises(AssertionError, match="imageName"):
        limits.check_answer("BatchGetImage", {"images": [{"imageId": {"imageName": "1"}}]})


def test_an_image_of_a_missing_repository_is_refused(ecr: Any) -> None:
    assert code_of(put_image, ecr, "none", CHART) == "RepositoryNotFoundException"
    unknown = {"repositoryName": "none", "layerDigest": sha256(b"x")}
    assert code_of(ecr.get_download_url_for_layer, **unknown) == "RepositoryNotFoundException"


@SMALL_PARTS
def test_a_call_that_names_a_registry_goes_there(ecr: Any, cloud: EcrDouble) -> None:
    ecr.create_repository(repositoryName="there", registryId="999988887777")
    assert list(cloud.registry("999988887777").repositories) == ["there"]
    assert cloud.count("CreateRepository", account="999988887777", repositoryName="there") == 1


@SMALL_PARTS
def test_a_layer_is_sent_to_a_repository_once(ecr: Any) -> None:
    push_layer(ecr, "app", DATA)
    assert code_of(push_layer, ecr, "app", DATA) == "LayerAlreadyExistsException"


@SMALL_PARTS
def test_of_many_who_send_a_layer_at_once_one_is_first(ecr: Any, cloud: EcrDouble) -> None:
    def send() -> str:
        try:
            push_layer(ecr, "app", DATA)
        except ecr.exceptions.LayerAlreadyExistsException:
            return "exists"
        return "first"

    with ThreadPoolExecutor(8) as threads:
        outcomes = [each.result() for each in [threads.submit(send) for _ in range(16)]]
    assert sorted(outcomes) == ["exists"] * 15 + ["first"]
    assert cloud.registry().repositories["app"].layers == {sha256(DATA): DATA}
    assert cloud.registry().repositories["app"].uploads == {}


def test_an_upload_without_bytes_is_no_layer(ecr: Any) -> None:
    assert code_of(push_layer, ecr, "app", b"") == "EmptyUploadException"


@SMALL_PARTS
@pytest.mark.parametrize(
    ("wrong", "code", "violation"),
    [
        ({"part_size": 499}, "LayerPartTooSmallException", "smaller than 500"),
        ({"part_size": 1001}, "InvalidLayerPartException", "a part of 1001 bytes"),
    ],
)
@pytest.mark.violates
def test_a_part_of_a_wrong_size_is_refused(
    ecr: Any, cloud: EcrDouble, wrong: dict[str, int], code: str, violation: str
) -> None:
    assert code_of(push_layer, ecr, "app", DATA, **wrong) == code
    assert len(cloud.violations) == 1
    assert violation in cloud.violations[0]


@pytest.mark.violates
def test_a_part_is_as_long_as_its_range(ecr: Any, cloud: EcrDouble) -> None:
    upload = ecr.initiate_layer_upload(repositoryName="app")["uploadId"]
    part = {"partFirstByte": 0, "partLastByte": 5, "layerPartBlob": b"12345"}
    assert code_of(ecr.upload_layer_part, repositoryName="app", uploadId=upload, **part) == "InvalidLayerPartException"
    assert "bytes 0 to 5" in cloud.violations[0]


@SMALL_PARTS
@pytest.mark.violates
def test_a_layer_has_the_digest_that_was_said(ecr: Any, cloud: EcrDouble) -> None:
    done = {"repositoryName": "app", "uploadId": send_parts(ecr, "app", DATA), "layerDigests": [sha256(b"other")]}
    assert code_of(ecr.complete_layer_upload, **done) == "InvalidLayerException"
    assert sha256(DATA) in cloud.violations[0]
    assert cloud.registry().repositories["app"].layers == {}


@SMALL_PARTS
@pytest.mark.violates
def test_an_image_comes_after_its_layers(ecr: Any, cloud: EcrDouble) -> None:
    answer = refused(put_image, ecr, "app", CHART, "1.0")
    assert answer["Error"]["Code"] == "LayersNotFoundException"
    assert all(blob.digest in answer["Error"]["Message"] for blob in CHART.blobs)
    assert cloud.registry().missing("app", "1.0") == ["1.0"]
    assert CHART.digest in cloud.violations[0]


@SMALL_PARTS
@pytest.mark.violates
def test_an_index_before_its_images_is_refused(ecr: Any, cloud: EcrDouble) -> None:
    assert code_of(put_image, ecr, "app", images.index([CHART])) == "ReferencedImagesNotFoundException"
    assert CHART.digest in cloud.violations[0]


@SMALL_PARTS
def test_what_the_registry_lost_is_no_fault_of_the_client(ecr: Any, cloud: EcrDouble) -> None:
    push(ecr, "app", CHART, "1.0")
    cloud.registry().repositories["app"].lose_image(CHART.digest)
    assert code_of(put_image, ecr, "app", CHART, "1.0") == "LayersNotFoundException"
    push(ecr, "app", CHART, "1.0")
    assert cloud.registry().missing("app", "1.0") == []


def test_foreign_layers_need_not_be_there(ecr: Any) -> None:
    foreign = images.image([images.foreign_layer("http://elsewhere.test/layer")])
    push(ecr, "app", foreign, "1.0")


@SMALL_PARTS
@pytest.mark.violates
def test_an_image_has_the_digest_that_was_said(ecr: Any, cloud: EcrDouble) -> None:
    wrong = {"imageDigest": sha256(b"other")}
    assert code_of(put_image, ecr, "app", CHART, **wrong) == "ImageDigestDoesNotMatchException"
    assert CHART.digest in cloud.violations[0]


@SMALL_PARTS
@pytest.mark.violates
def test_an_image_is_put_with_its_digest_and_type(ecr: Any, cloud: EcrDouble) -> None:
    push_layer(ecr, "app", CHART.blobs[0].read())
    push_layer(ecr, "app", CHART.blobs[1].read())
    ecr.put_image(repositoryName="app", imageManifest=CHART.body.decode())
    assert "ECR would guess" in cloud.violations[0]


@SMALL_PARTS
@pytest.mark.parametrize(
    ("mutability", "filters", "tag", "moves"),
    [
        ("MUTABLE", [], "1.0", True),
        ("IMMUTABLE", [], "1.0", False),
        ("IMMUTABLE_WITH_EXCLUSION", ["latest*"], "latest-1", True),
        ("IMMUTABLE_WITH_EXCLUSION", ["latest*"], "1.0", False),
        ("IMMUTABLE_WITH_EXCLUSION", ["latest*"], "my-latest", False),
        ("MUTABLE_WITH_EXCLUSION", ["v*"], "v1", False),
        ("MUTABLE_WITH_EXCLUSION", ["v*"], "1.0", True),
    ],
)
def test_a_tag_moves_where_the_repository_allows_it(
    *, ecr: Any, cloud: EcrDouble, mutability: str, filters: list[str], tag: str, moves: bool
) -> None:
    listed = [{"filterType": "WILDCARD", "filter": each} for each in filters]
    settings = {"imageTagMutabilityExclusionFilters": listed} if listed else {}
    ecr.create_repository(repositoryName="tags", imageTagMutability=mutability, **settings)
    other = images.artifact("application/vnd.cncf.helm.config.v1+json", CHART.blobs[1:], artifact_type="x/y")
    push(ecr, "tags", CHART, tag)
    if moves:
        put_image(ecr, "tags", other, tag)
    else:
        assert code_of(put_image, ecr, "tags", other, tag) == "ImageTagAlreadyExistsException"
        assert code_of(put_image, ecr, "tags", CHART, tag) == "ImageTagAlreadyExistsException"  # the very same, too
        put_image(ecr, "tags", other)  # by digest it is welcome
    assert cloud.registry().repositories["tags"].tags == {tag: (other if moves else CHART).digest}


@SMALL_PARTS
def test_an_image_without_a_tag_exists_already_once_it_is_there(ecr: Any) -> None:
    push(ecr, "app", CHART, "1.0")
    assert code_of(put_image, ecr, "app", CHART) == "ImageAlreadyExistsException"


@SMALL_PARTS
def test_only_accepted_types_are_given(ecr: Any, cloud: EcrDouble) -> None:
    index = images.index([CHART])
    cloud.registry().add(index, "app", "1.0")
    asked = {"repositoryName": "app", "imageIds": [{"imageTag": "1.0"}]}
    assert ecr.batch_get_image(**asked)["failures"][0]["failureCode"] == "ImageNotFound"
    assert ecr.batch_get_image(**asked, acceptedMediaTypes=[images.OCI_INDEX])["failures"] == []


@SMALL_PARTS
def test_image_ids_that_make_no_sense_are_named_for_what_they_are(ecr: Any, cloud: EcrDouble) -> None:
    cloud.registry().add(CHART, "app", "1.0")
    asked = [{}, {"imageDigest": "nonsense"}, {"imageDigest": sha256(b"other"), "imageTag": "1.0"}]
    answer = ecr.batch_get_image(repositoryName="app", imageIds=asked)
    assert [each["failureCode"] for each in answer["failures"]] == [
        "MissingDigestAndTag",
        "InvalidImageDigest",
        "ImageTagDoesNotMatchDigest",
    ]


@SMALL_PARTS
def test_long_lists_come_in_pages(ecr: Any, cloud: EcrDouble) -> None:
    cloud.registry().add(CHART, "app", *[f"tag-{number}" for number in range(7)])
    pages = list(ecr.get_paginator("list_images").paginate(repositoryName="app", PaginationConfig={"PageSize": 3}))
    assert [len(page["imageIds"]) for page in pages] == [3, 3, 1]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"no JSON", images.OCI_MANIFEST),
        (b'{"schemaVersion": 1}', images.OCI_MANIFEST),
        (b'{"schemaVersion": 2, "layers": [{}]}', images.OCI_MANIFEST),
        (b'{"schemaVersion": 2}', "application/json"),
        (b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}', images.OCI_MANIFEST),
    ],
)
def test_what_is_no_manifest_is_refused(ecr: Any, body: bytes, media_type: str) -> None:
    assert code_of(put_image, ecr, "app", images.Manifest(media_type, body)) == "InvalidParameterException"


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        ("batch_check_layer_availability", {"layerDigests": []}),
        ("batch_check_layer_availability", {"layerDigests": [sha256(b"x")] * 101}),
        ("batch_get_image", {"imageIds": [{"imageTag": "1"}] * 101}),
        ("batch_get_image", {"imageIds": [{"imageTag": "t" * 301}]}),
        ("put_lifecycle_policy", {"lifecyclePolicyText": "{" + " " * 97 + "}"}),
        ("put_lifecycle_policy", {"lifecyclePolicyText": "{" + " " * 30_719 + "}"}),
        ("set_repository_policy", {"policyText": "x" * 10_241}),
        ("complete_layer_upload", {"uploadId": "mine", "layerDigests": [sha256(b"x")]}),
        ("put_image", {"imageManifest": " " * (4 * 1024 * 1024 + 1)}),
        ("create_repository", {"repositoryName": "r" * 257}),
        ("create_repository", {"encryptionConfiguration": {"encryptionType": "ROT13"}}),
        ("create_repository", {"registryId": "12"}),
    ],
)
def test_the_limits_of_the_parameters_are_those_of_the_api(
    cloud: EcrDouble, make_client: MakeClient, operation: str, wrong: dict[str, Any]
) -> None:
    client = make_client(parameter_validation=False)
    cloud.registry().add(CHART, "app")
    parameters = {"repositoryName": "app", **wrong}
    assert code_of(getattr(client, operation), **parameters) == "InvalidParameterException"

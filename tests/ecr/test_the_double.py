"""What the ECR double and moto do alike. Where moto is wrong the double is alone, in `test_the_double_is_strict`."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.ecr.conftest import MakeClient
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION
from tests.support.ecr.pushes import code_of, push, push_layer, put_image, refused, send_parts, sha256

SMALL_PARTS = pytest.mark.parametrize("cloud", [{"part_size": 1000, "min_part": 500}], indirect=True)
CHART = images.chart()
DATA = b"".join(images.noise(3500, 1))
MOTO_ACCOUNT = "123456789012"
OTHER_ROLE = "arn:aws:iam::444455556666:role/millpond/push"
LIFECYCLE = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "description": "what nobody has a name for",
                "selection": {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 5},
                "action": {"type": "expire"},
            }
        ]
    }
)
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "pull",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::444455556666:root"},
                "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            }
        ],
    }
)


@pytest.fixture(params=["double", "moto"])
def either(request: pytest.FixtureRequest) -> str | None:
    """The URL of moto; None is the double."""
    return request.getfixturevalue("moto") if request.param == "moto" else None


@pytest.fixture
def ecr(either: str | None, make_client: MakeClient) -> Any:
    """A client of the one or the other, with one empty repository, called app."""
    client = make_client(url=either)
    client.create_repository(repositoryName="app")
    return client


def test_a_repository_is_created_as_asked(ecr: Any) -> None:
    filters = [{"filterType": "WILDCARD", "filter": "latest*"}]
    ecr.create_repository(
        repositoryName="team/app",
        imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=filters,
        imageScanningConfiguration={"scanOnPush": True},
        encryptionConfiguration={"encryptionType": "KMS", "kmsKey": "alias/images"},
        tags=[{"Key": "team", "Value": "a"}],
    )
    (held,) = ecr.describe_repositories(repositoryNames=["team/app"])["repositories"]
    assert held["imageTagMutability"] == "IMMUTABLE_WITH_EXCLUSION"
    assert held["imageTagMutabilityExclusionFilters"] == filters
    assert held["imageScanningConfiguration"] == {"scanOnPush": True}
    assert held["encryptionConfiguration"] == {"encryptionType": "KMS", "kmsKey": "alias/images"}
    assert held["repositoryUri"] == f"{held['registryId']}.dkr.ecr.{REGION}.amazonaws.com/team/app"


def test_a_repository_has_defaults(ecr: Any) -> None:
    (held,) = ecr.describe_repositories(repositoryNames=["app"])["repositories"]
    assert held["imageTagMutability"] == "MUTABLE"
    assert held["imageScanningConfiguration"] == {"scanOnPush": False}
    assert held["encryptionConfiguration"] == {"encryptionType": "AES256"}


def test_a_repository_is_not_created_twice(ecr: Any) -> None:
    assert code_of(ecr.create_repository, repositoryName="app") == "RepositoryAlreadyExistsException"


@pytest.mark.parametrize(
    "wrong",
    [
        {"repositoryName": "Upper/case"},
        {"repositoryName": "a//b"},
        {"repositoryName": "ok", "imageTagMutability": "SOMETIMES"},
        {"repositoryName": "ok", "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION"},
        {
            "repositoryName": "ok",
            "imageTagMutability": "IMMUTABLE",
            "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "a"}],
        },
    ],
)
def test_a_repository_that_cannot_be_is_refused(ecr: Any, wrong: dict[str, Any]) -> None:
    assert code_of(ecr.create_repository, **wrong) == "InvalidParameterException"


def test_calls_of_a_missing_repository_say_so(ecr: Any) -> None:
    upload = "0" * 8 + "-0000-0000-0000-" + "0" * 12
    part = {"partFirstByte": 0, "partLastByte": 0, "layerPartBlob": b"x"}
    for call, parameters in (
        (ecr.batch_check_layer_availability, {"layerDigests": [sha256(b"x")]}),
        (ecr.initiate_layer_upload, {}),
        (ecr.upload_layer_part, {"uploadId": upload, **part}),
        (ecr.complete_layer_upload, {"uploadId": upload, "layerDigests": [sha256(b"x")]}),
        (ecr.batch_get_image, {"imageIds": [{"imageTag": "1"}]}),
        (ecr.put_lifecycle_policy, {"lifecyclePolicyText": LIFECYCLE}),
        (ecr.set_repository_policy, {"policyText": POLICY}),
    ):
        assert code_of(call, repositoryName="none", **parameters) == "RepositoryNotFoundException"


@SMALL_PARTS
def test_a_layer_that_came_in_parts_is_available(ecr: Any) -> None:
    digest, absent = push_layer(ecr, "app", DATA), sha256(b"other")
    answer = ecr.batch_check_layer_availability(repositoryName="app", layerDigests=[digest, absent, "md5:00"])
    (layer,) = answer["layers"]
    assert (layer["layerDigest"], layer["layerAvailability"], layer["layerSize"]) == (digest, "AVAILABLE", len(DATA))
    assert {each["layerDigest"]: each["failureCode"] for each in answer["failures"]} == {
        absent: "MissingLayerDigest",
        "md5:00": "InvalidLayerDigest",
    }


def test_parts_are_at_most_ten_mebibytes_by_default(ecr: Any) -> None:
    assert ecr.initiate_layer_upload(repositoryName="app")["partSize"] == 10 * 1024 * 1024


@SMALL_PARTS
def test_a_part_that_leaves_a_gap_is_refused_with_the_last_byte_that_is_there(ecr: Any) -> None:
    upload = send_parts(ecr, "app", DATA[:1000])
    answer = refused(send_parts, ecr, "app", DATA, start=2000, upload=upload)
    assert answer["Error"]["Code"] == "InvalidLayerPartException"
    assert answer["lastValidByteReceived"] == 999
    assert answer["uploadId"] == upload
    send_parts(ecr, "app", DATA, start=1000, upload=upload)
    done = ecr.complete_layer_upload(repositoryName="app", uploadId=upload, layerDigests=[sha256(DATA)])
    assert done["layerDigest"] == sha256(DATA)


@SMALL_PARTS
def test_a_part_that_came_already_is_refused_too(ecr: Any) -> None:
    upload = send_parts(ecr, "app", DATA[:2000])
    assert refused(send_parts, ecr, "app", DATA, upload=upload)["lastValidByteReceived"] == 1999


def test_a_first_part_that_is_not_the_first_is_refused(ecr: Any) -> None:
    assert refused(send_parts, ecr, "app", DATA, start=1000)["lastValidByteReceived"] == -1


@SMALL_PARTS
def test_an_upload_ends_when_it_is_complete(ecr: Any) -> None:
    upload = send_parts(ecr, "app", DATA)
    done = {"repositoryName": "app", "uploadId": upload, "layerDigests": [sha256(DATA)]}
    ecr.complete_layer_upload(**done)
    assert code_of(ecr.complete_layer_upload, **done) == "UploadNotFoundException"
    assert code_of(send_parts, ecr, "app", DATA, upload=upload) == "UploadNotFoundException"


@SMALL_PARTS
def test_an_image_is_read_as_it_was_put_by_digest_and_by_tag(ecr: Any) -> None:
    push(ecr, "app", CHART, "1.0")
    for asked in ({"imageDigest": CHART.digest}, {"imageTag": "1.0"}):
        answer = ecr.batch_get_image(repositoryName="app", imageIds=[asked], acceptedMediaTypes=[images.OCI_MANIFEST])
        (found,) = answer["images"]
        assert found["imageManifest"].encode() == CHART.body
        assert found["imageManifestMediaType"] == CHART.media_type
        assert found["imageId"]["imageDigest"] == CHART.digest


@SMALL_PARTS
def test_an_index_is_put_after_its_images(ecr: Any) -> None:
    index = images.index([images.chart(1), images.chart(2)])
    for part in index.children:
        for blob in part.blobs[1:]:
            push_layer(ecr, "app", blob.read())
    push_layer(ecr, "app", CHART.blobs[0].read())  # the config that both share
    for part in index.walk():
        put_image(ecr, "app", part, "1.0" if part is index else None)
    answer = ecr.batch_get_image(
        repositoryName="app", imageIds=[{"imageTag": "1.0"}], acceptedMediaTypes=[images.OCI_INDEX]
    )
    assert answer["images"][0]["imageManifest"].encode() == index.body
    assert len({each["imageDigest"] for each in ecr.list_images(repositoryName="app")["imageIds"]}) == 3


@SMALL_PARTS
def test_the_same_image_with_the_same_tag_exists_already(ecr: Any) -> None:
    push(ecr, "app", CHART, "1.0")
    assert code_of(put_image, ecr, "app", CHART, "1.0") == "ImageAlreadyExistsException"


@SMALL_PARTS
def test_an_image_takes_another_tag_and_a_tag_moves(ecr: Any) -> None:
    other = images.artifact("application/vnd.cncf.helm.config.v1+json", CHART.blobs[1:], artifact_type="x/y")
    push(ecr, "app", CHART, "1.0")
    put_image(ecr, "app", CHART, "latest")
    put_image(ecr, "app", other, "latest")
    details = ecr.describe_images(repositoryName="app")["imageDetails"]
    assert {each["imageDigest"]: each.get("imageTags") for each in details} == {
        CHART.digest: ["1.0"],
        other.digest: ["latest"],
    }


def test_what_is_not_there_is_named_among_the_failures(ecr: Any) -> None:
    answer = ecr.batch_get_image(repositoryName="app", imageIds=[{"imageTag": "none"}])
    assert answer["images"] == []
    assert [each["failureCode"] for each in answer["failures"]] == ["ImageNotFound"]


def test_policies_are_kept_as_they_were_set(ecr: Any) -> None:
    ecr.put_lifecycle_policy(repositoryName="app", lifecyclePolicyText=LIFECYCLE)
    ecr.set_repository_policy(repositoryName="app", policyText=POLICY)
    assert json.loads(ecr.get_lifecycle_policy(repositoryName="app")["lifecyclePolicyText"]) == json.loads(LIFECYCLE)
    assert json.loads(ecr.get_repository_policy(repositoryName="app")["policyText"]) == json.loads(POLICY)


def test_a_repository_without_policies_says_so(ecr: Any) -> None:
    assert code_of(ecr.get_lifecycle_policy, repositoryName="app") == "LifecyclePolicyNotFoundException"
    assert code_of(ecr.get_repository_policy, repositoryName="app") == "RepositoryPolicyNotFoundException"


@pytest.mark.parametrize("text", ["no JSON" * 20, json.dumps({"rules": [{"rulePriority": 1}], "why": "x" * 100})])
def test_broken_policies_are_refused(ecr: Any, text: str) -> None:
    lifecycle = {"repositoryName": "app", "lifecyclePolicyText": text}
    assert code_of(ecr.put_lifecycle_policy, **lifecycle) == "InvalidParameterException"
    assert code_of(ecr.set_repository_policy, repositoryName="app", policyText=text) == "InvalidParameterException"


def test_the_password_of_the_registry_is_for_docker(ecr: Any) -> None:
    (granted,) = ecr.get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(granted["authorizationToken"]).decode().partition(":")
    assert (user, bool(password)) == ("AWS", True)
    assert granted["proxyEndpoint"].endswith(f".dkr.ecr.{REGION}.amazonaws.com")


def test_a_role_works_in_its_own_account(either: str | None, make_client: MakeClient) -> None:
    own = make_client(url=either).create_repository(repositoryName="mine")["repository"]
    other = make_client(url=either, role=OTHER_ROLE)
    assert own["registryId"] == (MOTO_ACCOUNT if either else ACCOUNT)
    assert other.describe_repositories()["repositories"] == []
    assert other.create_repository(repositoryName="mine")["repository"]["registryId"] == "444455556666"


def test_regions_know_nothing_of_each_other(either: str | None, make_client: MakeClient) -> None:
    make_client(url=either, region="eu-west-1").create_repository(repositoryName="here")
    assert make_client(url=either, region="eu-central-1").describe_repositories()["repositories"] == []

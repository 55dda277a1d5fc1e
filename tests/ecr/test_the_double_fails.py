"""The ECR double goes wrong as a test scripts it, and says what it was asked."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from tests.ecr.conftest import MakeClient
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.ecr.pushes import code_of, push_layer, put_image, refused, send_parts, sha256
from tests.support.waiting import wait_until

CHART = images.chart()
DATA = b"".join(images.noise(3500, 1))
ROLE = "arn:aws:iam::444455556666:role/push"


@pytest.fixture
def ecr(make_client: MakeClient, cloud: EcrDouble) -> Any:
    """A client of the double with one empty repository, called app."""
    client = make_client()
    client.create_repository(repositoryName="app")
    cloud.calls.clear()
    return client


def begin(ecr: Any) -> str:
    """Begin an upload: the cheapest call that changes something. Its id comes back."""
    return str(ecr.initiate_layer_upload(repositoryName="app")["uploadId"])


def test_a_call_fails_as_often_as_scripted(ecr: Any, cloud: EcrDouble) -> None:
    cloud.fail("InitiateLayerUpload", "ServerException", times=2, status=500, after=1)
    assert begin(ecr)
    answers = [refused(begin, ecr) for _ in range(2)]
    assert begin(ecr)
    assert {answer["ResponseMetadata"]["HTTPStatusCode"] for answer in answers} == {500}
    assert [call.outcome for call in cloud.calls] == ["ok", "ServerException", "ServerException", "ok"]


def test_a_failure_has_the_fields_of_its_shape(ecr: Any, cloud: EcrDouble) -> None:
    cloud.fail("InitiateLayerUpload", "KmsException", fields={"kmsError": "AccessDenied"}, message="no key")
    answer = refused(begin, ecr)
    assert (answer["Error"]["Message"], answer["kmsError"]) == ("no key", "AccessDenied")


def test_only_calls_that_match_fail(ecr: Any, cloud: EcrDouble) -> None:
    cloud.fail("CreateRepository", "LimitExceededException", math.inf, repositoryName="full")
    assert ecr.create_repository(repositoryName="other")
    for _ in range(2):
        assert code_of(ecr.create_repository, repositoryName="full") == "LimitExceededException"


def test_a_call_that_breaks_off_has_not_happened_unless_it_is_done(ecr: Any, cloud: EcrDouble) -> None:
    uploads = cloud.registry().repositories["app"].uploads
    cloud.break_off("InitiateLayerUpload")
    with pytest.raises(ConnectionClosedError):
        begin(ecr)
    assert not uploads
    cloud.break_off("InitiateLayerUpload", done=True)
    with pytest.raises(ConnectionClosedError):
        begin(ecr)
    assert len(uploads) == 1
    assert cloud.count("InitiateLayerUpload", outcome="broken") == 2


def test_calls_beyond_the_rate_are_throttled_in_each_region_alone(
    ecr: Any, cloud: EcrDouble, make_client: MakeClient
) -> None:
    elsewhere = make_client(region="eu-west-1")
    elsewhere.create_repository(repositoryName="app")
    cloud.throttle("InitiateLayerUpload", 0.001)
    for client in (ecr, elsewhere):
        assert begin(client)
        assert code_of(begin, client) == "ThrottlingException"
    assert cloud.count("InitiateLayerUpload", outcome="ThrottlingException", region="eu-west-1") == 1


def test_a_throttled_call_passes_once_there_is_room(ecr: Any, cloud: EcrDouble) -> None:
    cloud.throttle("InitiateLayerUpload", 1)

    def three_have_passed() -> bool:
        with contextlib.suppress(ClientError):
            begin(ecr)
        return cloud.count("InitiateLayerUpload", outcome="ok") == 3

    wait_until(three_have_passed, "one call passed at once, two more in the next two seconds")
    passed = [call.time for call in cloud.calls if (call.operation, call.outcome) == ("InitiateLayerUpload", "ok")]
    assert passed[-1] - passed[0] > 1.5
    assert cloud.count("InitiateLayerUpload", outcome="ThrottlingException") > 0


def test_a_share_of_all_calls_fails(ecr: Any, cloud: EcrDouble) -> None:
    cloud.flaky(0.3, seed=7)
    for _ in range(200):
        with contextlib.suppress(ClientError, ConnectionClosedError):
            begin(ecr)
    failed = {call.outcome for call in cloud.calls if call.outcome != "ok"}
    assert failed == {"ServerException", "ServiceUnavailable", "ThrottlingException", "broken"}
    assert 30 < len(cloud.calls) - cloud.count("InitiateLayerUpload", outcome="ok") < 90


def test_a_denial_is_for_whom_and_what_it_says(ecr: Any, cloud: EcrDouble, make_client: MakeClient) -> None:
    role = make_client(role=ROLE)
    cloud.deny("CreateRepository", principal=ROLE)
    cloud.deny("CreateRepository", resource="secret")
    answer = refused(role.create_repository, repositoryName="one")
    assert answer["Error"]["Code"] == "AccessDeniedException"
    assert "assumed-role/push/test is not authorized to perform: ecr:CreateRepository" in answer["Error"]["Message"]
    assert ecr.create_repository(repositoryName="one")
    assert code_of(ecr.create_repository, repositoryName="secret") == "AccessDeniedException"


def test_tags_of_a_new_repository_need_their_own_permission(ecr: Any, cloud: EcrDouble) -> None:
    cloud.deny("TagResource")
    tagged = {"repositoryName": "one", "tags": [{"Key": "team", "Value": "a"}]}
    assert code_of(ecr.create_repository, **tagged) == "AccessDeniedException"
    assert ecr.create_repository(repositoryName="one")


def test_a_role_may_be_denied(make_client: MakeClient, cloud: EcrDouble) -> None:
    cloud.deny("AssumeRole", resource=ROLE)
    answer = refused(make_client, role=ROLE)
    assert answer["Error"]["Code"] == "AccessDenied"
    assert ROLE in answer["Error"]["Message"]
    assert make_client(role="arn:aws:iam::444455556666:role/other")


def test_a_call_waits_until_it_is_released(ecr: Any, cloud: EcrDouble) -> None:
    stall = cloud.stall("InitiateLayerUpload")
    with ThreadPoolExecutor(1) as threads:
        upload = threads.submit(begin, ecr)
        assert stall.reached.wait(10)
        assert cloud.count("InitiateLayerUpload", outcome="") == 1
        assert not upload.done()
        stall.release()
        assert upload.result(10)
    assert stall.held == 1
    assert begin(ecr)


def test_everything_can_be_unavailable_for_a_while(ecr: Any, cloud: EcrDouble) -> None:
    with cloud.unavailable():
        assert refused(begin, ecr)["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert begin(ecr)


def test_a_cloud_that_stops_has_gone_and_comes_back_with_what_it_held(ecr: Any, cloud: EcrDouble) -> None:
    upload = begin(ecr)
    cloud.stop()
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        begin(ecr)
    cloud.start()
    send_parts(ecr, "app", DATA, 3500, upload=upload)
    assert cloud.registry().repositories["app"].uploads[upload].size == len(DATA)


def test_no_connection_and_no_thread_outlives_the_cloud() -> None:
    before = set(threading.enumerate())
    with EcrDouble() as cloud:
        client = socket.create_connection(("127.0.0.1", int(cloud.url.rpartition(":")[2])))
        wait_until(lambda: len(set(threading.enumerate()) - before) == 3, "the connection has its thread")
    assert client.recv(1) == b""
    client.close()
    assert set(threading.enumerate()) <= before


def test_what_was_scripted_can_be_forgotten(ecr: Any, cloud: EcrDouble) -> None:
    cloud.fail("*", "ServerException", math.inf, status=500)
    cloud.throttle("InitiateLayerUpload", 0)
    cloud.deny("InitiateLayerUpload")
    cloud.flaky(1)
    stall = cloud.stall("InitiateLayerUpload")
    cloud.behave()
    assert begin(ecr)
    assert stall.released


def test_an_upload_can_be_lost(ecr: Any, cloud: EcrDouble) -> None:
    first, second = begin(ecr), begin(ecr)
    cloud.lose_upload(first)
    assert code_of(send_parts, ecr, "app", DATA, upload=first) == "UploadNotFoundException"
    send_parts(ecr, "app", DATA, 3500, upload=second)
    cloud.lose_upload()
    done = {"repositoryName": "app", "uploadId": second, "layerDigests": [sha256(DATA)]}
    assert code_of(ecr.complete_layer_upload, **done) == "UploadNotFoundException"


@pytest.mark.parametrize("media_type", [CHART.media_type, CHART.blobs[0].media_type, CHART.blobs[1].media_type])
def test_a_media_type_can_be_refused_wherever_it_is_named(ecr: Any, cloud: EcrDouble, media_type: str) -> None:
    cloud.refuse_media_type(media_type)
    for blob in CHART.blobs:
        push_layer(ecr, "app", blob.read(), 3500)
    answer = refused(put_image, ecr, "app", CHART)
    assert answer["Error"]["Code"] == "InvalidParameterException"
    assert media_type in answer["Error"]["Message"]


def test_an_image_can_be_corrupt(ecr: Any, cloud: EcrDouble) -> None:
    cloud.registry().add(CHART, "app", "1.0")
    cloud.corrupt_image(CHART.digest)
    (found,) = ecr.batch_get_image(repositoryName="app", imageIds=[{"imageTag": "1.0"}])["images"]
    assert len(found["imageManifest"]) == len(CHART.body)
    assert sha256(found["imageManifest"].encode()) != CHART.digest


def test_every_call_is_recorded_without_its_blob(ecr: Any, cloud: EcrDouble, make_client: MakeClient) -> None:
    role = make_client(role=ROLE, region="eu-west-1")
    role.create_repository(repositoryName="app")
    push_layer(role, "app", DATA, 3500)
    assume, create, initiate, part, complete = cloud.calls
    assert assume.parameters["RoleArn"] == ROLE
    assert {call.account for call in (create, initiate, part, complete)} == {"444455556666"}
    assert {call.principal for call in (create, initiate, part, complete)} == {ROLE}
    assert set(part.parameters) == {"repositoryName", "uploadId", "partFirstByte", "partLastByte"}
    assert assume.time <= assume.ended <= create.time
    assert (assume.account, assume.region, create.region) == (ACCOUNT, REGION, "eu-west-1")
    assert cloud.count("UploadLayerPart", partFirstByte=0, outcome="ok") == 1
    assert cloud.count("UploadLayerPart", partFirstByte=1) == 0


def test_a_whole_tree_is_complete_or_says_what_is_missing(ecr: Any, cloud: EcrDouble) -> None:
    index = images.index([CHART])
    registry = cloud.registry()
    registry.add(index, "app", "1.0")
    assert registry.missing("app", "1.0") == []
    assert registry.missing("none", "1.0") == ["1.0"]
    del registry.repositories["app"].layers[CHART.blobs[1].digest]
    assert registry.missing("app", index.digest) == [CHART.blobs[1].digest]

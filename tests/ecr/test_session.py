"""Clients of AWS: made once, in threads, with credentials that are renewed, and errors that say what to do."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from proxy.ecr.errors import EcrError, Refused, Rejected, ServiceError, Throttled, Unreachable
from proxy.ecr.part import PIECE, PartBody
from proxy.ecr.session import Client, Sessions
from proxy.oci.digest import Digest
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.ports import free_port
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

ROLE = f"arn:aws:iam::{ACCOUNT}:role/millpond"
NAME = "docker.io/library/x"


@pytest.fixture
async def sessions(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sessions]:
    """Sessions whose environment is the cloud's user."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    made = Sessions()
    yield made
    await made.aclose()


@pytest.fixture
def client(sessions: Sessions) -> Client:
    return sessions.client("ecr", REGION, None, None)


@pytest.fixture
def assumed(sessions: Sessions) -> Client:
    """A client as ROLE."""
    return sessions.client("ecr", REGION, ROLE, None)


async def create(client: Client, name: str = NAME) -> dict[str, Any]:
    return await client.call("create_repository", repositoryName=name)


async def test_a_client_is_made_once_for_its_key_and_not_on_the_event_loop(
    sessions: Sessions, cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[threading.Thread] = []
    original = boto3.Session.client

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        made.append(threading.current_thread())
        return original(self, *arguments, **options)

    monkeypatch.setattr(boto3.Session, "client", noting)
    client = sessions.client("ecr", REGION, None, None)
    assert sessions.client("ecr", REGION, None, None) is client
    assert sessions.client("ecr", REGION, ROLE, None) is not client
    assert not made
    await asyncio.gather(*(client.call("get_authorization_token") for _ in range(20)))
    assert cloud.count("GetAuthorizationToken", outcome="ok") == 20
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


async def test_a_role_is_assumed_once_for_all_calls_under_a_name_of_ours(assumed: Client, cloud: EcrDouble) -> None:
    await asyncio.gather(*(create(assumed, f"name/{number}") for number in range(10)))
    assert cloud.count("CreateRepository", principal=ROLE, outcome="ok") == 10
    assert cloud.count("AssumeRole", RoleSessionName="millpond") == 1


async def test_expired_credentials_are_renewed_once_for_all_who_meet_them(assumed: Client, cloud: EcrDouble) -> None:
    await create(assumed)
    cloud.expire_credentials()
    await asyncio.gather(*(create(assumed, f"name/{number}") for number in range(10)))
    assert cloud.count("CreateRepository", outcome="ok") == 11
    assert cloud.count("AssumeRole") == 2


async def test_credentials_that_stay_bad_are_refused_after_one_renewal(assumed: Client, cloud: EcrDouble) -> None:
    cloud.fail("CreateRepository", "ExpiredTokenException", times=2, status=403, message="secret header")
    with pytest.raises(Refused, match=r"credentials of role .*millpond are not valid") as refused:
        await create(assumed)
    assert cloud.count("AssumeRole") == 2
    assert cloud.count("CreateRepository") == 2
    assert "secret header" not in str(refused.value)


async def test_a_permission_that_is_missing_is_named_with_the_remedy(assumed: Client, cloud: EcrDouble) -> None:
    cloud.deny("CreateRepository")
    with pytest.raises(Refused, match=r"CreateRepository with AccessDenied.*policy of role .*`millpond ecr plan`"):
        await create(assumed)
    assert cloud.count("AssumeRole") == 1


async def test_a_refusal_to_old_credentials_has_them_renewed_once(
    assumed: Client, cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.ecr.aws.FRESH", 0.0)
    cloud.fail("CreateRepository", "AccessDeniedException", status=403)
    await create(assumed)
    assert cloud.count("AssumeRole") == 2


async def test_a_role_that_cannot_be_assumed_is_named_with_the_remedy(assumed: Client, cloud: EcrDouble) -> None:
    cloud.deny("AssumeRole")
    with pytest.raises(Refused, match=r"role .*millpond cannot be assumed \(AccessDenied\).*trust policy"):
        await create(assumed)
    cloud.behave()
    await create(assumed)


async def test_missing_credentials_are_refused_and_found_once_they_are_there(
    sessions: Sessions, cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name in names:
        monkeypatch.delenv(name)
    for role in (None, ROLE):
        with pytest.raises(Refused, match="no credentials for ecr in us-east-1"):
            await create(sessions.client("ecr", REGION, role, None))
    for name in names:
        monkeypatch.setenv(name, cloud.environment[name])
    await create(sessions.client("ecr", REGION, None, None))
    await create(sessions.client("ecr", REGION, ROLE, None), "name/2")


async def test_keys_that_aws_does_not_know_are_refused_without_a_word_of_theirs(
    sessions: Sessions, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST999999999999")
    with pytest.raises(Refused, match="Millpond's own AWS identity are not valid") as refused:
        await create(client)
    assert "AKIATEST999999999999" not in repr(refused.value)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 400, Throttled),
        ("TooManyRequestsException", 429, Throttled),
        ("RequestLimitExceeded", 503, Throttled),
        ("ServerException", 500, Unreachable),
        ("ServiceUnavailable", 503, Unreachable),
        ("SomethingNew", 500, Unreachable),
        ("SomethingNew", 403, Refused),
        ("SomethingNew", 400, ServiceError),
    ],
)
async def test_each_answer_is_told_apart_after_one_attempt(
    client: Client, cloud: EcrDouble, code: str, status: int, kind: type[EcrError]
) -> None:
    cloud.fail("CreateRepository", code, status=status)
    with pytest.raises(EcrError) as error:
        await create(client)
    assert type(error.value) is kind
    assert cloud.count("CreateRepository") == 1


async def test_an_error_of_the_calls_own_has_its_code_and_members(client: Client, cloud: EcrDouble) -> None:
    cloud.fail("UploadLayerPart", "InvalidLayerPartException", fields={"lastValidByteReceived": 41})
    with pytest.raises(ServiceError, match="UploadLayerPart with InvalidLayerPartException: scripted") as error:
        await client.call(
            "upload_layer_part",
            repositoryName=NAME,
            uploadId="x",
            partFirstByte=0,
            partLastByte=0,
            layerPartBlob=b"x",
        )
    assert error.value.code == "InvalidLayerPartException"
    assert error.value.fields["lastValidByteReceived"] == 41


async def test_a_name_that_boto3_refuses_is_rejected(client: Client, cloud: EcrDouble) -> None:
    with pytest.raises(Rejected, match="repositoryName"):
        await create(client, "x")
    assert not cloud.calls


async def test_an_endpoint_where_nobody_listens_is_unreachable(sessions: Sessions) -> None:
    url = f"http://user:secret@127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=r"ecr in us-east-1 at 127\.0\.0\.1") as error:
        await create(sessions.client("ecr", REGION, None, url))
    assert "secret" not in str(error.value)


async def test_a_call_has_a_deadline_and_a_stalled_one_holds_up_no_other_client(
    cloud: EcrDouble, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(client)
    narrow = Sessions(workers=1)
    stalled, other = (narrow.client("ecr", region, None, None) for region in (REGION, "eu-west-1"))
    stall = cloud.stall("DescribeRepositories")
    waiting = asyncio.create_task(stalled.call("describe_repositories", timeout=0.5))
    await wait_until_async(stall.reached.is_set, "a call stalls")
    await create(other)
    with pytest.raises(Unreachable, match=r"has not answered describe_repositories within 0\.5 s"):
        await waiting
    with pytest.raises(Unreachable, match=r"within 0\.1 s"):  # its only thread is still in the call before
        await stalled.call("get_authorization_token", timeout=0.1)
    stall.release()
    assert (await stalled.call("describe_repositories"))["repositories"]
    await narrow.aclose()


@pytest.mark.parametrize("size", [1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2])
async def test_a_part_arrives_as_it_was_whatever_its_size(client: Client, cloud: EcrDouble, size: int) -> None:
    await create(client)
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    upload = (await client.call("initiate_layer_upload", repositoryName=NAME))["uploadId"]
    part = {"uploadId": upload, "partFirstByte": 0, "partLastByte": size - 1, "layerPartBlob": data}
    answer = await client.call("upload_layer_part", repositoryName=NAME, **part)
    assert answer["lastByteReceived"] == size - 1
    await client.call(
        "complete_layer_upload", repositoryName=NAME, uploadId=upload, layerDigests=[str(Digest.of(data))]
    )
    assert cloud.registry().repositories[NAME].layers[Digest.of(data)] == data


def test_the_body_of_a_part_is_made_in_small_steps_and_read_twice() -> None:
    part = bytes(range(256)) * 4096
    body = PartBody(b'{"x": "', part, b'"}')
    pieces = list(iter(body.read, b""))
    assert max(map(len, pieces)) <= PIECE // 3 * 4
    assert body.tell() == len(body) == len(b"".join(pieces))
    assert base64.b64decode(json.loads(b"".join(pieces))["x"]) == part
    body.seek(0)
    assert list(iter(body.read, b"")) == pieces
    with pytest.raises(ValueError, match="from its beginning"):
        body.seek(5)


async def test_a_part_is_sent_again_whole_after_its_credentials_were_renewed(assumed: Client, cloud: EcrDouble) -> None:
    await create(assumed)
    upload = (await assumed.call("initiate_layer_upload", repositoryName=NAME))["uploadId"]
    cloud.expire_credentials()
    data = bytes(2 * PIECE)
    part = {"uploadId": upload, "partFirstByte": 0, "partLastByte": len(data) - 1, "layerPartBlob": data}
    assert (await assumed.call("upload_layer_part", repositoryName=NAME, **part))["lastByteReceived"] == len(data) - 1


async def test_endpoints_come_from_the_environment_where_none_is_configured(
    cloud: EcrDouble, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    await create(sessions.client("ecr", "eu-central-1", ROLE, None))
    assert cloud.count("CreateRepository", region="eu-central-1", principal=ROLE) == 1


async def test_a_service_accounts_token_is_an_identity_too_and_may_assume_a_role(
    cloud: EcrDouble, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pod = f"arn:aws:iam::{ACCOUNT}:role/pod"
    token = tmp_path / "token"
    token.write_text("a web identity")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", pod)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    await create(sessions.client("ecr", REGION, None, None))
    await create(sessions.client("ecr", REGION, ROLE, None), "name/2")
    assert cloud.count("CreateRepository", principal=pod, outcome="ok") == 1
    assert cloud.count("CreateRepository", principal=ROLE, outcome="ok") == 1
    assert cloud.count("AssumeRole", principal=pod, region=REGION) == 1


@pytest.mark.parametrize(
    ("variable", "host"),
    [
        ("AWS_USE_FIPS_ENDPOINT", "https://ecr-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "https://ecr.us-east-1.api.aws"),
    ],
)
async def test_fips_and_dual_stack_endpoints_are_chosen_by_the_environment(
    cloud: EcrDouble, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    hosts: list[str] = []
    original = boto3.Session.client

    def noting(self: Any, *arguments: Any, **options: Any) -> Any:
        made = original(self, *arguments, **options)
        hosts.append(made.meta.endpoint_url)
        raise ValueError("nothing is sent to AWS by a test")

    monkeypatch.setattr(boto3.Session, "client", noting)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECR"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(Refused, match="cannot be called as configured"):
        await create(sessions.client("ecr", REGION, None, None))
    assert hosts == [host]

"""The ECR double knows who calls, and gives downloads to whoever has their URL."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore import UNSIGNED

from tests.ecr.conftest import MakeClient
from tests.support import images
from tests.support.ecr import ACCOUNT, EcrDouble
from tests.support.ecr.pushes import code_of, push_layer, sha256
from tests.support.waiting import wait_until

CHART = images.chart()
LAYER = CHART.blobs[1]
ROLE = "arn:aws:iam::444455556666:role/push"


@pytest.fixture
def url(cloud: EcrDouble, make_client: MakeClient) -> str:
    """Where LAYER can be read."""
    cloud.registry().add(CHART, "app", "1.0")
    answer = make_client().get_download_url_for_layer(repositoryName="app", layerDigest=LAYER.digest)
    return str(answer["downloadUrl"])


def read(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of one request."""
    asked = Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()}, method=method)
    try:
        with urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


@pytest.mark.violates
def test_a_call_without_a_signature_is_refused(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client(signature_version=UNSIGNED)
    assert code_of(client.describe_repositories) == "MissingAuthenticationTokenException"
    assert "DescribeRepositories: MissingAuthenticationTokenException" in cloud.violations[0]


@pytest.mark.violates
def test_a_body_that_was_changed_after_it_was_signed_is_refused(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client()

    def change(request: Any, **_: Any) -> None:
        request.body = request.body.replace(b"one", b"two")

    client.meta.events.register("before-send.ecr", change)
    assert code_of(client.create_repository, repositoryName="one") == "InvalidSignatureException"
    assert cloud.registry().repositories == {}
    assert len(cloud.violations) == 1


@pytest.mark.violates
def test_a_call_that_was_signed_for_another_service_is_refused(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client()

    def choose(context: dict[str, Any], **_: Any) -> None:
        context["signing"] = {"signing_name": "s3", "region": "us-east-1"}

    client.meta.events.register("choose-signer.ecr", choose)
    assert code_of(client.describe_repositories) == "InvalidSignatureException"
    assert "signed for s3" in cloud.violations[0]


def test_unknown_keys_are_refused(cloud: EcrDouble) -> None:
    keys = {"aws_access_key_id": "AKIA0000000000000000", "aws_secret_access_key": "x"}
    client = boto3.client("ecr", region_name="us-east-1", endpoint_url=cloud.url, **keys)
    assert code_of(client.describe_repositories) == "UnrecognizedClientException"
    client.close()


def test_keys_of_a_role_need_their_token(cloud: EcrDouble, make_client: MakeClient) -> None:
    keys = make_client("sts").assume_role(RoleArn=ROLE, RoleSessionName="test")["Credentials"]
    given = {"aws_access_key_id": keys["AccessKeyId"], "aws_secret_access_key": keys["SecretAccessKey"]}
    client = boto3.client("ecr", region_name="us-east-1", endpoint_url=cloud.url, **given)
    assert code_of(client.describe_repositories) == "UnrecognizedClientException"
    client.close()


def test_keys_of_a_role_expire(cloud: EcrDouble, make_client: MakeClient) -> None:
    role, user = make_client(role=ROLE), make_client()
    assert role.describe_repositories()["repositories"] == []
    cloud.expire_credentials()
    assert code_of(role.describe_repositories) == "ExpiredTokenException"
    assert user.describe_repositories()["repositories"] == []
    assert make_client(role=ROLE).describe_repositories()["repositories"] == []


def test_keys_of_a_role_can_be_short_lived(cloud: EcrDouble, make_client: MakeClient) -> None:
    cloud.role_seconds = 0
    assert code_of(make_client(role=ROLE).describe_repositories) == "ExpiredTokenException"
    cloud.role_seconds = None
    granted = make_client("sts").assume_role(RoleArn=ROLE, RoleSessionName="test", DurationSeconds=900)
    left = granted["Credentials"]["Expiration"].timestamp() - time.time()
    assert 890 < left <= 900


def test_each_account_has_its_own_user(cloud: EcrDouble, make_client: MakeClient) -> None:
    identity = make_client("sts", account="777788889999").get_caller_identity()
    assert identity["Account"] == "777788889999"
    make_client(account="777788889999").create_repository(repositoryName="app")
    assert list(cloud.registry("777788889999").repositories) == ["app"]
    assert cloud.registry(ACCOUNT).repositories == {}


def test_a_web_identity_becomes_a_role_without_a_signature(
    cloud: EcrDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-the-cluster")
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    client = boto3.session.Session().client("ecr", region_name="us-east-1")
    client.create_repository(repositoryName="app")
    client.close()
    assert list(cloud.registry("444455556666").repositories) == ["app"]
    assert "a-token-of-the-cluster" not in str(cloud.calls)


def test_a_role_that_is_none_cannot_be_assumed(make_client: MakeClient) -> None:
    sts = make_client("sts")
    assert code_of(sts.assume_role, RoleArn="arn:aws:iam::1:role/x", RoleSessionName="test") == "ValidationError"


def test_each_password_of_a_registry_is_another_one(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client()
    granted = [client.get_authorization_token()["authorizationData"][0] for _ in range(2)]
    words = [base64.b64decode(each["authorizationToken"]).decode().partition(":")[2] for each in granted]
    assert words == cloud.passwords
    assert len(set(words)) == 2


def test_a_password_expires_when_it_says(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client()
    first = client.get_authorization_token()["authorizationData"][0]["expiresAt"]
    cloud.password_seconds = 60
    second = client.get_authorization_token()["authorizationData"][0]["expiresAt"]
    assert 11.9 * 3600 < (first - second).total_seconds() < 12 * 3600


def test_ecr_public_gives_a_password_of_its_own_form(cloud: EcrDouble, make_client: MakeClient) -> None:
    granted = make_client("ecr-public").get_authorization_token()["authorizationData"]
    assert base64.b64decode(granted["authorizationToken"]).decode() == f"AWS:{cloud.passwords[0]}"


@pytest.mark.violates
def test_ecr_public_is_in_one_region_only(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client("ecr-public", region="eu-west-1")
    assert code_of(client.get_authorization_token) == "UnknownOperationException"
    assert "eu-west-1" in cloud.violations[0]


def test_only_a_layer_that_an_image_names_can_be_read(cloud: EcrDouble, make_client: MakeClient) -> None:
    client = make_client()
    client.create_repository(repositoryName="app")
    digest = push_layer(client, "app", b"nobody's")
    asked = {"repositoryName": "app"}
    assert code_of(client.get_download_url_for_layer, layerDigest=digest, **asked) == "LayerInaccessibleException"
    unknown = {**asked, "layerDigest": sha256(b"other")}
    assert code_of(client.get_download_url_for_layer, **unknown) == "LayersNotFoundException"


def test_a_layer_is_read_from_another_port(cloud: EcrDouble, url: str) -> None:
    status, body, headers = read(url)
    assert (status, body) == (200, LAYER.read())
    assert headers["Accept-Ranges"] == "bytes"
    assert not url.startswith(cloud.url)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=10-19", 10, 19), ("bytes=2990-", 2990, 2999), ("bytes=-5", 2995, 2999), ("bytes=2990-9999", 2990, 2999)],
)
def test_a_range_of_a_layer_is_read(cloud: EcrDouble, url: str, asked: str, first: int, last: int) -> None:
    status, body, headers = read(url, Range=asked)
    assert (status, body) == (206, LAYER.read()[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/3000"
    assert cloud.count("DownloadLayer", range=asked, layerDigest=LAYER.digest, outcome="ok") == 1


def test_a_range_beyond_the_end_is_refused_and_several_are_ignored(url: str) -> None:
    assert read(url, Range="bytes=3000-")[0] == 416
    assert read(url, Range="bytes=0-1,5-6")[:2] == (200, LAYER.read())


@pytest.mark.violates
def test_an_authorization_header_is_refused_at_the_presigned_port(cloud: EcrDouble, url: str) -> None:
    status, body, _ = read(url, Authorization="Bearer secret")
    assert status == 400
    assert b"Only one auth mechanism allowed" in body
    assert "authorization" in cloud.violations[0]
    assert "secret" not in cloud.violations[0]


def test_a_url_is_for_one_method_and_to_the_byte(url: str) -> None:
    assert read(url, method="HEAD")[0] == 403
    assert read(url + "&x=1")[0] == 403
    assert read(url.replace("%2F", "/"))[0] == 403


def test_a_url_expires(cloud: EcrDouble, url: str) -> None:
    assert read(url)[0] == 200
    cloud.expire_urls()
    status, body, _ = read(url)
    assert status == 403
    assert b"Request has expired" in body


def test_a_download_can_be_wrong_by_one_bit(cloud: EcrDouble, url: str) -> None:
    cloud.corrupt_layer(LAYER.digest)
    body = read(url)[1]
    assert len(body) == LAYER.size
    assert sum(one != other for one, other in zip(body, LAYER.read(), strict=True)) == 1


def test_a_download_can_break(cloud: EcrDouble, url: str) -> None:
    cloud.cut_layer(LAYER.digest, 1000)
    with urlopen(url, timeout=10) as answer:
        assert len(answer.read1(4000)) == 1000
        assert answer.read1(4000) == b""
    assert read(url)[:2] == (200, LAYER.read())


def test_a_download_can_be_held_in_its_body(cloud: EcrDouble, url: str) -> None:
    stall = cloud.stall("DownloadLayer", at=1000)
    with urlopen(url, timeout=10) as answer:
        assert len(answer.read1(4000)) == 1000
        wait_until(stall.reached.is_set, "the download is held")
        stall.release()
        assert len(answer.read()) == 2000


def test_a_download_can_be_refused_and_be_unavailable(cloud: EcrDouble, url: str) -> None:
    cloud.fail("DownloadLayer", "SlowDown", status=503)
    assert read(url)[0] == 503
    with cloud.unavailable():
        assert read(url)[0] == 503
    assert read(url)[0] == 200


def test_the_secrets_of_the_cloud_are_not_in_its_records(cloud: EcrDouble, make_client: MakeClient, url: str) -> None:
    make_client(role=ROLE).describe_repositories()
    read(url)
    shown = f"{cloud.calls} {cloud.credentials()} {cloud.violations}"
    assert cloud.credentials().secret_key not in shown
    assert url.partition("Signature=")[2] not in shown

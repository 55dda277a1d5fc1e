"""A cloud for each test, and real boto3 clients for it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config

from tests.support.ecr import ACCOUNT, REGION, EcrDouble


class MakeClient(Protocol):
    """Makes a boto3 client of the double, as the user of `account`, or as `role` (an ARN) once it is assumed.

    `url` is another cloud to use, such as `moto`; the rest goes into botocore's Config.
    """

    def __call__(
        self,
        service: str = "ecr",
        *,
        account: str = ACCOUNT,
        region: str = REGION,
        role: str | None = None,
        url: str | None = None,
        **config: Any,
    ) -> Any: ...


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "violates: does on purpose what the ECR double notes as a violation")


@pytest.fixture
def cloud(request: pytest.FixtureRequest) -> Iterator[EcrDouble]:
    """A started ECR double; parametrise it indirectly with its keyword arguments. The test fails when a client did
    what AWS would never accept, unless it is marked `violates`."""
    made = EcrDouble(**getattr(request, "param", {})).start()
    yield made
    made.stop()
    assert request.node.get_closest_marker("violates") or not made.violations, made.violations


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The URL of moto as a server: AWS as somebody else has imitated it."""
    from moto.server import ThreadedMotoServer  # late: it takes a second, and few tests need it

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto(moto_server: str) -> str:
    """The URL of an empty moto."""
    with urlopen(Request(f"{moto_server}/moto-api/reset", method="POST"), timeout=10) as answer:
        assert answer.status == 200
    return moto_server


@pytest.fixture
def make_client(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """A factory of boto3 clients without retries; their connections end with the test."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    made: list[Any] = []

    def client(
        service: str = "ecr",
        *,
        account: str = ACCOUNT,
        region: str = REGION,
        role: str | None = None,
        url: str | None = None,
        **config: Any,
    ) -> Any:
        keys = cloud.credentials(account)
        secrets = {"aws_access_key_id": keys.access_key, "aws_secret_access_key": keys.secret_key}
        if role:
            answer = client("sts", account=account, url=url).assume_role(RoleArn=role, RoleSessionName="test")[
                "Credentials"
            ]
            secrets = {
                "aws_access_key_id": answer["AccessKeyId"],
                "aws_secret_access_key": answer["SecretAccessKey"],
                "aws_session_token": answer["SessionToken"],
            }
        settings = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30, **config)
        made.append(
            _session().client(service, region_name=region, endpoint_url=url or cloud.url, config=settings, **secrets)
        )
        return made[-1]

    yield client
    for each in made:
        each.close()


@functools.cache
def _session() -> Any:
    """One for all, because each would read the models of the services anew."""
    return boto3.session.Session()

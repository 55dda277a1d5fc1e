"""ECR as Millpond reads it, in the test's own process: a source over real boto3 and real sockets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import boto3
from botocore.config import Config

from proxy.ecr.api import Api
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Sessions
from proxy.ecr.source import EcrSource
from proxy.ecr.target import Target
from proxy.upstream.endpoint import Timeouts
from proxy.upstream.signed import SignedUrls
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.ecr.desk import MAX_PART
from tests.support.ecr.pushes import push_layer, put_image
from tests.support.images import Manifest

# No download of a test takes longer than a moment, so a stall is known for one soon.
TIMEOUTS = Timeouts(connect=2.0, read=0.5, pool=2.0, whole=2.0)


@contextmanager
def credentials(cloud: EcrDouble) -> Iterator[None]:
    """This process uses this cloud and nothing else."""
    before = {name: os.environ.get(name) for name in cloud.environment}
    os.environ.update(cloud.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def target_of(cloud: EcrDouble, *upstreams: str, **settings: Any) -> Target:
    named = {"name": "prod", "account": ACCOUNT, "region": REGION, "endpoint_url": cloud.url, **settings}
    return Target(upstreams=frozenset(upstreams), **named)


@asynccontextmanager
async def reading(target: Target, timeouts: Timeouts = TIMEOUTS) -> AsyncIterator[EcrSource]:
    """A source of one target."""
    sessions, signed = Sessions(4), SignedUrls(timeouts)
    client = sessions.client("ecr", target.region, target.role_arn, target.endpoint_url)
    try:
        yield EcrSource(Api(target, client, Quotas(), lambda *_: None, tries=1), signed.blob)
    finally:
        await signed.aclose()
        await sessions.aclose()


def fill(cloud: EcrDouble, name: str, image: Manifest, tag: str | None = None, account: str = ACCOUNT) -> None:
    """Push an image into a repository that may exist, with nothing but boto3."""
    keys = cloud.credentials(account)
    session = boto3.session.Session(aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key)
    client = session.client(
        "ecr", region_name=REGION, endpoint_url=cloud.url, config=Config(retries={"total_max_attempts": 1})
    )
    try:
        if name not in cloud.registry(account).repositories:
            client.create_repository(repositoryName=name)
        held = cloud.registry(account).repositories[name]
        for blob in image.all_blobs().values():
            if blob.digest not in held.layers:
                push_layer(client, name, blob.read(), MAX_PART)
        for part in image.walk():
            wanted = tag if part is image else None
            if part.digest not in held.images or (wanted and held.tags.get(wanted) != part.digest):
                put_image(client, name, part, wanted)
    finally:
        client.close()

"""A strict double of Amazon ECR behind sockets, for real boto3.

    with EcrDouble(part_size=1000, min_part=500) as cloud:
        client = boto3.client("ecr", endpoint_url=cloud.url, ...)      # the keys are in cloud.credentials()
        cloud.fail("PutImage", "ServerException", status=500)          # the next one; then it behaves
        cloud.throttle("PutImage", per_second=1)
        with_layers = cloud.registry().image("docker.io/library/x", "latest")
        assert cloud.count("PutImage", outcome="ok") == 1

It refuses what ECR refuses, and `violations` has what a client did that ECR would never accept. At the end of
a `with` there may be none.
"""

from tests.support.ecr.double import ACCOUNT, REGION, EcrDouble
from tests.support.ecr.faults import Call, Stall
from tests.support.ecr.registry import FakeRegistry, FakeRepository, StoredImage

__all__ = ["ACCOUNT", "REGION", "Call", "EcrDouble", "FakeRegistry", "FakeRepository", "Stall", "StoredImage"]

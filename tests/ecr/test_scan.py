"""What ECR's scans say of an image: asked of the double, of moto where that knows, and read whatever comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.ecr.api import Api
from proxy.ecr.errors import Refused, Rejected, Unreachable
from proxy.ecr.plan import plan
from proxy.ecr.quota import Quotas
from proxy.ecr.scan import ABSENT, UNSCANNED, Scan, Severity, read_scan
from proxy.ecr.session import Sessions
from proxy.ecr.target import Target
from proxy.oci.digest import Digest
from tests.ecr.conftest import MakeClient
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.ecr.pushes import put_image

pytestmark = pytest.mark.anyio

NAME: Final = "docker.io/library/x"
IMAGE: Final = images.chart()
DIGEST: Final = Digest.parse(IMAGE.digest)
MOTO_ACCOUNT: Final = "123456789012"

Make = Callable[..., Api]


@pytest.fixture
async def make(cloud: EcrDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes an Api; keywords are those of Target."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    sessions = Sessions(2)

    def api(**settings: Any) -> Api:
        wanted = {"name": "prod", "account": ACCOUNT, "region": REGION, "upstreams": frozenset({"docker.io"})}
        target = Target(**{**wanted, **settings})
        client = sessions.client("ecr", target.region, None, target.endpoint_url)
        return Api(target, client, Quotas(), lambda *_: None, tries=1)

    yield api
    await sessions.aclose()


async def test_an_image_is_absent_then_not_scanned_then_scanned(make: Make, cloud: EcrDouble) -> None:
    api = make()
    assert await api.scan(NAME, DIGEST) == Scan(ABSENT)  # not even the repository is there
    cloud.registry().add(images.chart(seed=5), NAME)
    assert await api.scan(NAME, DIGEST) == Scan(ABSENT)
    held = cloud.registry().add(IMAGE, NAME, "1")
    assert await api.scan(NAME, DIGEST) == Scan(UNSCANNED)
    held.scan(DIGEST, "IN_PROGRESS")
    assert not (await api.scan(NAME, DIGEST)).done
    held.scan(DIGEST, "COMPLETE", HIGH=2, LOW=7)
    scan = await api.scan(NAME, DIGEST)
    assert (scan.done, scan.at_least("MEDIUM"), scan.at_least("CRITICAL")) == (True, {"HIGH": 2}, {})
    (last,) = [call for call in cloud.calls if call.operation == "DescribeImageScanFindings"][-1:]
    assert last.matches(registryId=ACCOUNT, repositoryName=NAME, maxResults=1, imageId={"imageDigest": DIGEST})


async def test_moto_and_the_double_tell_of_a_scan_alike(make: Make, moto: str, make_client: MakeClient) -> None:
    client = make_client(url=moto)
    client.create_repository(repositoryName=NAME)
    api = make(account=MOTO_ACCOUNT, endpoint_url=moto)
    assert await api.scan(NAME, DIGEST) == Scan(ABSENT)
    put_image(client, NAME, IMAGE, "1")
    assert await api.scan(NAME, DIGEST) == Scan(UNSCANNED)
    client.start_image_scan(repositoryName=NAME, imageId={"imageDigest": DIGEST})
    scan = await api.scan(NAME, DIGEST)
    assert (scan.done, scan.at_least("LOW")) == (True, {"HIGH": 1})


async def test_what_is_no_answer_is_an_error_by_name(make: Make, cloud: EcrDouble) -> None:
    api = make()
    cloud.registry().add(IMAGE, NAME)
    cloud.fail("DescribeImageScanFindings", "ServerException", status=500)
    with pytest.raises(Unreachable):
        await api.scan(NAME, DIGEST)
    cloud.deny("DescribeImageScanFindings")
    with pytest.raises(Refused, match="millpond ecr plan"):
        await api.scan(NAME, DIGEST)
    with pytest.raises(Rejected, match="sha256 only"):
        await api.scan(NAME, Digest.of(b"", "sha512"))


@pytest.mark.violates
async def test_the_double_notes_who_asks_for_the_scan_of_an_index(
    make: Make, cloud: EcrDouble, images_directory: Path
) -> None:
    index = images.index([images.simple_image(images_directory, seed=60, size=100)])
    cloud.registry().add(index, NAME)
    await make().scan(NAME, Digest.parse(index.digest))
    assert "is an index" in cloud.violations[0]


@pytest.mark.parametrize(
    ("severity", "found"),
    [
        ("CRITICAL", {"CRITICAL": 1}),
        ("HIGH", {"CRITICAL": 1, "HIGH": 2}),
        ("LOW", {"CRITICAL": 1, "HIGH": 2, "LOW": 4}),
        ("INFORMATIONAL", {"CRITICAL": 1, "HIGH": 2, "LOW": 4, "UNTRIAGED": 9}),
    ],
)
def test_findings_are_counted_from_a_severity_on(severity: Severity, found: dict[str, int]) -> None:
    scan = Scan("ACTIVE", {"LOW": 4, "UNTRIAGED": 9, "CRITICAL": 1, "MEDIUM": 0, "HIGH": 2})
    assert list(scan.at_least(severity).items()) == list(found.items())


@pytest.mark.parametrize(
    "status", ["IN_PROGRESS", "PENDING", "FAILED", "UNSUPPORTED_IMAGE", "FINDINGS_UNAVAILABLE", "a word of tomorrow"]
)
def test_findings_count_only_where_ecr_vouches_for_them(status: str) -> None:
    assert not read_scan({"imageScanStatus": {"status": status}}).done
    assert read_scan({"imageScanStatus": {"status": "ACTIVE"}, "imageScanFindings": {}}).done
    assert read_scan({}) == Scan(UNSCANNED)


def test_the_plan_permits_to_read_scans_of_the_gate_s_target_only() -> None:
    target = Target("prod", ACCOUNT, REGION, frozenset({"docker.io"}))
    for gate in (False, True):
        (policy,) = plan([Target(target.name, ACCOUNT, REGION, target.upstreams, gate=gate)], [], [])["policies"]
        assert ("ecr:DescribeImageScanFindings" in str(policy)) is gate

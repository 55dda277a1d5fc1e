"""The operation on scans. What they find, a test has said: `FakeRepository.scan`."""

from __future__ import annotations

from typing import Any, Final

from tests.support import images
from tests.support.ecr.desk import Desk, Operation
from tests.support.ecr.errors import AwsError

# With these ECR has findings; with the others it has none to tell.
_SCANNED: Final = frozenset({"COMPLETE", "ACTIVE"})


def describe(desk: Desk) -> dict[str, Any]:
    """DescribeImageScanFindings."""
    repository, asked = desk.repository, desk.parameters["imageId"]
    image = repository.image(asked.get("imageDigest") or asked.get("imageTag", ""))
    if image is None:
        raise AwsError(
            "ImageNotFoundException", f"The image with imageId {asked} does not exist in '{repository.name}'"
        )
    if image.media_type in (images.OCI_INDEX, images.DOCKER_LIST):
        desk.violate(f"{image.digest} is an index: ECR scans images")
    scan = repository.scans.get(image.digest)
    if scan is None:
        raise AwsError("ScanNotFoundException", f"Image scan does not exist for the image with imageId {asked}")
    status, counts = scan
    found = {"imageScanFindings": {"findingSeverityCounts": counts, "findings": []}} if status in _SCANNED else {}
    return desk.answer(
        repository,
        imageId={"imageDigest": image.digest},
        imageScanStatus={"status": status, "description": f"The scan is {status}."},
        **found,
    )


SCANS: Final[dict[str, Operation]] = {"DescribeImageScanFindings": describe}

"""Many images at once, each with its scan to be asked for: more than the turns of a few seconds."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.ecr.api import Api
from proxy.ecr.quota import Quotas
from proxy.observe.metrics import Metrics
from proxy.oci.errors import PolicyDenied
from proxy.oci.manifest import OCI_MANIFEST, Manifest, parse_manifest
from proxy.oci.names import Repository
from proxy.pull.rules import Globs, ScanRule
from proxy.pull.scan_gate import ScanGate
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.anyio

IMAGES = 60
TARGET: Any = SimpleNamespace(
    name="prod", account="1" * 12, region="r", registry="r", upstreams={"docker.io"}, repository_name=str
)


class Client:
    def __init__(self) -> None:
        self.asked = 0
        self.all_asked = asyncio.Event()

    async def call(self, _operation: str, **_: Any) -> dict[str, Any]:
        self.asked += 1
        if self.asked == IMAGES:
            self.all_asked.set()
        findings = {"findingSeverityCounts": {"CRITICAL": 1}}
        return {"imageScanStatus": {"status": "COMPLETE"}, "imageScanFindings": findings}


def image(number: int) -> Manifest:
    layer = {"digest": f"sha256:{number:064x}", "size": 1, "mediaType": "application/vnd.oci.image.layer.v1.tar"}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer]}
    return parse_manifest(json.dumps(document).encode(), OCI_MANIFEST)


async def test_of_more_images_than_there_are_turns_all_are_asked_about_in_the_end() -> None:
    """B: clients wait for 3 s, in which ECR may be asked of 24 images; the questions of the others go on."""
    client: Any = Client()
    rule = ScanRule("prod", "CRITICAL", Globs(["*"]))
    api = Api(TARGET, client, Quotas({}), lambda *_: None, 1)
    gate = ScanGate(rule, api, push=lambda *_: None, metrics=Metrics())

    async def refused(number: int) -> bool:
        manifest = image(number)
        try:
            await gate.check(Repository("docker.io", "a/b"), manifest.digest, manifest)
        except PolicyDenied:
            return True
        return False

    assert sum(await asyncio.gather(*(refused(number) for number in range(IMAGES)))) < IMAGES
    await asyncio.wait_for(client.all_asked.wait(), DEADLINE)
    assert all(await asyncio.gather(*(refused(number) for number in range(IMAGES))))
    await gate.close()

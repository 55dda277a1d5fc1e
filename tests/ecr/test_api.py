"""The calls of one registry: outcomes by name, quotas, retries. What moto does right is asked of moto as well."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from proxy.ecr.api import Api
from proxy.ecr.calls import TRIES
from proxy.ecr.errors import (
    ChildrenMissing,
    EcrError,
    KeyRefused,
    LayersMissing,
    PartRefused,
    Refused,
    Rejected,
    RepositoryMissing,
    TagTaken,
    Throttled,
    Unreachable,
    UploadLost,
)
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Sessions
from proxy.ecr.target import RepositoryTemplate, Target
from proxy.oci.digest import Digest
from proxy.oci.errors import BlobUnknown
from proxy.oci.manifest import Manifest, parse_manifest
from proxy.oci.names import Reference, Tag
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.ports import free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("cloud", [{"part_size": 1000, "min_part": 500}], indirect=True),
]

NAME = "docker.io/library/x"
LATEST = Tag("latest")
UPLOAD = "8c4a1a4c-0000-4000-8000-000000000000"  # of nobody
RULE = {"rulePriority": 1, "selection": {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 9}}
POLICY = json.dumps({"rules": [{**RULE, "action": {"type": "expire"}}]})
ACCESS = json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "pull", "Effect": "Allow"}]})

Make = Callable[..., Api]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries of milliseconds; as many tries as ever."""
    for name, value in (("FIRST_WAIT", 0.01), ("LONGEST_WAIT", 0.05), ("JITTER", 0.01)):
        monkeypatch.setattr(f"proxy.ecr.calls.{name}", value)


@pytest.fixture
async def sessions() -> AsyncIterator[Sessions]:
    made = Sessions()
    yield made
    await made.aclose()


@pytest.fixture
def outcomes() -> Counter[tuple[str, str]]:
    """What was observed: (operation, outcome) and how often."""
    return Counter()


@pytest.fixture
def make(
    cloud: EcrDouble, sessions: Sessions, outcomes: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Make:
    """Makes an Api; keywords are those of Target."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)

    def api(**settings: Any) -> Api:
        wanted = {"name": "prod", "account": ACCOUNT, "region": REGION, "upstreams": frozenset({"docker.io"})}
        target = Target(**{**wanted, **settings})
        client = sessions.client("ecr", target.region, target.role_arn, target.endpoint_url)
        return Api(target, client, Quotas(), lambda *seen: outcomes.update([seen]))

    return api


@pytest.fixture
async def api(make: Make) -> Api:
    """An Api with one empty repository."""
    made = make()
    await made.create_repository(NAME)
    return made


def parsed(image: images.Manifest) -> Manifest:
    return parse_manifest(image.body, image.media_type)


async def push_layer(api: Api, content: bytes) -> Digest:
    """The way of the layer protocol, with nothing going wrong."""
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    upload, size = await api.begin_upload(NAME)
    for first in range(0, len(content), size):
        await api.upload_part(NAME, upload, first, content[first : first + size])
    await api.complete_upload(NAME, upload, digest)
    return digest


def download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


async def push(api: Api, image: images.Manifest, tag: Tag | None = LATEST) -> None:
    for blob in image.all_blobs().values():
        await push_layer(api, blob.read())
    for part in image.walk():
        await api.put_image(NAME, parsed(part), tag if part is image else None)


@pytest.fixture
def moto() -> Iterator[str]:
    """The address of another double, by other people."""
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.mark.parametrize("whose", ["ours", "moto"])
async def test_a_whole_index_is_pushed_and_found_again_by_digest_and_by_tag(
    cloud: EcrDouble, make: Make, images_directory: Path, request: pytest.FixtureRequest, whose: str
) -> None:
    endpoint = request.getfixturevalue("moto") if whose == "moto" else None
    api = make(account="123456789012", endpoint_url=endpoint) if endpoint else make()
    await api.create_repository(NAME)
    index = images.index(
        [images.simple_image(images_directory, seed=50, size=2500, architecture=name) for name in ("amd64", "arm64")]
    )
    digests = [Digest(digest) for digest in index.all_blobs()]
    assert await api.missing_layers(NAME, digests) == set(digests)
    await push(api, index)
    assert await api.missing_layers(NAME, digests) == set()
    asked: list[Reference] = [Digest(index.digest), LATEST, Digest(index.children[0].digest), Tag("absent")]
    found = await api.images(NAME, asked)
    assert found == {
        asked[0]: parsed(index),
        LATEST: parsed(index),
        asked[2]: parsed(index.children[0]),
    }
    await push(api, index)  # what is there already is as good as pushed
    if whose == "ours":
        assert cloud.registry().missing(NAME, "latest") == []
        assert cloud.count("UploadLayerPart", registryId=ACCOUNT) == len(
            [c for c in cloud.calls if "Part" in c.operation]
        )


async def test_layers_are_asked_about_a_hundred_at_a_time_and_each_once(api: Api, cloud: EcrDouble) -> None:
    digests = [Digest.of(str(number).encode()) for number in range(250)]
    there = await push_layer(api, b"249")
    cloud.calls.clear()
    assert await api.missing_layers(NAME, digests + digests) == {*digests} - {there}
    assert [len(call.parameters["layerDigests"]) for call in cloud.calls] == [100, 100, 50]
    assert await api.missing_layers(NAME, []) == set()


async def test_images_are_asked_for_a_hundred_at_a_time(api: Api, cloud: EcrDouble) -> None:
    tags = [Tag(f"t{number}") for number in range(101)]
    cloud.registry().add(images.chart(), NAME, *tags)
    assert list(await api.images(NAME, tags)) == tags
    assert cloud.count("BatchGetImage") == 2


async def test_a_layers_size_is_known_once_it_is_there(api: Api) -> None:
    digest = await push_layer(api, bytes(2345))
    assert await api.layer_size(NAME, digest) == 2345
    with pytest.raises(BlobUnknown, match=f"{NAME} does not have layer"):
        await api.layer_size(NAME, Digest.of(b"other"))


async def test_a_part_that_does_not_follow_is_refused_with_the_last_byte_that_ecr_has(api: Api) -> None:
    upload, size = await api.begin_upload(NAME)
    with pytest.raises(PartRefused) as none:
        await api.upload_part(NAME, upload, size, bytes(size))
    assert none.value.last_byte == -1
    await api.upload_part(NAME, upload, 0, bytes(size))
    with pytest.raises(PartRefused) as one:
        await api.upload_part(NAME, upload, 5 * size, bytes(size))
    assert one.value.last_byte == size - 1


async def test_a_part_whose_answer_got_lost_is_refused_with_its_own_last_byte(api: Api, cloud: EcrDouble) -> None:
    upload, _ = await api.begin_upload(NAME)
    cloud.break_off("UploadLayerPart", done=True)
    with pytest.raises(PartRefused) as refused:
        await api.upload_part(NAME, upload, 0, bytes(700))
    assert refused.value.last_byte == 699


async def test_an_expired_upload_is_lost(api: Api, cloud: EcrDouble) -> None:
    upload, _ = await api.begin_upload(NAME)
    cloud.lose_upload(upload)
    with pytest.raises(UploadLost):
        await api.upload_part(NAME, upload, 0, b"x")
    with pytest.raises(UploadLost):
        await api.complete_upload(NAME, upload, Digest.of(b"x"))


async def test_a_completion_whose_answer_got_lost_is_one(api: Api, cloud: EcrDouble) -> None:
    cloud.break_off("CompleteLayerUpload", done=True)
    digest = await push_layer(api, b"content")
    assert digest in cloud.registry().repositories[NAME].layers
    assert cloud.count("CompleteLayerUpload", outcome="UploadNotFoundException") == 1


async def test_an_upload_without_parts_is_lost_but_a_layer_of_no_bytes_is_rejected(api: Api) -> None:
    upload, _ = await api.begin_upload(NAME)
    with pytest.raises(UploadLost):
        await api.complete_upload(NAME, upload, Digest.of(b"x"))
    with pytest.raises(Rejected, match="no layer of no bytes"):
        await api.complete_upload(NAME, upload, Digest.of(b""))


@pytest.mark.violates
async def test_parts_that_are_too_small_lose_the_upload_and_wrong_bytes_are_rejected(api: Api) -> None:
    upload, _ = await api.begin_upload(NAME)
    for first in range(2):
        await api.upload_part(NAME, upload, first, b"x")
    with pytest.raises(UploadLost, match="LayerPartTooSmall"):
        await api.complete_upload(NAME, upload, Digest.of(b"xx"))
    upload, _ = await api.begin_upload(NAME)
    await api.upload_part(NAME, upload, 0, b"x")
    with pytest.raises(Rejected, match="InvalidLayerException"):
        await api.complete_upload(NAME, upload, Digest.of(b"y"))


@pytest.mark.violates
async def test_what_an_image_lacks_is_named(api: Api, cloud: EcrDouble, images_directory: Path) -> None:
    image = images.simple_image(images_directory, seed=51, size=100)
    with pytest.raises(LayersMissing):
        await api.put_image(NAME, parsed(image), LATEST)
    with pytest.raises(ChildrenMissing):
        await api.put_image(NAME, parsed(images.index([image])), LATEST)


async def test_a_tag_moves_unless_the_repository_is_immutable(make: Make, cloud: EcrDouble) -> None:
    old, new = images.chart(1), images.chart(2)
    moving = make()
    await moving.create_repository(NAME)
    await push(moving, old)
    await push(moving, new)
    assert cloud.registry().repositories[NAME].tags == {"latest": new.digest}
    fixed = make(region="eu-west-1", repository=RepositoryTemplate(tag_mutability="IMMUTABLE"))
    await fixed.create_repository(NAME)
    await push(fixed, old)
    with pytest.raises(TagTaken):
        await push(fixed, new)
    await push(fixed, new, None)
    held = cloud.registry(region="eu-west-1").repositories[NAME]
    assert held.tags == {"latest": old.digest}
    assert held.missing(new.digest) == []


async def test_an_immutable_tag_that_is_this_very_image_s_is_no_clash(api: Api, cloud: EcrDouble) -> None:
    """AWS answers so where nothing would change (aws/containers-roadmap#2179), and where an answer got lost."""
    image, other = images.chart(1), images.chart(2)
    await push(api, image)
    await push(api, other, None)
    for put in (image, other):
        cloud.fail("PutImage", "ImageTagAlreadyExistsException")
        if put is image:
            await api.put_image(NAME, parsed(put), LATEST)
        else:
            with pytest.raises(TagTaken):
                await api.put_image(NAME, parsed(put), LATEST)
    assert cloud.registry().repositories[NAME].tags == {"latest": image.digest}


async def test_a_media_type_that_ecr_does_not_take_is_rejected_with_ecrs_words(api: Api, cloud: EcrDouble) -> None:
    chart = images.chart()
    cloud.refuse_media_type(chart.media_type)
    with pytest.raises(Rejected, match=r"docker\.io/library/x.*InvalidParameterException.*media"):
        await push(api, chart)
    assert cloud.count("PutImage") == 1


async def test_what_is_no_text_or_no_sha256_is_rejected_without_a_call(api: Api, cloud: EcrDouble) -> None:
    body = json.dumps({"schemaVersion": 2, "layers": []}).encode("utf-16")
    wide = Digest.of(b"x", "sha512")
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: api.put_image(NAME, parse_manifest(body, images.OCI_MANIFEST), None),
        lambda: api.missing_layers(NAME, [wide]),
        lambda: api.layer_size(NAME, wide),
        lambda: api.layer_url(NAME, wide),
        lambda: api.complete_upload(NAME, "x", wide),
    ]
    cloud.calls.clear()
    for call in calls:
        with pytest.raises(Rejected):
            await call()
    assert await api.images(NAME, [wide]) == {}
    assert not cloud.calls


async def test_an_image_with_wrong_bytes_is_left_out(api: Api, cloud: EcrDouble) -> None:
    bad, good = images.chart(1), images.chart(2)
    cloud.registry().add(bad, NAME, "bad")
    cloud.registry().add(good, NAME, "good")
    cloud.corrupt_image(bad.digest)
    found = await api.images(NAME, [Tag("bad"), Digest(bad.digest), Tag("good")])
    assert found == {Tag("good"): parsed(good)}


async def test_a_layer_can_be_downloaded_once_an_image_names_it(api: Api) -> None:
    chart = images.chart()
    (_, content) = chart.blobs
    digest = await push_layer(api, content.read())
    with pytest.raises(BlobUnknown, match="LayerInaccessible"):
        await api.layer_url(NAME, digest)
    with pytest.raises(BlobUnknown, match="LayersNotFound"):
        await api.layer_url(NAME, Digest.of(b"other"))
    await push(api, chart)
    assert await asyncio.to_thread(download, await api.layer_url(NAME, digest)) == content.read()


async def test_a_repository_is_created_as_the_template_says(make: Make, cloud: EcrDouble) -> None:
    template = RepositoryTemplate(
        kms_key=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1",
        scan_on_push=False,
        tag_mutability="IMMUTABLE_WITH_EXCLUSION",
        exclusions=("latest", "dev-*"),
        lifecycle_policy=POLICY,
        policy=ACCESS,
        tags={"team": "platform"},
    )
    api = make(repository=template)
    assert await api.create_repository(NAME)
    assert await api.set_policies(NAME, new=True)
    made = cloud.registry().repositories[NAME]
    assert made.settings == {
        "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
        "imageTagMutabilityExclusionFilters": [
            {"filterType": "WILDCARD", "filter": "latest"},
            {"filterType": "WILDCARD", "filter": "dev-*"},
        ],
        "imageScanningConfiguration": {"scanOnPush": False},
        "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": template.kms_key},
        "tags": [{"Key": "team", "Value": "platform"}],
    }
    assert (made.lifecycle_policy, made.policy) == (POLICY, ACCESS)


async def test_a_repository_that_exists_is_left_as_it_is(api: Api, make: Make, cloud: EcrDouble) -> None:
    assert not await make(repository=RepositoryTemplate(tag_mutability="IMMUTABLE")).create_repository(NAME)
    kept = cloud.registry().repositories[NAME]
    assert kept.settings["imageTagMutability"] == "MUTABLE"


async def test_a_repository_whose_creation_was_not_confirmed_counts_as_created(make: Make, cloud: EcrDouble) -> None:
    cloud.break_off("CreateRepository", done=True)
    assert await make().create_repository(NAME)
    assert cloud.count("CreateRepository") == 2


async def test_policies_are_set_over_others_only_where_the_repository_is_new(make: Make, cloud: EcrDouble) -> None:
    api = make(repository=RepositoryTemplate(lifecycle_policy=POLICY, policy=ACCESS))
    await api.create_repository(NAME)
    made = cloud.registry().repositories[NAME]
    made.lifecycle_policy = by_hand = POLICY.replace("1", "7")
    assert await api.set_policies(NAME, new=False)
    assert (made.lifecycle_policy, made.policy) == (by_hand, ACCESS)
    assert await api.set_policies(NAME, new=True)
    assert made.lifecycle_policy == POLICY


async def test_a_policy_that_may_not_be_set_keeps_nobody_from_pushing(
    make: Make, cloud: EcrDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.deny("PutLifecyclePolicy")
    api = make(repository=RepositoryTemplate(lifecycle_policy=POLICY, policy=ACCESS))
    await api.create_repository(NAME)
    assert not await api.set_policies(NAME, new=True)
    assert cloud.registry().repositories[NAME].policy == ACCESS
    await push(api, images.chart())
    assert "PutLifecyclePolicy" in capsys.readouterr().out


async def test_every_call_says_that_the_repository_is_missing(make: Make) -> None:
    api, digest = make(repository=RepositoryTemplate(policy=ACCESS)), Digest.of(b"x")
    calls: list[Awaitable[Any]] = [
        api.missing_layers(NAME, [digest]),
        api.layer_size(NAME, digest),
        api.begin_upload(NAME),
        api.upload_part(NAME, UPLOAD, 0, b"x"),
        api.complete_upload(NAME, UPLOAD, digest),
        api.put_image(NAME, parsed(images.chart()), None),
        api.images(NAME, [digest]),
        api.layer_url(NAME, digest),
        api.set_policies(NAME, new=True),
        api.set_policies(NAME, new=False),
    ]
    for call in calls:
        with pytest.raises(RepositoryMissing, match=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{NAME}"):
            await call


async def test_a_key_that_cannot_be_used_is_refused_with_the_remedy(api: Api, cloud: EcrDouble) -> None:
    cloud.fail("InitiateLayerUpload", "KmsException", fields={"kmsError": "DisabledException"})
    with pytest.raises(KeyRefused, match="check that the repository's KMS key exists and is enabled"):
        await api.begin_upload(NAME)


async def test_another_accounts_registry_is_named_so_that_nothing_lands_in_our_own(
    make: Make, cloud: EcrDouble
) -> None:
    await make(account="444455556666").create_repository(NAME)
    assert NAME in cloud.registry("444455556666").repositories
    assert NAME not in cloud.registry().repositories


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (("ThrottlingException", 1, 400), "throttled"),
        (("ServerException", 1, 500), "failed"),
        (("ServiceUnavailable", 1, 503), "failed"),
    ],
)
async def test_what_passes_is_tried_again_and_each_attempt_is_observed(
    api: Api, cloud: EcrDouble, outcomes: Counter[tuple[str, str]], error: tuple[str, int, int], outcome: str
) -> None:
    cloud.fail("InitiateLayerUpload", *error)
    cloud.break_off("InitiateLayerUpload")
    await api.begin_upload(NAME)
    assert cloud.count("InitiateLayerUpload") == 3
    seen = {kind: count for (operation, kind), count in outcomes.items() if operation == "InitiateLayerUpload"}
    assert seen == dict(Counter([outcome, "failed", "ok"]))


@pytest.mark.parametrize(
    ("code", "kind", "tries"),
    [
        ("ThrottlingException", Throttled, TRIES),
        ("ServerException", Unreachable, TRIES),
        ("AccessDeniedException", Refused, 1),
        ("InvalidParameterException", Rejected, 1),
        ("LimitExceededException", Rejected, 1),
        ("SomethingNewException", Rejected, 1),
    ],
)
async def test_what_stays_is_raised_after_so_many_tries(
    api: Api, cloud: EcrDouble, code: str, kind: type[EcrError], tries: int
) -> None:
    cloud.fail("BatchGetImage", code, times=math.inf)
    with pytest.raises(EcrError) as error:
        await api.images(NAME, [LATEST])
    assert type(error.value) is kind
    assert cloud.count("BatchGetImage") == tries


async def test_answers_by_name_are_observed(api: Api, cloud: EcrDouble, outcomes: Counter[tuple[str, str]]) -> None:
    chart = images.chart()
    await push(api, chart)
    await push(api, chart)
    cloud.deny("PutImage")
    with pytest.raises(Refused):
        await api.put_image(NAME, parsed(chart), None)
    with pytest.raises(UploadLost):
        await api.upload_part(NAME, UPLOAD, 0, b"x")
    assert outcomes["PutImage", "ok"] == 2
    assert outcomes["PutImage", "refused"] == 1
    assert outcomes["UploadLayerPart", "rejected"] == 1

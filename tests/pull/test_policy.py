"""The operator's rules over the running program: what is refused, what the client and the log are told, what stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import PolicyDenied
from proxy.oci.names import Repository
from proxy.pull.rules import Rules
from tests.conftest import StartMillpond
from tests.ecr.fleet import targets
from tests.pull.house import house as in_process
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
REPOSITORY: Final = "library/tool"
IMAGE: Final = f"{UPSTREAM}/{REPOSITORY}"
OLD, NEW = images.chart(seed=1), images.chart(seed=2)
REASON: Final = "CVE-2024-3094, see the wiki"


@dataclass(frozen=True, slots=True)
class House:
    """A Millpond before an upstream whose tag `1` is OLD."""

    upstream: ScriptedUpstream
    millpond: Millpond

    @property
    def base(self) -> str:
        return f"{self.millpond.url}/v2/{UPSTREAM}/{REPOSITORY}"

    def manifest(self, reference: str = "1", method: str = "GET") -> Reply:
        return get(f"{self.base}/manifests/{reference}", method=method)

    def blob(self, digest: str, method: str = "GET", **headers: str) -> Reply:
        return get(f"{self.base}/blobs/{digest}", headers, method=method)

    def gets(self, image: Manifest, reference: str = "1") -> None:
        reply = self.manifest(reference)
        assert (reply.status, reply.body) == (200, image.body), reply.text

    def refuses(self, reply: Reply, *told: str) -> None:
        """403 DENIED, with these words."""
        assert (reply.status, reply.error_code) == (403, "DENIED"), reply.text
        message = reply.json()["errors"][0]["message"]
        assert all(words in message for words in told), message

    def restart(self, **policy: Any) -> None:
        """With another policy."""
        self.millpond.terminate()
        self.millpond.configure({**self.millpond.config, "policy": policy})
        self.millpond.start()

    def decisions(self, **fields: Any) -> list[dict[str, Any]]:
        self.millpond.settle_log()
        return self.millpond.log_lines(event="policy", **fields)

    def counted(self, rule: str, outcome: str) -> float:
        return self.millpond.metric("millpond_policy_decisions_total", rule=rule, outcome=outcome)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.add(OLD, REPOSITORY, "1")
        yield running


@pytest.fixture
def house(upstream: ScriptedUpstream, start_millpond: StartMillpond) -> House:
    """Without a policy, and with tags that are compared at each request; `restart` gives it one."""
    return House(upstream, start_millpond({UPSTREAM: upstream.upstream(tag_ttl="0s")}))


def block(digest: str) -> dict[str, str]:
    return {"digest": digest, "reason": REASON}


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat()


def test_without_a_policy_nothing_is_decided_and_nothing_is_kept(house: House) -> None:
    house.gets(OLD)
    house.upstream.add(NEW, REPOSITORY, "1")
    house.gets(NEW)
    assert house.decisions() == []
    assert not (house.millpond.cache / "sightings").exists()


# Cooldown


def test_a_new_tag_is_refused_by_every_method_and_served_by_digest(house: House) -> None:
    house.restart(cooldown=[{"min_age": "7d"}])
    refused = house.manifest()
    house.refuses(refused, f"{IMAGE}:1", OLD.digest, "newer than 7d", "policy.cooldown[0].exempt")
    head = house.manifest(method="HEAD")
    assert (head.status, head.size) == (403, 0)
    pull(house.base, OLD, OLD.digest)
    (first, _) = house.decisions(rule="policy.cooldown[0]", decision="refused", image=f"{IMAGE}:1")
    assert first["digest"] == OLD.digest
    assert first["until"] in refused.json()["errors"][0]["message"]
    assert house.counted("cooldown", "refused") == 2


def test_a_tag_that_moves_keeps_its_digest_over_restarts_and_kills_until_the_new_one_is_old_enough(
    house: House,
) -> None:
    """K: what was seen when is on the disk."""
    house.restart(cooldown=[{"min_age": "7d", "trusted_until": "2100-01-01"}])
    house.gets(OLD)
    waiting = [{"min_age": "7d", "trusted_until": now()}]
    house.restart(cooldown=waiting)
    house.upstream.add(NEW, REPOSITORY, "1")
    house.gets(OLD)
    (held,) = house.decisions(decision="held")
    assert (held["rule"], held["digest"], held["newer"]) == ("policy.cooldown[0]", OLD.digest, NEW.digest)
    house.millpond.kill()
    house.millpond.start()
    house.gets(OLD)
    house.gets(NEW, NEW.digest)
    house.restart(cooldown=[{"min_age": "1s"}])
    wait_until(lambda: house.manifest().body == NEW.body, "NEW is old enough")
    assert house.counted("cooldown", "passed") >= 1


def test_an_exemption_lets_an_emergency_through(house: House) -> None:
    house.restart(cooldown=[{"exempt": [f"{IMAGE}:1", f"{IMAGE}@{NEW.digest}"]}])
    house.gets(OLD)
    house.upstream.add(NEW, REPOSITORY, "2", "3")
    house.gets(NEW, "2")
    assert {entry["decision"] for entry in house.decisions(rule="policy.cooldown[0]")} == {"exempted"}
    house.upstream.add(OLD, REPOSITORY, "3")
    house.refuses(house.manifest("3"), f"{IMAGE}:3")


# By digest only


def test_a_tag_is_refused_where_a_digest_is_required_and_upstream_is_not_asked(house: House) -> None:
    house.restart(require_digest=["ghcr.io/*", "docker.io/library/*"])
    signature_tag, signature = images.signature(OLD)
    house.upstream.add(signature, REPOSITORY, signature_tag)
    for method in ("GET", "HEAD"):
        reply = house.manifest(method=method)
        assert reply.status == 403
    house.refuses(house.manifest(), f"{IMAGE}:1 is a tag", "policy.require_digest[1]", "write the digest", IMAGE)
    assert house.upstream.requests == []
    pull(house.base, OLD, OLD.digest)
    house.gets(signature, signature_tag)
    house.upstream.add(OLD, "other/tool", "1")
    assert get(f"{house.millpond.url}/v2/{UPSTREAM}/other/tool/manifests/1").status == 200
    (first, *_) = house.decisions()
    assert (first["rule"], first["decision"], first["image"]) == ("policy.require_digest[1]", "refused", f"{IMAGE}:1")
    assert house.counted("require_digest", "refused") == 3


# Blocked digests


@pytest.mark.parametrize("cached", [False, True], ids=["cold", "cached"])
def test_a_blocked_manifest_is_refused_by_tag_and_by_digest(house: House, *, cached: bool) -> None:
    if cached:
        pull(house.base, OLD, "1")
        wait_until(lambda: house.millpond.metric("millpond_flights") == 0, "all of it is on the disk")
    house.restart(block=[block(NEW.digest), block(OLD.digest)])
    asked = len(house.upstream.requests)
    for method in ("GET", "HEAD"):
        assert house.manifest(OLD.digest, method).status == 403
    assert len(house.upstream.requests) == asked
    told = f"{IMAGE}@{OLD.digest} is blocked by policy.block[1]: {REASON}"
    for reference in (OLD.digest, "1"):
        house.refuses(house.manifest(reference), told)
    assert house.decisions(rule="policy.block[1]", decision="refused", reason=REASON, blocked=OLD.digest)
    house.upstream.add(images.chart(seed=3), REPOSITORY, "1")
    house.gets(images.chart(seed=3))  # a tag that moves on is good again


@pytest.mark.parametrize("cached", [False, True], ids=["cold", "cached"])
def test_a_blocked_blob_is_refused_with_every_manifest_that_names_it(house: House, *, cached: bool) -> None:
    config, layer = OLD.blobs
    if cached:
        pull(house.base, OLD, "1")
        wait_until(lambda: house.millpond.metric("millpond_flights") == 0, "all of it is on the disk")
    house.restart(block=[block(layer.digest)])
    told = f"{IMAGE}@{layer.digest} is blocked by policy.block[0]: {REASON}"
    house.refuses(house.blob(layer.digest), told)
    house.refuses(house.blob(layer.digest, Range="bytes=5-9"), told)
    assert house.blob(layer.digest, "HEAD").status == 403
    contains = f"{IMAGE}@{OLD.digest} contains {layer.digest}, which is blocked by policy.block[0]: {REASON}"
    for reference in ("1", OLD.digest):
        house.refuses(house.manifest(reference), contains)
    assert house.blob(config.digest).status == 200
    assert not house.upstream.seen(layer.digest)[1:]  # cold or not, it has never been asked for since


def test_an_index_that_names_a_blocked_image_is_refused(house: House, images_directory: Path) -> None:
    children = [images.simple_image(images_directory, seed=seed, size=1000) for seed in (40, 41)]
    house.upstream.add(images.index(children), REPOSITORY, "2")
    house.restart(block=[block(children[1].digest)])
    house.refuses(house.manifest("2"), f"contains {children[1].digest}, which is blocked by policy.block[0]")
    house.refuses(house.manifest(children[1].digest), f"{IMAGE}@{children[1].digest} is blocked")
    house.gets(children[0], children[0].digest)


# What a refusal is not


@pytest.mark.parametrize(
    "policy",
    [{"cooldown": [{}]}, {"require_digest": ["*"]}, {"block": [block(OLD.digest)]}],
    ids=["cooldown", "require_digest", "block"],
)
def test_a_refusal_leaves_the_cache_as_it_is(house: House, policy: dict[str, Any]) -> None:
    """A K: without the policy everything is a hit again, and nothing has been fetched twice."""
    pull(house.base, OLD, "1")
    wait_until(lambda: house.millpond.metric("millpond_flights") == 0, "all of it is on the disk")
    fetched = len(house.upstream.seen())
    house.restart(**policy)
    for _ in range(3):
        house.refuses(house.manifest())
    house.restart()
    house.upstream.stop()
    assert {reply.headers["x-millpond"] for reply in pull(house.base, OLD, "1")} == {"stale", "hit"}
    assert len(house.upstream.seen()) == fetched


def test_what_is_refused_is_not_pushed_to_ecr(
    upstream: ScriptedUpstream, start_millpond: StartMillpond, images_directory: Path
) -> None:
    """An index whose one image is blocked comes to nobody by `millpond ecr sync` either, nor a tag that has to wait."""
    child, bad = (images.simple_image(images_directory, seed=seed, size=1000) for seed in (42, 43))
    inner = images.index([images.index([child, bad])])  # the outer one names nothing that is blocked
    upstream.add(inner, REPOSITORY, "2")
    with EcrDouble() as cloud:
        millpond = start_millpond(
            {UPSTREAM: upstream.upstream()},
            env=cloud.environment,
            ecr=targets(cloud),
            policy={"block": [block(bad.digest)], "cooldown": [{"images": [f"{UPSTREAM}/waiting/*"]}]},
        )
        upstream.add(OLD, "waiting/tool", "1")
        house = House(upstream, millpond)
        house.gets(inner, "2")
        content = f'{{"images": ["{UPSTREAM}/waiting/tool:1"]}}'.encode()
        headers = {"Content-Type": "application/json"}
        sync = get(f"{millpond.admin_url}/api/v1/ecr/sync", headers, method="POST", content=content)
        assert "policy.cooldown[0] holds back" in sync.text
        registry = cloud.registry(ACCOUNT, REGION)
        refused = wait_until(lambda: house.decisions(blocked=bad.digest), "a push has come to what is blocked")
        assert refused[0]["rule"] == "policy.block[0]"
        assert registry.image(IMAGE, inner.digest) is None
        assert registry.image(IMAGE, bad.digest) is None
        assert f"{UPSTREAM}/waiting/tool" not in registry.repositories
        assert millpond.metric("millpond_flight_failures_total") == 0


@pytest.mark.anyio
async def test_a_blocked_manifest_is_no_use_to_pushes_in_quiet_times_either(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """They take what is in the cache, without a question to anybody."""
    digest, repository = Digest.parse(OLD.digest), Repository(UPSTREAM, REPOSITORY)
    for block_it in (False, True):
        rules = Rules(block={digest: REASON} if block_it else {})
        async with in_process(tmp_path, {UPSTREAM: upstream.url}, rules=rules) as running:
            if block_it:
                with pytest.raises(PolicyDenied, match=REASON):
                    await running.supply.manifest(repository, digest, spare=True)
            else:
                assert (await running.supply.manifest(repository, digest, spare=True)).body == OLD.body
    assert len(upstream.requests) == 1

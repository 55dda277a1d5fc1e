"""Why a pull was as it was: the situations of a bad night, each planted for real, and its cause in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.pull import situations
from tests.pull.situations import IMAGE, PASSWORD_OF_YESTERDAY, PATH, UPSTREAM, Planted, explain, pulled, step, stocked
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.pulls import get, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

OTHER: Final = images.image([images.blob(b"".join(images.noise(40_000, 8)), images.OCI_LAYER)])


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with stocked() as running:
        yield running


# The ten situations, and their kin


def test_an_upstream_that_is_down_is_the_cause_and_the_tag_goes_on_stale(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.upstream_is_down(start_millpond, upstream)
    found = planted.explain()
    assert found["cause"].startswith(f"Upstream {UPSTREAM} is down or fails: ")
    assert "stale" in found["next"]
    assert planted.manifest().headers["x-millpond"] == "stale"
    never = Planted(planted.millpond, "library/never")
    assert never.explain()["cause"].startswith(f"Upstream {UPSTREAM} is down or fails: ")
    assert "502" in never.explain()["next"]
    assert never.manifest().status == 502


def test_an_upstream_that_limits_millpond_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.upstream_limits(start_millpond, upstream)
    never = Planted(planted.millpond, "library/never")
    found = never.explain()
    assert found["cause"].startswith(f"Upstream {UPSTREAM} limits Millpond: ")
    assert "429" in found["next"]
    assert never.manifest().status == 429
    assert planted.explain()["cause"].startswith(f"Upstream {UPSTREAM} limits Millpond: ")
    assert len(upstream.seen("manifests/", "HEAD")) == 1, "a limit that is known is not asked about again"


def test_a_quota_that_is_used_up_is_the_cause_even_though_questions_are_still_answered(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = Planted(start_millpond({UPSTREAM: upstream.upstream()}))
    limit = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}

    def limited(_: object, answer: Any) -> Any:
        return type(answer)(answer.status, answer.body, {**answer.headers, **limit}, ranged=False)

    upstream.script("manifests/", then=limited, method="HEAD")
    found = planted.explain()
    assert found["cause"] == f"Upstream {UPSTREAM} limits Millpond: it says that 0 of 100 pulls are left."
    assert step(found, "rate limit")["answer"] == "0 of 100 left"


def test_a_token_that_is_refused_is_the_cause_and_no_secret_is_told(
    start_millpond: StartMillpond, token_registry: Registry
) -> None:
    planted = situations.token_is_refused(start_millpond, token_registry)
    assert planted.manifest().status == 403
    found = planted.explain()
    assert found["cause"].startswith(f"Upstream {UPSTREAM} refuses Millpond: ")
    assert "403" in found["next"]
    assert step(found, "upstream")["answer"] == "refuses"
    assert step(found, "credentials")["answer"] == "password"
    assert PASSWORD_OF_YESTERDAY not in str(found)
    assert "Bearer ey" not in str(found)


def test_a_tag_that_upstream_has_deleted_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.tag_is_deleted(start_millpond, upstream)
    found = planted.explain()
    assert found["cause"].startswith(f"The tag is deleted at upstream {UPSTREAM}, ")
    assert "404" in found["next"]
    assert step(found, "upstream")["answer"] == "does not have it"
    assert found["digest"] == IMAGE.digest, "to explain forgets nothing"
    assert planted.manifest().status == 404
    found = planted.explain()
    assert found["cause"].startswith(f"The tag is deleted at upstream {UPSTREAM}, which had it when it was pulled")
    assert found["digest"] is None


def test_a_policy_that_refuses_is_the_cause_and_nothing_is_decided_by_asking(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.policy_denies(start_millpond, upstream)
    found = planted.explain()
    assert found["cause"].startswith("The policy refuses it: ")
    assert "policy.block[0]: CVE-2024-3094" in found["cause"]
    assert "403" in found["next"]
    assert planted.millpond.metric("millpond_policy_decisions_total") == 0
    assert planted.manifest().status == 403
    assert planted.millpond.metric("millpond_policy_decisions_total") == 1


def test_a_cooldown_is_the_cause_and_its_clock_does_not_begin_by_asking(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    cooldown = {"cooldown": [{"images": ["*"], "min_age": "7d"}]}
    planted = Planted(start_millpond({UPSTREAM: upstream.upstream(tag_ttl="0s")}, policy=cooldown))
    found = planted.explain()
    assert "policy.cooldown[0] holds back what is newer than 7d" in found["cause"]
    planted.millpond.settle_log()
    assert not list(planted.millpond.log_lines(event="policy"))
    assert planted.manifest().status == 403
    first_seen = planted.explain()["cause"]
    assert first_seen == planted.explain()["cause"], "it counts from the pull on"


def test_a_scan_with_findings_is_the_cause_once_it_is_known(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    with EcrDouble() as cloud:
        cloud.registry().add(IMAGE, f"{UPSTREAM}/{PATH}", "1").scan(IMAGE.digest, CRITICAL=2)
        target = {"name": "prod", "account": ACCOUNT, "region": REGION, "endpoint_url": cloud.url}
        millpond = start_millpond(
            {UPSTREAM: upstream.upstream(tag_ttl="1h")},
            env=cloud.environment,
            ecr={"targets": [target]},
            policy={"scan_gate": {"target": "prod"}},
        )
        planted = Planted(millpond)
        assert planted.manifest().status == 403
        found = planted.explain()
        assert found["cause"].startswith("The policy refuses it: ECR's scan of ")
        assert "2 findings (2 CRITICAL)" in found["cause"]
        assert millpond.metric("millpond_policy_decisions_total", outcome="refused") == 1


def test_a_manifest_that_was_damaged_is_the_cause_and_upstream_is_asked_for_it(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = pulled(start_millpond, upstream, "1h")
    planted.millpond.blob_file(IMAGE.digest).write_bytes(b"{}")
    found = planted.explain()
    assert "was found damaged" in found["cause"], found
    assert found["next"].startswith(f"It asks upstream {UPSTREAM} for the manifest")


def test_rules_of_access_are_the_cause_for_whom_they_deny(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    rules = [
        {"action": "allow", "users": ["dev"]},
        {"action": "deny", "repositories": [f"{UPSTREAM}/library/*"], "reason": "use base images of ours"},
    ]
    tokens = tmp_path / "tokens"
    tokens.write_text("dev:sixteen-characters-and-more\n")
    tokens.chmod(0o600)
    access = {"rules": rules, "default": "allow", "tokens_file": str(tokens), "anonymous": True}
    planted = Planted(start_millpond({UPSTREAM: upstream.upstream()}, access=access))
    found = planted.explain()
    assert found["cause"] == "The rules of access deny it: use base images of ours (access.rules[1])."
    assert step(found, "access")["answer"] == "denied"
    assert "another user" in step(found, "access")["detail"]
    assert step(planted.explain(user="dev"), "access")["answer"] == "allowed"


def test_a_disk_that_is_full_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with situations.disk_is_full(start_millpond, upstream, tmp_path) as planted:
        found = planted.explain()
        assert found["cause"].startswith("The disk cache takes nothing new"), found
        assert "there is no room for 3.0 MiB: cache.max_size is 1.0 GiB, 0 bytes are free" in found["cause"]
        assert "past the disk" in found["next"]


def test_an_ecr_target_that_throttles_is_the_cause(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    with situations.ecr_throttles(start_millpond, upstream) as planted:
        found = planted.explain()
        assert found["cause"].startswith("ECR target "), found
        assert "has trouble: " in found["cause"]
        assert "thrott" in found["cause"].lower() or "rate" in found["cause"].lower(), found["cause"]
        assert step(found, "ecr dev")["answer"] in ("queued", "pushing")
        assert "from disk" in found["next"], "clients do not notice"


def test_a_file_that_was_damaged_and_evicted_is_the_cause_until_it_is_whole_again(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = situations.corrupt_file_is_evicted(start_millpond, upstream)
    layer = f"blob {IMAGE.blobs[1].digest}"
    found = planted.explain()
    assert found["cause"].startswith("Not all of it is on disk any more: "), found
    assert "damaged" in found["cause"]
    assert step(found, layer)["answer"] == "upstream"
    assert "1 (39.1 KiB) are fetched from upstream" in found["next"]
    pull(planted.base, IMAGE, "1")
    landed(planted.millpond)
    assert step(planted.explain(), layer)["answer"] == "disk"


def test_a_client_that_was_too_slow_is_the_cause(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    found = situations.client_is_too_slow(start_millpond, upstream).explain()
    assert "by 127.0.0.1, ended before its last byte: the client was too slow: " in found["cause"], found
    assert "registry.write_timeout" in found["cause"]
    assert "served from disk" in found["next"]


def test_a_tag_that_is_older_than_its_ttl_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    found = situations.tag_is_older_than_its_ttl(start_millpond, upstream).explain()
    assert found["cause"].endswith("longer ago than tag_ttl (1 s) allows."), found
    assert found["next"].startswith(f"It compares the tag with upstream {UPSTREAM} by HEAD"), found


def test_a_tag_that_upstream_was_asked_for_again_is_told_as_served_from_disk(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = pulled(start_millpond, upstream, "1s")

    def told() -> bool:
        assert planted.manifest().headers["x-millpond"] == "hit"
        return "had upstream asked before it was served" in planted.explain()["cause"]

    wait_until(told, "the tag has been older than that, and was asked for")


# And the rest


def test_what_is_fresh_and_whole_is_well_and_upstream_is_not_asked(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = pulled(start_millpond, upstream, "1h")
    pull(planted.base, IMAGE, "1")
    asked = len(upstream.seen("", ""))
    found = explain(planted.millpond, "tool:1")
    assert len(upstream.seen("", "")) == asked
    assert (found["image"], found["name"], found["digest"]) == ("tool:1", planted.image, IMAGE.digest)
    assert found["next"] == "All of it is served from disk."
    assert step(found, "disk")["answer"] == "whole"
    assert step(found, "freshness")["answer"] == "fresh"
    assert "default_upstream" in step(found, "name")["detail"]
    assert {step(found, f"blob {blob.digest}")["answer"] for blob in IMAGE.blobs} == {"disk"}


def test_a_tag_that_has_moved_is_told_and_nothing_is_followed_by_asking(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = pulled(start_millpond, upstream)
    upstream.add(OTHER, PATH, "1")
    for _ in range(2):
        found = planted.explain()
        assert found["cause"] == f"The tag has moved upstream, from {IMAGE.digest} to {OTHER.digest}."
        assert found["digest"] == IMAGE.digest
    assert not upstream.seen(f"manifests/{OTHER.digest}"), "nothing is downloaded"


def test_what_was_never_pulled_is_told_and_the_alias_that_named_it(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    found = explain(millpond, "index.docker.io/tool:1")
    assert found["cause"].startswith("It is not on disk")
    assert found["next"].startswith(f"It asks upstream {UPSTREAM} for the manifest")
    assert "index.docker.io is an alias of docker.io" in step(found, "name")["detail"]
    assert not upstream.seen("manifests/", "GET"), "nothing is downloaded"
    assert not list((millpond.cache / "blobs").rglob("*.*")), "nor kept"


def test_a_name_that_means_nothing_here_is_refused_with_what_is_known(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    reply = get(f"{millpond.admin_url}/api/v1/explain?image=registry.example.com/x:1")
    assert reply.status == 400
    assert "known are" in reply.json()["error"]

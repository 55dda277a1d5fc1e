"""Why a pull was as it was: the situations of a bad night, each planted for real, and its cause in one sentence."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from tests.cache.disks import fill, landed, small_disk
from tests.conftest import StartMillpond
from tests.ecr.fleet import targets
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.faults import refuse
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.registry import Registry
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

UPSTREAM: Final = "docker.io"
PATH: Final = "library/tool"
NAME: Final = f"{UPSTREAM}/{PATH}:1"
MIB: Final = 1 << 20
IMAGE: Final = images.image([images.blob(b"".join(images.noise(40_000, 7)), images.OCI_LAYER)])
OTHER: Final = images.image([images.blob(b"".join(images.noise(40_000, 8)), images.OCI_LAYER)])


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    """Has IMAGE as the tag `1`."""
    with ScriptedUpstream() as running:
        running.add(IMAGE, PATH, "1")
        yield running


def explain(millpond: Millpond, image: str = NAME, **more: str) -> dict[str, Any]:
    query = "&".join(f"{key}={quote(value)}" for key, value in {"image": image, **more}.items())
    reply = get(f"{millpond.admin_url}/api/v1/explain?{query}")
    assert reply.status == 200, reply.text
    found: dict[str, Any] = reply.json()
    for sentence in (found["cause"], found["next"]):
        assert sentence[0].isupper(), sentence
        assert sentence.endswith("."), sentence
        assert ". " not in sentence, "one sentence is asked for"
    return found


def step(found: dict[str, Any], what: str) -> dict[str, str]:
    [one] = [step for step in found["steps"] if step["what"] == what]
    return dict(one)


def base(millpond: Millpond, path: str = PATH) -> str:
    return f"{millpond.url}/v2/{UPSTREAM}/{path}"


def started(start_millpond: StartMillpond, upstream: ScriptedUpstream, ttl: str = "0s", **config: Any) -> Millpond:
    """A Millpond that has pulled the image."""
    millpond = start_millpond({UPSTREAM: upstream.upstream(tag_ttl=ttl)}, **config)
    pull(base(millpond), IMAGE, "1")
    landed(millpond)
    return millpond


# The ten situations


def test_an_upstream_that_is_down_is_the_cause_and_the_tag_goes_on_stale(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream)
    upstream.stop()
    found = explain(millpond)
    assert found["cause"].startswith(f"Upstream {UPSTREAM} is down or fails: ")
    assert "stale" in found["next"]
    assert get(f"{base(millpond)}/manifests/1").headers["x-millpond"] == "stale"
    never_pulled = explain(millpond, f"{UPSTREAM}/library/never:1")
    assert never_pulled["cause"].startswith(f"Upstream {UPSTREAM} is down or fails: ")
    assert "502" in never_pulled["next"]
    assert get(f"{base(millpond, 'library/never')}/manifests/1").status == 502


def test_an_upstream_that_limits_millpond_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream)
    upstream.script("manifests/", then=refuse(429, retry_after="30"), method="HEAD")
    upstream.script("manifests/", then=refuse(429, retry_after="30"), method="GET")
    never_pulled = explain(millpond, f"{UPSTREAM}/library/never:1")
    assert never_pulled["cause"].startswith(f"Upstream {UPSTREAM} limits Millpond: ")
    assert "429" in never_pulled["next"]
    assert get(f"{base(millpond, 'library/never')}/manifests/1").status == 429
    assert explain(millpond)["cause"].startswith(f"Upstream {UPSTREAM} limits Millpond: ")
    assert len(upstream.seen("manifests/", "HEAD")) == 1, "a limit that is known is not asked about again"


def test_a_quota_that_is_used_up_is_the_cause_even_though_questions_are_still_answered(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = start_millpond({UPSTREAM: upstream.upstream()})
    limit = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}

    def limited(_: object, answer: Any) -> Any:
        return type(answer)(answer.status, answer.body, {**answer.headers, **limit}, ranged=False)

    upstream.script("manifests/", then=limited, method="HEAD")
    found = explain(millpond)
    assert found["cause"] == f"Upstream {UPSTREAM} limits Millpond: it says that 0 of 100 pulls are left."
    assert step(found, "rate limit")["answer"] == "0 of 100 left"


def test_a_token_that_is_refused_is_the_cause_and_no_secret_is_told(
    start_millpond: StartMillpond, token_registry: Registry
) -> None:
    token_registry.push(IMAGE, "private/tool", "1")
    millpond = start_millpond(
        {UPSTREAM: token_registry.upstream(username="robot", token_hosts=["127.0.0.1"])},
        env={"MILLPOND_UPSTREAMS__DOCKER_IO__PASSWORD": "of-yesterday"},
    )
    reply = get(f"{base(millpond, 'private/tool')}/manifests/1")
    assert reply.status == 403, reply.text
    found = explain(millpond, f"{UPSTREAM}/private/tool:1")
    assert found["cause"].startswith(f"Upstream {UPSTREAM} refuses Millpond: ")
    assert "403" in found["next"]
    assert step(found, "credentials")["answer"] == "password"
    assert "of-yesterday" not in str(found)
    assert "Bearer ey" not in str(found)


def test_a_tag_that_upstream_has_deleted_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream)
    upstream.remove_tag(PATH, "1")
    found = explain(millpond)
    assert found["cause"].startswith(f"The tag is deleted at upstream {UPSTREAM}, ")
    assert "404" in found["next"]
    assert found["digest"] == IMAGE.digest, "to explain forgets nothing"
    assert get(f"{base(millpond)}/manifests/1").status == 404


def test_a_policy_that_refuses_is_the_cause_and_nothing_is_decided_by_asking(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    blocked = IMAGE.blobs[1].digest
    millpond = started(start_millpond, upstream)
    millpond.terminate()
    millpond.configure({**millpond.config, "policy": {"block": [{"digest": blocked, "reason": "CVE-2024-3094"}]}})
    millpond.start()
    found = explain(millpond)
    assert found["cause"].startswith("The policy refuses it: ")
    assert "policy.block[0]: CVE-2024-3094" in found["cause"]
    assert "403" in found["next"]
    assert millpond.metric("millpond_policy_decisions_total") == 0
    assert get(f"{base(millpond)}/manifests/1").status == 403
    assert millpond.metric("millpond_policy_decisions_total") == 1


def test_a_cooldown_is_the_cause_and_its_clock_does_not_begin_by_asking(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = start_millpond(
        {UPSTREAM: upstream.upstream(tag_ttl="0s")}, policy={"cooldown": [{"images": ["*"], "min_age": "7d"}]}
    )
    found = explain(millpond)
    assert "policy.cooldown[0] holds back what is newer than 7d" in found["cause"]
    assert not list(millpond.log_lines(event="policy"))
    assert get(f"{base(millpond)}/manifests/1").status == 403
    first_seen = explain(millpond)["cause"]
    assert first_seen == explain(millpond)["cause"], "it counts from the pull on"


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
        assert get(f"{base(millpond)}/manifests/1").status == 403
        found = explain(millpond)
        assert found["cause"].startswith("The policy refuses it: ECR's scan of ")
        assert "2 findings (2 CRITICAL)" in found["cause"]
        assert millpond.metric("millpond_policy_decisions_total", outcome="refused") == 1


def test_a_manifest_that_was_damaged_is_the_cause_and_upstream_is_asked_for_it(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream, ttl="1h")
    millpond.blob_file(IMAGE.digest).write_bytes(b"{}")
    found = explain(millpond)
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
    millpond = start_millpond({UPSTREAM: upstream.upstream()}, access=access)
    found = explain(millpond)
    assert found["cause"] == "The rules of access deny it: use base images of ours (access.rules[1])."
    assert step(found, "access")["answer"] == "denied"
    assert "another user" in step(found, "access")["detail"]
    assert step(explain(millpond, user="dev"), "access")["answer"] == "allowed"


def test_a_disk_that_is_full_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    big = images.image([images.blob(b"".join(images.noise(3 * MIB, 9)), images.OCI_LAYER)])
    upstream.add(big, "library/big", "1")
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        section = {"directory": str(disk / "cache"), "max_size": "1GiB", "min_free": 0}
        millpond = start_millpond({UPSTREAM: upstream.upstream()}, cache=section)
        get(f"{base(millpond, 'library/big')}/manifests/1")
        fill(disk)
        reply = get(f"{base(millpond, 'library/big')}/blobs/{big.blobs[1].digest}")
        assert reply.digest == big.blobs[1].digest
        found = explain(millpond, f"{UPSTREAM}/library/big:1")
        assert found["cause"].startswith("The disk cache takes nothing new"), found
        assert "there is no room for 3.0 MiB: cache.max_size is 1.0 GiB, 0 bytes are free" in found["cause"]
        assert "past the disk" in found["next"]
        millpond.stop()


def test_an_ecr_target_that_throttles_is_the_cause(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    with EcrDouble() as cloud:
        cloud.throttle("PutImage", per_second=0)
        millpond = start_millpond(
            {UPSTREAM: upstream.upstream(tag_ttl="1h")}, env=cloud.environment, ecr=targets(cloud, read=False)
        )
        pull(base(millpond), IMAGE, "1")
        wait_until(lambda: explain(millpond)["cause"].startswith("ECR target "), "its trouble is known", 60)
        found = explain(millpond)
        assert "has trouble: " in found["cause"]
        assert "thrott" in found["cause"].lower() or "rate" in found["cause"].lower(), found["cause"]
        assert step(found, "ecr dev")["answer"] in ("queued", "pushing")
        assert "from disk" in found["next"], "clients do not notice"


def test_a_file_that_was_damaged_and_evicted_is_the_cause_until_it_is_whole_again(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream, ttl="1h")
    layer = IMAGE.blobs[1]
    file = millpond.blob_file(layer.digest)
    file.write_bytes(bytes(layer.size))
    reply = get(
        f"{millpond.admin_url}/api/v1/cache/verify",
        {"Content-Type": "application/json"},
        method="POST",
        content=b"{}",
    )
    assert reply.status == 200, reply.text
    assert not file.exists()
    found = explain(millpond)
    assert found["cause"].startswith("Not all of it is on disk any more: "), found
    assert "damaged" in found["cause"]
    assert step(found, f"blob {layer.digest}")["answer"] == "upstream"
    assert "1 (39.1 KiB) are fetched from upstream" in found["next"]
    pull(base(millpond), IMAGE, "1")
    landed(millpond)
    assert step(explain(millpond), f"blob {layer.digest}")["answer"] == "disk"


def test_a_client_that_was_too_slow_is_the_cause(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> None:
    big = images.image([images.blob(b"".join(images.noise(16 * MIB, 10)), images.OCI_LAYER)])
    upstream.add(big, "library/big", "1")
    millpond = start_millpond({UPSTREAM: upstream.upstream(tag_ttl="1h")}, registry={"write_timeout": "1s"})
    assert get(f"{base(millpond, 'library/big')}/manifests/1").status == 200
    assert get(f"{base(millpond, 'library/big')}/blobs/{big.blobs[0].digest}").status == 200
    with contextlib.closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", millpond.port))
        path = f"{base(millpond, 'library/big')}/blobs/{big.blobs[1].digest}".removeprefix(millpond.url)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {millpond.host}\r\n\r\n".encode())
        client.recv(100)
        wait_until(lambda: millpond.log_lines(outcome="client left"), "the client is let go")
    landed(millpond)
    found = explain(millpond, f"{UPSTREAM}/library/big:1")
    assert "by 127.0.0.1, ended before its last byte: the client was too slow: " in found["cause"], found
    assert "registry.write_timeout" in found["cause"]
    assert "served from disk" in found["next"]


def test_a_tag_that_is_older_than_its_ttl_is_the_cause(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream, ttl="1s")
    wait_until(lambda: step(explain(millpond), "freshness")["answer"] == "due", "the tag is older than that")
    found = explain(millpond)
    assert found["cause"].endswith("longer ago than tag_ttl (1 s) allows."), found
    assert found["next"].startswith(f"It compares the tag with upstream {UPSTREAM} by HEAD"), found


# And the rest


def test_what_is_fresh_and_whole_is_well_and_upstream_is_not_asked(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream, ttl="1h")
    pull(base(millpond), IMAGE, "1")
    asked = len(upstream.seen("", ""))
    found = explain(millpond, "tool:1")
    assert len(upstream.seen("", "")) == asked
    assert (found["image"], found["name"], found["digest"]) == ("tool:1", NAME, IMAGE.digest)
    assert found["next"] == "All of it is served from disk."
    assert step(found, "disk")["answer"] == "whole"
    assert step(found, "freshness")["answer"] == "fresh"
    assert "default_upstream" in step(found, "name")["detail"]
    assert {step(found, f"blob {blob.digest}")["answer"] for blob in IMAGE.blobs} == {"disk"}


def test_a_tag_that_has_moved_is_told_and_nothing_is_followed_by_asking(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    millpond = started(start_millpond, upstream)
    upstream.add(OTHER, PATH, "1")
    for _ in range(2):
        found = explain(millpond)
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

"""What an explanation may ask upstream: whoever reaches the admin port may ask why, and spends nothing by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.pull.questions import AT_ONCE, PACE, SERVES
from tests.admin.conftest import BEARER, TOKEN
from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.pull.situations import IMAGE, PATH, UPSTREAM, explain, pulled, step, stocked
from tests.support.command import well
from tests.support.faults import change
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

NEVER: Final = f"{UPSTREAM}/library/never:1"


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with stocked() as running:
        yield running


@pytest.fixture
def millpond(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Millpond:
    return start_millpond({UPSTREAM: upstream.upstream()})


@pytest.fixture
def wide(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Callable[..., Millpond]:
    """Makes one whose admin port is open to other machines."""

    def make(**admin: Any) -> Millpond:
        made = start_millpond({UPSTREAM: upstream.upstream(tag_ttl="0s")})
        made.terminate()
        made.configure({**made.config, "admin": {"listen": f"0.0.0.0:{made.admin_port}", **admin}})
        return made.start()

    return make


def heads(upstream: ScriptedUpstream) -> int:
    return len(upstream.seen("/manifests/", "HEAD"))


def test_an_answer_serves_everybody_for_a_moment_and_the_sentence_says_how_old_it_is(
    millpond: Millpond, upstream: ScriptedUpstream
) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda _: explain(millpond, NEVER), range(24)))
    assert {each["cause"].partition(": ")[0] for each in found} == {f"Upstream {UPSTREAM} does not have it"}
    assert heads(upstream) <= 1 + (time.monotonic() - began) / SERVES
    before = heads(upstream)

    def aged() -> dict[str, Any]:
        answer = explain(millpond, NEVER)
        return answer if "(asked " in answer["cause"] else {}

    old = wait_until(aged, "a second has passed")
    assert old["cause"].endswith(" s ago).")
    assert " s ago)" in step(old, "upstream")["detail"]
    wait_until(lambda: explain(millpond, NEVER) and heads(upstream) > before, "upstream is asked again")


def test_all_explanations_together_ask_little(millpond: Millpond, upstream: ScriptedUpstream) -> None:
    began = time.monotonic()
    found = [explain(millpond, f"{UPSTREAM}/library/never-{number}:1") for number in range(4 * AT_ONCE)]
    assert AT_ONCE <= heads(upstream) <= AT_ONCE + (time.monotonic() - began) / PACE + 1
    unasked = [step(each, "upstream")["detail"] for each in found if each["cause"].startswith("It is not on disk")]
    assert unasked, "what was not asked is no answer"
    assert {detail.partition(";")[0] for detail in unasked} == {
        "not asked now: explanations have asked upstreams for much in the last seconds"
    }


def test_what_is_left_of_a_rate_limit_is_for_clients(millpond: Millpond, upstream: ScriptedUpstream) -> None:
    quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "24;w=21600"}
    upstream.script("/manifests/", change(headers=quota), method="")
    assert get(f"{millpond.url}/v2/{UPSTREAM}/{PATH}/manifests/1").status == 200
    asked = heads(upstream)
    found = explain(millpond, NEVER)
    assert "24 of 100 pulls are left, for clients only" in step(found, "upstream")["detail"]
    assert heads(upstream) == asked


def test_who_may_not_pull_an_image_has_nobody_asked_about_it(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    rules = [{"action": "deny", "repositories": [f"{UPSTREAM}/library/never"], "reason": "not for you"}]
    millpond = start_millpond({UPSTREAM: upstream.upstream()}, access={"rules": rules, "default": "allow"})
    assert "not for you" in explain(millpond, NEVER)["cause"]
    assert heads(upstream) == 0
    assert explain(millpond, f"{UPSTREAM}/library/other:1")
    assert heads(upstream) == 1


def test_a_pull_that_knows_better_makes_an_older_answer_worthless(
    start_millpond: StartMillpond, upstream: ScriptedUpstream
) -> None:
    planted = pulled(start_millpond, upstream)
    upstream.remove_tag(PATH, "1")
    assert "deleted" in planted.explain()["cause"]
    upstream.add(IMAGE, PATH, "1")
    assert planted.manifest().status == 200
    assert "deleted" not in planted.explain()["cause"]


def test_strangers_have_upstream_asked_only_about_what_is_cached(
    wide: Callable[..., Millpond], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """S: whoever reaches the port could else try private names with Millpond's credentials."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    millpond = wide(token_file=str(secret))
    found = explain(millpond, NEVER)
    assert "sign in" in step(found, "upstream")["detail"]
    assert found["cause"].startswith("It is not on disk")
    never_by_digest = f"{UPSTREAM}/library/never@{IMAGE.digest}"
    assert explain(millpond, never_by_digest)["cause"].startswith("It is not on disk")
    assert heads(upstream) == 0
    signed_in = get(f"{millpond.admin_url}/api/v1/explain?image={NEVER}", BEARER).json()
    assert signed_in["cause"].startswith(f"Upstream {UPSTREAM} does not have it: ")
    assert heads(upstream) == 1
    pull(f"{millpond.url}/v2/{UPSTREAM}/{PATH}", IMAGE, "1")
    landed(millpond)
    asked = heads(upstream)
    assert step(explain(millpond, f"{UPSTREAM}/{PATH}:1"), "upstream")["answer"] == "ok"
    assert heads(upstream) == asked + 1


def test_the_command_line_beside_the_server_is_no_stranger(
    wide: Callable[..., Millpond], upstream: ScriptedUpstream
) -> None:
    millpond = wide()
    assert f"Upstream {UPSTREAM} does not have it: " in well("explain", NEVER, of=millpond)
    assert heads(upstream) == 1

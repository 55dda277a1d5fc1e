"""One soak, from an empty directory to its report."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.soak.clients import Clients
from tests.soak.report import Report
from tests.soak.stage import Stage, stage
from tests.soak.watch import Watch, idle
from tests.soak.weather import LINGERING
from tests.support.pulls import get
from tests.support.waiting import wait_until

Say = Callable[[str], None]

# Of the whole time: restarts and kills, then one life of the program, of which so much is for it to warm up.
_RESTARTS: Final = 0.3
_WARM_UP: Final = 0.25
# A storm and the calm after it, in seconds, in a run of ten minutes; a short run has shorter ones.
_STORM, _CALM = 20.0, 25.0
_SHORTEST_WEATHER: Final = 1.5
_LIVES: Final = 8  # restarts and kills in all, a third of a second apart at least


def soak(seconds: float, seed: int, directory: Path, say: Say, defect: str = "") -> Report:
    """Blocks for `seconds` and what it takes to start and to come to rest, up to a minute more."""
    with stage(directory, seed, defect) as played:
        watch = Watch(played.millpond, seconds)
        clients = Clients(played, seed, directory)
        watch.start()
        clients.start()
        say("restarts and kills")
        _restarts(played, seconds * _RESTARTS, say)
        life = played.millpond.starts
        begun = time.monotonic()
        say("one life: warm-up")
        _weather(played, seconds * _WARM_UP, say)
        clients.pause()
        played.clear_up()
        before = idle(played.millpond)
        _verify(played)
        clients.resume()
        warm = time.monotonic() - watch.began
        _weather(played, max(_SHORTEST_WEATHER, seconds * (1 - _RESTARTS) - (time.monotonic() - begun)), say)
        played.clear_up()
        clients.stop()
        say("calm: every image once more")
        # Until what upstream did wrong lingers in no breaker: from then on there is no excuse.
        wait_until(
            lambda: not played.weather.struck(time.monotonic(), time.monotonic()), "the air has cleared", 2 * LINGERING
        )
        clients.last_round()
        after = idle(played.millpond)
        watch.stop()
        counts = _counts(played)
        if played.millpond.starts != life:
            clients.account.blame("the program was started again by nobody")
        troubles = Counter(played.weather.happened) + played.outages.happened
        played.millpond.terminate()
        return Report(
            seconds,
            clients.account,
            watch.samples,
            [sample for sample in watch.samples if sample.at >= warm],
            (before, after),
            troubles,
            counts,
            [*played.millpond.complaints(), *played.upstream.violations, *played.cloud.violations],
        )


def _restarts(played: Stage, seconds: float, say: Say) -> None:
    """Storms without a calm, while the program ends in one way or the other again and again."""
    end = time.monotonic() + seconds
    played.blow()
    for number in range(_LIVES):
        time.sleep(max(0.3, (end - time.monotonic()) / (_LIVES - number)))
        with played.outages.down("kills" if number % 2 else "restarts"):
            if number % 2:
                played.millpond.kill()
            else:
                played.millpond.terminate(60.0)
            played.millpond.start()
        say(f"start {played.millpond.starts}")
        if time.monotonic() > end and number > 1:
            break
    played.clear_up()


def _weather(played: Stage, seconds: float, say: Say) -> None:
    """Storms and calms in turn; in each a file on the disk is damaged."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        played.blow()
        _rest(min(_STORM, max(_SHORTEST_WEATHER, left / 4)))
        _damage(played)
        played.clear_up()
        say(f"{max(0.0, end - time.monotonic()):.0f} s left of this part")
        left = end - time.monotonic()
        _rest(min(_CALM, max(0.0, left), max(_SHORTEST_WEATHER, left / 4)))


def _rest(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


def _damage(played: Stage) -> None:
    """Flip a bit of a blob that is on the disk, as a disk does it, but for the time of change, which tells of it.

    In place, and of a file that is there: one that is made anew after its eviction would be accounted for by nobody.
    """
    files = [path for path in (played.millpond.cache / "blobs").rglob("*") if path.is_file()]
    file = random.Random(len(files)).choice(files) if files else None
    if file is None:
        return
    digest = f"{file.parent.parent.name}:{file.name}"
    try:
        opened = os.open(file, os.O_RDWR)
    except FileNotFoundError:  # evicted meanwhile
        return
    try:
        size = os.fstat(opened).st_size
        if size:
            at = size // 2
            played.outages.damaged(digest)
            os.pwrite(opened, bytes([os.pread(opened, 1, at)[0] ^ 1]), at)
            played.outages.damaged(digest)
            played.outages.happened["flipped bits"] += 1
    finally:
        os.close(opened)


def _verify(played: Stage) -> None:
    """`millpond verify` of a disk with some damage, which it finds, unless the scrub was faster."""
    _damage(played)
    url, headers = f"{played.millpond.admin_url}/api/v1/cache/verify", {"Content-Type": "application/json"}
    reply = get(url, headers, method="POST", content=b"{}")
    last = json.loads(reply.text.splitlines()[-1])
    assert last["summary"]["intact"], last
    played.outages.happened["verifications"] += 1


def _counts(played: Stage) -> dict[str, float]:
    """What must have happened for the soak to mean anything; the program's own counts are of its last life."""
    millpond = played.millpond
    return {
        "evictions": millpond.metric("millpond_cache_evictions_total"),
        "upstream faults": played.weather.happened.total(),
        "scrubbed blobs": millpond.metric("millpond_scrubbed_blobs_total"),
        "damaged blobs found": millpond.metric("millpond_verification_failures_total", where="disk"),
        "images pushed": played.cloud.count("PutImage", outcome="ok"),
        "hits": millpond.metric("millpond_requests_total", source="hit"),
    }

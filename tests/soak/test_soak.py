"""The soak itself: a short one is good, and one of a program with defects is not."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.soak.clients import Account
from tests.soak.report import ALLOWANCE, Report, plot
from tests.soak.run import soak
from tests.soak.watch import Idle, Sample

MIB: Final = 1 << 20
ROOT: Final = Path(__file__).parents[2]
# Every hit leaves a file and a task behind, and whatever arrives is taken for verified.
DEFECT: Final = """
import asyncio, os
from proxy.cache.blobs import BlobStore
from proxy.oci.digest import Digest
usual, kept = BlobStore.open, []
async def leaking(self, digest):
    found = await usual(self, digest)
    if found is not None:
        kept.append((os.dup(found.file.fileno()), asyncio.create_task(asyncio.sleep(3600))))
    return found
BlobStore.open = leaking
Digest.matches = lambda self, hasher: True
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_seconds_of_everything_leave_nothing_behind(tmp_path: Path) -> None:
    """W P H A B."""
    report = soak(20, 1, tmp_path, print)
    text = "\n".join(report.lines())
    print(text)
    assert not list(report.failures()), text
    assert report.troubles["kills"] >= 1
    assert report.troubles["restarts"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_program_that_leaks_and_does_not_verify_is_found_out(tmp_path: Path) -> None:
    report = soak(10, 2, tmp_path, print, DEFECT)
    found = "\n".join(report.failures())
    assert "open files when idle" in found
    assert "open tasks when idle" in found
    assert "errors that no injected fault explains" in found
    assert any(text.startswith("wrong bytes: ") for text in report.account.unexpected)


def samples(levels: Sequence[float], seconds: float = 600) -> list[Sample]:
    """Of one life, with these levels of memory in MiB."""
    return [
        Sample(number * seconds / (len(levels) - 1), 1, int(level * MIB), 20, 10) for number, level in enumerate(levels)
    ]


def report(levels: Sequence[float], seconds: float = 600) -> Report:
    """A good one, but for its memory perhaps."""
    found, idle = samples(levels, seconds), Idle(20, 10, 0, 0)
    return Report(
        seconds, Account(Counter({"images pulled": 1})), found, found, (idle, idle), Counter(kills=1), {"evictions": 1}
    )


def test_memory_that_grows_by_more_than_a_tenth_fails_a_long_soak_only() -> None:
    flat, growing = [100, 104, 97, 101] * 10, [100 + step for step in range(40)]
    assert list(report(flat).failures()) == []
    assert list(report(growing).failures()) == ["memory grew by 29% after the warm-up"]
    assert list(report(growing, seconds=20).failures()) == []
    assert any("too short to judge" in line for line in report(growing, seconds=20).lines())


@pytest.mark.parametrize(
    ("idle", "says"),
    [
        (Idle(20 + ALLOWANCE, 10 + ALLOWANCE, 0, 0), None),
        (Idle(21 + ALLOWANCE, 10, 0, 0), "33 open files when idle, 20 after the warm-up"),
        (Idle(20, 11 + ALLOWANCE, 0, 0), "23 open tasks when idle, 10 after the warm-up"),
        (Idle(20, 10, 1, 0), "1 temporary files when idle"),
        (Idle(20, 10, 0, -5), "-5 bytes accounted for that are not on the disk"),
    ],
)
def test_what_is_left_when_idle_fails_a_soak(idle: Idle, says: str | None) -> None:
    good = report([100] * 8)
    assert list(replace(good, idle=(good.idle[0], idle)).failures()) == ([says] if says else [])


def test_a_soak_in_which_nothing_happened_shows_nothing() -> None:
    good = report([100] * 8)
    idle = replace(good, account=Account(), counts={"evictions": 0.0})
    assert list(idle.failures()) == [
        "there were no evictions: this soak shows nothing",
        "there were no images pulled: this soak shows nothing",
    ]


def test_an_unexpected_error_and_a_traceback_in_the_log_fail_a_soak() -> None:
    account = Account(Counter({"images pulled": 1}))
    account.blame("wrong bytes: x")
    bad = replace(report([100] * 8), account=account, complaints=["Traceback (most recent call last)"])
    assert list(bad.failures()) == [
        "1 errors that no injected fault explains",
        "1 signs of a defect, in the log or in what upstream and ECR were asked",
    ]
    assert any("wrong bytes: x" in line for line in bad.lines())


def test_the_plot_shows_each_start_and_the_highest_level_at_the_top() -> None:
    found = [replace(sample, life=1 + (sample.at > 300)) for sample in samples([100] * 50 + [200] * 50)]
    top, *middle, bottom, axis, scale = plot(found)
    assert top.startswith("  200.0 ")
    assert top.endswith("*" * 36)
    assert bottom.startswith("  100.0 " + "*" * 36)
    assert not any("*" in line for line in middle)
    assert axis.count("|") == 1
    assert scale.endswith("600 s")


def test_a_soak_of_no_time_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--seconds is 10 or more" in done.stderr

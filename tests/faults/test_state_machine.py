"""Everything interleaved at random: pulls, ranges, disconnects, faults, evictions, damage, full disks, restarts, kills.

MILLPOND_MACHINE_SECONDS=3600     for so long; two minutes under CI=true, half a minute elsewhere
MILLPOND_MACHINE_SEED=17          the cases that this number makes; always the same ones under CI=true
MILLPOND_MACHINE_CASE=AXic…       one case again, as a failure prints it
"""

from __future__ import annotations

import os
import random
import re
import time
from typing import Final

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.machine import clients, pond
from tests.faults.machine.defects import DEFECTS, Steps
from tests.faults.machine.machine import PondMachine, TimeIsUp, counts

CI: Final = os.environ.get("CI") == "true"
SECONDS: Final = float(os.environ.get("MILLPOND_MACHINE_SECONDS") or (120 if CI else 30))
# To reduce a failure to a short case takes Hypothesis up to five minutes, the last case as long as it takes.
PATIENCE: Final = 900

SETTINGS: Final = settings(
    max_examples=1_000_000,  # the clock ends it
    stateful_step_count=50,
    database=None,
    print_blob=True,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


# The upstream stops in the middle of whatever it does, so that sockets that it has just accepted are nobody's.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.timeout(SECONDS + PATIENCE)
def test_whatever_happens_in_whatever_order_no_wrong_byte_is_served_and_every_byte_is_accounted_for() -> None:
    """W P K S H A B, checked after each step."""
    number = int(os.environ.get("MILLPOND_MACHINE_SEED") or (1 if CI else random.randrange(1 << 32)))
    case = os.environ.get("MILLPOND_MACHINE_CASE")
    again = hypothesis.reproduce_failure(hypothesis.__version__, case.encode()) if case else seed(number)

    class Case(PondMachine):
        deadline = time.monotonic() + SECONDS

    try:
        run_state_machine_as_test(again(Case), settings=SETTINGS)
    except TimeIsUp:
        print(counts(Case.counted))
    except Exception as error:
        error.add_note(f"The same cases: MILLPOND_MACHINE_SEED={number}, for longer than this took")
        if found := re.search(r"@reproduce_failure\('[^']*', b'([^']*)'\)", "\n".join(error.__notes__)):
            error.add_note(f"This case alone: MILLPOND_MACHINE_CASE={found[1]}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize("alarm", DEFECTS)
def test_the_machine_sees_a_defect_and_is_content_without_it(alarm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the letters: a check that cannot fail would show nothing."""
    defect, steps = DEFECTS[alarm]

    class Defective(PondMachine):
        plant = defect

    _judge(PondMachine, steps)
    monkeypatch.setattr(clients, "SILENCE", 3.0)
    monkeypatch.setattr(pond, "_HOUSEKEEPING", 3.0)
    with pytest.raises(AssertionError, match=alarm):
        _judge(Defective, steps)


def _judge(kind: type[PondMachine], steps: Steps) -> None:
    machine = kind()
    try:
        steps(machine)
        machine.nothing_is_wrong()
    finally:
        machine.close()

"""A ledger that was killed while it was being made: found whole, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from proxy.cache.ledger import Ledger
from tests.support.programs import environment

# Makes one ledger after the other, each in a process that kills itself before a later statement of SQL, until one gets
# through. The program is the real one; only the moment is chosen.
_KILLED_AT_A_STATEMENT: Final = """
import itertools, os, signal, sqlite3, sys
from pathlib import Path
from proxy.cache.ledger import Ledger

connect = sqlite3.connect

def die_at(number):
    left = itertools.count(number, -1)
    def traced(*arguments, **named):
        connection = connect(*arguments, **named)
        connection.set_trace_callback(lambda _: next(left) or os.kill(os.getpid(), signal.SIGKILL))
        return connection
    return traced

for number in itertools.count(0, 13):
    child = os.fork()
    if not child:
        sqlite3.connect = die_at(number)
        Ledger(Path(sys.argv[1]) / f"ledger-{number}").write({"b first": [1]})
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.slow
def test_a_kill_while_a_ledger_is_being_made_is_no_damage(tmp_path: Path) -> None:
    """Rows 22 and 29; K B: at any of its statements. A false alarm would replace what a true one has set aside."""
    subprocess.run(
        [sys.executable, "-c", _KILLED_AT_A_STATEMENT, str(tmp_path)],
        env=environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
        timeout=100,
        check=True,
    )
    made = sorted(tmp_path.iterdir())
    assert len(made) > 5
    for directory in made:
        ledger = Ledger(directory)
        assert ledger.load() in ({}, {"b first": [1]})
        ledger.write({"b second": [2]})
        ledger.close()
        assert ledger.load()["b second"] == [2]
        assert [path.name for path in directory.iterdir() if path.is_dir()] == []
    assert sorted(tmp_path.iterdir()) == made  # nothing was set aside

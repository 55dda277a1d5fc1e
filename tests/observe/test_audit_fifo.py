"""An audit into a named pipe that nobody reads."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from proxy.observe.audit import Audit
from tests.support.waiting import DEADLINE


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_program(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    opening = threading.Thread(target=Audit, args=(pipe,), daemon=True)
    opening.start()
    opening.join(DEADLINE)
    assert not opening.is_alive()

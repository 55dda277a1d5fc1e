"""The program's commands, in a pipe and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from tests.support.programs import environment

ROOT: Final = Path(__file__).parents[2]
_COLOURS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_DEADLINE: Final = 100.0  # seconds

Done = subprocess.CompletedProcess[str]


class Configured(Protocol):
    """Whatever has a configuration file: a Millpond, or a place where one would run."""

    @property
    def config_file(self) -> Path: ...


def millpond(
    *arguments: str, of: Configured | Path | None = None, env: Mapping[str, str] | None = None, typed: str = ""
) -> Done:
    """Run `millpond` to its end, with a configuration, or with that `of` somebody; `typed` is its standard input."""
    return subprocess.run(
        _command(arguments, of),
        cwd=ROOT,
        env=environment(env),
        input=typed,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
    )


def well(*arguments: str, of: Configured | Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What `millpond` prints, which ends well and has nothing to complain of."""
    done = millpond(*arguments, of=of, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def refused(*arguments: str, of: Configured | Path | None = None, code: int = 2) -> str:
    """Its complaint, when it ends with `code`."""
    done = millpond(*arguments, of=of)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def on_terminal(*arguments: str, of: Configured | Path | None = None, until: str = "") -> tuple[int, str]:
    """The exit code, and all that a terminal of 200 columns has shown, without its colours. When that has `until` in
    it, Ctrl-C is pressed."""
    ours, theirs = pty.openpty()
    wide = environment({"COLUMNS": "200", "LINES": "50", "TERM": "xterm"})
    process = subprocess.Popen(_command(arguments, of), cwd=ROOT, env=wide, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = bytearray()
    try:
        while piece := os.read(ours, 65536):
            shown += piece
            if until and until in _COLOURS.sub("", shown.decode(errors="replace")):
                process.send_signal(signal.SIGINT)
                until = ""
    except OSError:  # how Linux says that nobody has the terminal open any more
        pass
    finally:
        os.close(ours)
    return process.wait(_DEADLINE), _COLOURS.sub("", shown.decode())


def _command(arguments: tuple[str, ...], of: Configured | Path | None) -> list[str]:
    config = of if isinstance(of, Path) or of is None else of.config_file
    return [sys.executable, "-m", "proxy.cli", *arguments, *(["--config", str(config)] if config else [])]

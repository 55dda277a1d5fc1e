"""confined.py SYSTEM-CALLS PROGRAM ARGUMENT…: run a program as systemd would run it with these system calls (names
in a file) and MemoryDenyWriteExecute=, except that what is not allowed kills it: nothing is overlooked."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_ALLOW: Final = 0x7FFF0000  # SCMP_ACT_ALLOW
_KILL: Final = 0x80000000  # SCMP_ACT_KILL_PROCESS
_SET_MDWE: Final = 65  # prctl's PR_SET_MDWE, of Linux 6.3 and later


def main() -> None:
    names, command = Path(sys.argv[1]).read_text().split(), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_MDWE, 1, 0, 0, 0):
        print("this kernel has no PR_SET_MDWE: memory may be written and executed", file=sys.stderr)
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    allowed = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_KILL)))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else of another architecture, or newer than this library
            seccomp.seccomp_rule_add(allowed, ctypes.c_uint32(_ALLOW), number, 0)
    if seccomp.seccomp_load(allowed):
        sys.exit("the filter was refused")
    os.execv(command[0], command)


main()

#!/usr/bin/env python3
"""assemble.py VENV TARGET VERSION: what the image holds, and nothing else, each part in a directory of TARGET.

    system/     Python without what a server never imports, the shared libraries that anything here loads, the
                certificates of authorities, and what tells a scanner where all that is from
    libraries/  the virtual environment without Millpond itself
    program/    Millpond: the part that changes with each version

VERSION, unless empty, has to be the program's. Run by the image's own Python in the stage that builds: a Debian or
Ubuntu with Python.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

STDLIB: Final = Path(sysconfig.get_path("stdlib"))

# Of the standard library: tests, windows, installers, other people's packages.
_NOT_SERVED: Final = frozenset({
    "__phello__", "__pycache__", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo",
})  # fmt: skip
# Its extension modules that only the former use, or a terminal; each would bring libraries along.
_NO_TERMINAL: Final = re.compile(
    r"(_?curses|_curses_panel|_dbm|_gdbm|_tkinter|readline|nis|ossaudiodev|_crypt|xxlimited|xxsubtype|_xx|_test|_ctypes_test)"
)
# Of the packages: sources of what is compiled, and what only type checkers read.
_NOT_RUN: Final = frozenset({".a", ".c", ".cpp", ".h", ".hpp", ".o", ".pxd", ".pxi", ".pyi", ".pyx", ".typed"})
# AWS's services that Millpond calls, or its credentials are from: roles, web identities, IAM Identity Center, login.
_AWS: Final = frozenset({"ecr", "ecr-public", "signin", "sso", "sso-oidc", "sts"})
# What colours a traceback on a terminal; the other languages are most of pygments.
_LEXERS: Final = frozenset({"__init__.py", "_mapping.py", "python.py", "special.py"})
# The C library opens these when it needs them, so that nothing names them; newer ones hold the first two themselves.
_UNNAMED: Final = ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2", "libgcc_s.so.1")
_LIBRARY: Final = re.compile(r"\.so(\.[0-9]+)*$")
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
# Names for the user, who needs none, and for whom a shell is none either.
_ETC: Final = {
    "passwd": "root:x:0:0:root:/:/nonexistent\nmillpond:x:65532:65532:Millpond:/var/lib/millpond:/nonexistent\n",
    "group": "root:x:0:\nmillpond:x:65532:\n",
    "nsswitch.conf": "hosts: files dns\n",
}


def main() -> None:
    venv, target, version = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if version and not next(venv.glob(f"lib/python3*/site-packages/millpond-{version}.dist-info"), None):
        sys.exit(f"the build argument VERSION says {version}, the program says something else")
    system = Root(target / "system")
    libraries, program = target / "libraries", target / "program"
    _environment(venv, libraries)
    _move_program(libraries, program)
    for python in (venv / "bin").glob("python*"):
        if python.readlink().is_absolute():  # the others point at this one
            system.add(python.readlink())
    for file in _standard_library():
        system.add(file)
    binaries = [Path(os.path.realpath(sys.executable)), *STDLIB.glob("lib-dynload/*.so"), *venv.rglob("*.so*")]
    loader = next(Path("/").glob("lib*/ld-linux*.so.*"))
    shared = {loader, *_shared([file for file in binaries if not _NO_TERMINAL.match(file.name)], loader, venv)}
    libc = next(file for file in shared if file.name == "libc.so.6")
    shared |= {libc.parent / name for name in _UNNAMED if (libc.parent / name).exists()}
    for file in sorted(shared):
        system.add(file)
    for file in (_CERTIFICATES, Path("/etc/ld.so.cache"), Path("/etc/os-release")):
        system.add(file)
    for name, text in _ETC.items():
        (system.path / "etc" / name).write_text(text)
    (system.path / "tmp").mkdir(mode=0o1777)
    (system.path / "tmp").chmod(0o1777)
    _packages(system)
    for part, place in ((system.path, "/"), (libraries, str(venv)), (program, str(venv))):
        # Not compared with the source's date, which a copy may change: the image is written once.
        compileall.compile_dir(
            part,
            quiet=1,
            stripdir=str(part),
            prependdir=place,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


class Root:
    """A root file system in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)

    def add(self, file: Path) -> None:
        """Copy a file to its place, together with every symbolic link on the way to it."""
        place = Path("/")
        for position, part in enumerate(file.parts[1:], start=2):
            source = place / part
            copy = self.path / source.relative_to("/")
            if source.is_symlink():
                if not copy.is_symlink():
                    copy.symlink_to(source.readlink())
                self.add(Path(os.path.normpath(place / source.readlink())).joinpath(*file.parts[position:]))
                return
            if source.is_dir():
                copy.mkdir(exist_ok=True)
            elif not copy.exists():
                shutil.copy2(source, copy)
            place = source


def _standard_library() -> Iterator[Path]:
    for directory, names, files in os.walk(STDLIB):
        names[:] = [name for name in names if name not in _NOT_SERVED and not name.startswith("config-")]
        yield from (
            Path(directory, name)
            for name in files
            if not (directory.endswith("lib-dynload") and _NO_TERMINAL.match(name)) and Path(directory, name).exists()
        )


def _environment(venv: Path, copy: Path) -> None:
    """The virtual environment, without what nothing at run time opens."""

    def unwanted(directory: str, names: list[str]) -> set[str]:
        here = Path(directory).relative_to(venv).parts
        dropped = {name for name in names if name in ("__pycache__", "tests") or Path(name).suffix in _NOT_RUN}
        match here[-2:]:
            case ():
                dropped |= {"include"}
            case ("bin",):
                dropped |= {name for name in names if not re.fullmatch(r"python[0-9.]*|millpond", name)}
            case ("botocore", "data"):
                dropped |= {name for name in names if "." not in name and name not in _AWS}
            case ("pygments", "lexers"):
                dropped |= {name for name in names if name not in _LEXERS}
            case ("site-packages", "boto3"):  # of its own objects over a service, which nobody makes
                dropped |= {"data", "examples"}
        return dropped

    shutil.copytree(venv, copy, symlinks=True, ignore=unwanted)


def _move_program(libraries: Path, program: Path) -> None:
    packages = next(libraries.glob("lib/python3*/site-packages"))
    for path in (packages / "proxy", *packages.glob("millpond-*.dist-info"), libraries / "bin/millpond"):
        place = program / path.relative_to(libraries)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)


def _shared(binaries: Iterable[Path], loader: Path, venv: Path) -> set[Path]:
    """What the dynamic loader would load for them, outside the environment, under the names that it looks for."""
    found = set()
    for binary in binaries:
        command = [str(loader), "--list", str(binary)]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  our own
        if "not found" in listed:
            sys.exit(f"{binary} needs a library that is not here:\n{listed}")
        found |= {Path(name) for name in re.findall(r"=> (/\S+)", listed)}
    return {file for file in found if not file.is_relative_to(venv)}


def _packages(system: Root) -> None:
    """Debian's own entry and copyright of each package that a file here is from, where scanners of images without a
    package manager look (var/lib/dpkg/status.d)."""
    database = Path("/var/lib/dpkg")
    owners = {
        # A file may be listed below /lib and stand below /usr/lib.
        name.removeprefix("/usr"): listing.name.removesuffix(".list").partition(":")[0]
        for listing in database.glob("info/*.list")
        for name in listing.read_text().splitlines()
    }
    paragraphs = {
        match[1]: text
        for text in (database / "status").read_text().split("\n\n")
        if (match := re.match(r"Package: (\S+)", text))
    }
    directory = system.path / "var/lib/dpkg/status.d"
    directory.mkdir(parents=True)
    used = set()
    for file in system.path.rglob("*"):
        name = f"/{file.relative_to(system.path)}"
        owner = owners.get(name.removeprefix("/usr"))
        if owner and not file.is_dir():
            used.add(owner)
        elif _LIBRARY.search(name) and not file.is_symlink() and not name.startswith("/usr/local/"):
            sys.exit(f"{name} is of no Debian package; the base of the image has to be a Debian or Ubuntu with Python")
    for name in sorted(used):
        (directory / name).write_text(f"{paragraphs[name]}\n")
        notice = Path(f"/usr/share/doc/{name}/copyright")
        if notice.exists():
            system.add(notice)


main()

"""A base image made of this machine's own Debian packages: Python, its venv module, a shell, and wheels for pip."""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.programs import miss, run

ROOT: Final = Path(__file__).parents[2]
_PIP: Final = b"[global]\nno-index = true\nfind-links = /wheels\n"  # the base's own: its containers have no network
_PYTHON: Final = "/usr/bin/python3"  # Debian's, whichever runs the tests
# What the stage that builds runs, with all that they depend on.
_PACKAGES: Final = ("python3", "python3-venv", "coreutils", "dash")
# Of those packages: what no build opens, and most of their bytes.
_LEFT_OUT: Final = re.compile(
    r"/usr/share/(doc/(?![^/]+(/copyright)?$)|man/|locale/|info/)|/usr/lib/(python3[.0-9]*/(test|idlelib|lib2to3)/|.*/gconv/)"
)
# What no package lists: links between directories, what is made by a package's installation, and dpkg's own files.
_UNLISTED: Final = ("/bin", "/lib", "/lib64", "/sbin", "/bin/sh", "/etc/ssl/certs/ca-certificates.crt",
                    "/etc/ld.so.cache", "/etc/os-release", "/usr/lib/os-release", "/var/lib/dpkg/status")  # fmt: skip


def require_debian() -> None:
    """Skip the test where there is no Debian or Ubuntu to make the base of; fail it under continuous integration."""
    if not Path("/var/lib/dpkg/status").exists() or not set(_PACKAGES) <= set(_installed()):
        miss(f"the base image is made of Debian's packages {', '.join(_PACKAGES)}, and not all of them are here")


def download_wheels(directory: Path) -> None:
    """What the Dockerfile installs, for Debian's Python. pip keeps what it has fetched once."""
    version = run([_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    names = re.search(r"requirements-dev\.lock ((?:[a-z-]+ )+)>", (ROOT / "Dockerfile").read_text())
    assert names, "the Dockerfile names its build backend"
    backend = directory / "backend.lock"
    pins = [sys.executable, str(ROOT / "deploy/image/pins.py"), str(ROOT / "requirements-dev.lock")]
    directory.mkdir(parents=True, exist_ok=True)
    backend.write_text(run([*pins, *names[1].split()]))
    for lock in (backend, ROOT / "requirements.lock"):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        options = ["--require-hashes", "--only-binary", ":all:", "--python-version", version, "--dest", str(directory)]
        run([*command, *options, "--requirement", str(lock)], env={"PIP_USER": "0"})


def write_base(archive: Path, wheels: Path) -> None:
    """The base image's root file system as a tar file."""
    with tarfile.open(archive, "w") as tar:
        added: set[str] = set()
        for name in _files():
            # As it really stands: /lib/x is a listed name of /usr/lib/x.
            path = Path(os.path.realpath(Path(name).parent), Path(name).name)
            if str(path) not in added and (path.is_symlink() or path.exists()):
                added.add(str(path))
                tar.add(path, recursive=False)
        for wheel in wheels.glob("*.whl"):
            tar.add(wheel, f"wheels/{wheel.name}")
        settings = tarfile.TarInfo("etc/pip.conf")
        settings.size = len(_PIP)
        tar.addfile(settings, io.BytesIO(_PIP))
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)


def _files() -> Iterator[str]:
    yield from _UNLISTED
    for package in sorted(_closure()):
        yield from (name for name in run(["dpkg", "-L", package]).splitlines() if not _LEFT_OUT.match(name))
        for listing in Path("/var/lib/dpkg/info").glob(f"{package}*.list"):
            if listing.stem.partition(":")[0] == package:  # with the architecture behind it, or not
                yield str(listing)


def _closure() -> set[str]:
    """The packages and all that they depend on, as far as it is installed."""
    installed = _installed()
    found: set[str] = set()
    coming = [*_PACKAGES]
    while coming:
        package = coming.pop()
        if package not in found and package in installed:
            found.add(package)
            coming += installed[package]
    return found


def _installed() -> dict[str, list[str]]:
    """The names that each installed package depends on, alternatives and virtual ones among them."""
    wanted = "${Package}\t${db:Status-Status}\t${Pre-Depends}, ${Depends}\n"
    lines = [line.split("\t") for line in run(["dpkg-query", "--show", "--showformat", wanted]).splitlines()]
    name = re.compile(r"(?:^|[,|]) *([a-z0-9][a-z0-9.+-]+)")
    return {package: name.findall(wants) for package, status, wants in lines if status == "installed"}

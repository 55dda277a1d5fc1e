"""The image: built by a real dockerd, run as the chart runs it, and pulled through."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from packaging.requirements import Requirement

from proxy import __version__
from tests.clients.dockerd import Dockerd
from tests.deploy.base_image import ROOT, download_wheels, require_debian, write_base
from tests.support import images
from tests.support.images import Manifest
from tests.support.ports import free_port
from tests.support.programs import program, require, require_root, run
from tests.support.pulls import get
from tests.support.registry import Registry
from tests.support.waiting import wait_until

# With a minute for the build, and more where the machine is busy.
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(400)]

# vfs copies the whole file system at each step of a build: in memory, where there is room, it takes half of the time.
_MEMORY: Final = Path("/dev/shm")
_FOR_VFS: Final = 6 << 30  # bytes; it comes to about two
_NAME: Final = "millpond"
_USER: Final = "65532:65532"
# Bytes on disk. It has about 94 MB: Python 40, libraries 51, Millpond 3. More than this means that something came in.
_MOST: Final = 105_000_000
# What docker puts into each container.
_DOCKERS: Final = re.compile(r"/(\.dockerenv|dev|proc|sys|etc/(hostname|hosts|mtab|resolv\.conf))(/|$)")
_REVISION: Final = "0123456789abcdef0123456789abcdef01234567"
_CREATED: Final = "2024-01-02T03:04:05Z"


@dataclass(frozen=True)
class Built:
    """The image, in its daemon, and each of its files."""

    dockerd: Dockerd
    files: dict[str, tarfile.TarInfo]  # by absolute path
    sbom: dict[str, Any]

    @property
    def described(self) -> dict[str, Any]:
        found = json.loads(self.dockerd.docker("image", "inspect", _NAME))[0]
        assert isinstance(found, dict)
        return found

    def python(self, program: str) -> str:
        """The output of a program that the image's Python runs."""
        hardened = ["--read-only", "--cap-drop=ALL", "--network=none"]
        return self.dockerd.docker("run", "--rm", *hardened, "--entrypoint=python", _NAME, "-c", program)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    require_root()
    require("dockerd", "docker", "runc")
    require_debian()
    directory = tmp_path_factory.mktemp("image")
    quick = shutil.disk_usage(_MEMORY).free > _FOR_VFS
    data = Path(tempfile.mkdtemp(prefix="dockerd-data-", dir=_MEMORY if quick else directory))
    download_wheels(directory / "wheels")
    write_base(directory / "base.tar", directory / "wheels")
    environment = pytest.MonkeyPatch()
    environment.setenv("DOCKER_BUILDKIT", "0")  # the Dockerfile needs nothing of it, and it is not everywhere
    daemon = Dockerd(data)
    try:
        daemon.docker("import", str(directory / "base.tar"), "base")
        arguments = {
            "BASE": "base",
            "VERSION": __version__,
            "REVISION": _REVISION,
            "CREATED": _CREATED,
        }
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        docker = [program("docker"), "--host", f"unix://{daemon._socket}"]  # its own `docker` gives no more than 120 s
        run([*docker, "build", "--network=none", f"--tag={_NAME}", *options, str(ROOT)], deadline=300)
        yield Built(daemon, *_content(daemon, directory / "content.tar"))
    finally:
        for namespace in Path(daemon._short.name, "exec/netns").glob("*"):
            if os.path.ismount(namespace):  # dockerd leaves the host's own behind
                run(["umount", "--lazy", str(namespace)])
        daemon.stop()
        environment.undo()
        shutil.rmtree(data)


@pytest.fixture(scope="module")
def image(plain_registry: Registry, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=51, layers=3, size=400_000)
    plain_registry.push(made, "library/deployed", "1")
    return made


@dataclass(frozen=True)
class Container:
    name: str
    port: int
    admin_port: int


@pytest.fixture
def container(built: Built, plain_registry: Registry, tmp_path: Path) -> Iterator[Container]:
    """Millpond in a container, with no more rights than the chart gives it."""
    made = Container("pond", free_port(), free_port())
    configuration = tmp_path / "etc"
    configuration.mkdir()
    (configuration / "millpond.yaml").write_text(
        yaml.safe_dump(
            {
                "registry": {"listen": f"127.0.0.1:{made.port}"},
                "upstreams": {"docker.io": plain_registry.upstream()},
                "cache": {"min_free": "64MiB"},
            }
        )
    )
    configuration.chmod(0o755)
    built.dockerd.docker(
        "run", "--detach", f"--name={made.name}", f"--user={_USER}", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", "--network=host", "--health-interval=1s",
        f"--volume={configuration}:/etc/millpond:ro", "--env=MILLPOND_CONFIG=/etc/millpond/millpond.yaml",
        f"--env=MILLPOND_ADMIN__LISTEN=127.0.0.1:{made.admin_port}",
        _NAME,
    )  # fmt: skip
    yield made
    built.dockerd.docker("rm", "--force", "--volumes", made.name)


def test_it_is_healthy_and_pulled_through_with_the_rights_that_the_chart_gives(
    built: Built, container: Container, image: Manifest
) -> None:
    wait_until(lambda: _state(built, container)["Health"]["Status"] == "healthy", "the container is healthy", 60)
    reference = f"127.0.0.1:{container.port}/docker.io/library/deployed:1"
    assert built.dockerd.pull(reference) == image.digest
    again = get(f"http://127.0.0.1:{container.port}/v2/library/deployed/manifests/1")
    assert (again.digest, again.headers["x-millpond"]) == (image.digest, "hit")
    assert get(f"http://127.0.0.1:{container.admin_port}/readyz").json()["disk"] == "ok"
    built.dockerd.remove(reference)


def test_its_health_check_fails_once_nobody_answers(built: Built, container: Container) -> None:
    command = built.described["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD", "no shell is needed"
    wait_until(lambda: '"serving"' in _log(built, container), "Millpond serves", 60)
    built.dockerd.docker("exec", container.name, *command[1:])
    with pytest.raises(AssertionError, match="ended with 1"):
        built.dockerd.docker("exec", "--env=MILLPOND_ADMIN__LISTEN=127.0.0.1:1", container.name, *command[1:])


def test_it_drains_when_docker_stops_it(built: Built, container: Container) -> None:
    wait_until(lambda: '"serving"' in _log(built, container), "Millpond serves", 60)
    built.dockerd.docker("stop", container.name)
    assert _state(built, container)["ExitCode"] == 0
    assert '"draining"' in _log(built, container)


def test_it_is_small_and_holds_no_shell_no_package_manager_and_no_other_program(built: Built) -> None:
    assert built.described["Size"] < _MOST
    programs = {
        name
        for name, entry in built.files.items()
        if entry.isreg() and entry.mode & 0o111 and not re.search(r"\.(py|so(\.[0-9]+)*)$", name)
    }
    assert all(re.search(r"/bin/(python3[0-9.]*|millpond)$", name) for name in programs), programs
    assert not [name for name in built.files if re.search(r"/(pip|setuptools|ensurepip|test|tests)(/|$)", name)]


def test_nothing_in_it_raises_rights_or_may_be_changed_by_its_user(built: Built) -> None:
    assert not [name for name, entry in built.files.items() if entry.mode & 0o6000]
    assert [name for name, entry in built.files.items() if entry.mode & 0o002 and not entry.issym()] == ["/tmp"]
    assert [name for name, entry in built.files.items() if entry.uid or entry.gid] == ["/var/lib/millpond"]


def test_it_says_who_runs_it_and_what_it_is(built: Built) -> None:
    config = built.described["Config"]
    assert config["User"] == _USER
    assert set(config["ExposedPorts"]) == {"5000/tcp", "5001/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/millpond"}
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels.pop("description")
    assert labels == {
        "title": "millpond",
        "licenses": "Apache-2.0",
        "version": __version__,
        "revision": _REVISION,
        "created": _CREATED,
    }
    assert built.dockerd.docker("run", "--rm", "--network=none", _NAME, "--version").split()[-1] == __version__


def test_its_bill_of_materials_names_every_locked_package_and_nothing_else_from_there(built: Built) -> None:
    sbom = built.sbom
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    assert sbom["metadata"]["component"]["purl"] == f"pkg:pypi/millpond@{__version__}"
    named = {entry["purl"] for entry in sbom["components"]}
    assert len(named) == len(sbom["components"])
    assert {url for url in named if url.startswith("pkg:pypi/")} == _locked()
    shipped = {
        re.sub(r"[-_.]+", "-", match[1]).lower()
        for name in built.files
        if (match := re.search(r"/site-packages/([^/]+)-[^/-]+\.dist-info/METADATA$", name))
    }
    assert shipped == {"millpond", *(url.removeprefix("pkg:pypi/").partition("@")[0] for url in _locked())}


def test_its_bill_of_materials_names_the_debian_package_of_every_shared_library(built: Built) -> None:
    packages = {entry["name"] for entry in built.sbom["components"] if entry["purl"].startswith("pkg:deb/")}
    assert {"libc6", "zlib1g"} <= packages
    for name in packages:
        assert f"/var/lib/dpkg/status.d/{name}" in built.files, "where scanners look"
        notice = f"/usr/share/doc/{name}"  # which may be another package's
        assert f"{notice}/copyright" in built.files or built.files[notice].issym()


def test_what_was_left_out_of_its_libraries_is_not_missed(built: Built) -> None:
    services = ("ecr", "ecr-public", "signin", "sso", "sso-oidc", "sts")
    program = f"""
import importlib, pkgutil, ssl, boto3, proxy
for service in {services}:
    boto3.client(service, region_name="us-east-1")
for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
    if not module.name.endswith(("__main__", "observe.otel")):  # the latter is for the extra, which is not in the image
        importlib.import_module(module.name)
assert len(ssl.create_default_context().get_ca_certs()) > 50, "authorities to trust"
import io, structlog
from rich.console import Console
from rich.traceback import Traceback
try:
    importlib.import_module("proxy.nothing")
except ImportError:
    Console(file=io.StringIO(), force_terminal=True).print(Traceback(show_locals=True))
    structlog.dev.ConsoleRenderer()(None, "error", {{"event": "x", "exc_info": True}})
print("all there")
"""
    assert built.python(program) == "all there\n"


def test_a_version_that_is_not_the_programs_is_refused(tmp_path: Path) -> None:
    assemble = [sys.executable, str(ROOT / "deploy/image/assemble.py"), sys.prefix, str(tmp_path / "image"), "9.9.9"]
    with pytest.raises(AssertionError, match=r"VERSION says 9\.9\.9"):
        run(assemble)


def _state(built: Built, container: Container) -> dict[str, Any]:
    state = json.loads(built.dockerd.docker("container", "inspect", "--format", "{{json .State}}", container.name))
    assert isinstance(state, dict)
    return state


def _log(built: Built, container: Container) -> str:
    path = built.dockerd.docker("container", "inspect", "--format", "{{.LogPath}}", container.name).strip()
    return "".join(json.loads(line)["log"] for line in Path(path).read_text().splitlines())


def _content(daemon: Dockerd, archive: Path) -> tuple[dict[str, tarfile.TarInfo], dict[str, Any]]:
    container = daemon.docker("create", _NAME).strip()
    daemon.docker("export", f"--output={archive}", container)
    daemon.docker("rm", "--volumes", container)
    with tarfile.open(archive) as tar:
        entries = {f"/{entry.name.strip('/')}": entry for entry in tar}
        sbom = tar.extractfile(entries["/opt/millpond/sbom.cdx.json"])
        assert sbom
        return {name: entry for name, entry in entries.items() if not _DOCKERS.match(name)}, json.load(sbom)


def _locked() -> set[str]:
    """The package URLs of what the lock file names for Linux."""
    found = set()
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"[a-z0-9]", line):
            wanted = Requirement(line.rstrip(" \\"))
            if not wanted.marker or wanted.marker.evaluate():
                found.add(f"pkg:pypi/{wanted.name}@{next(iter(wanted.specifier)).version}")
    return found

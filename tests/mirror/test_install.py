"""Installing, and restoring exactly what was there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.mirror import Installation, Plan, Refused
from proxy.mirror import install as module
from proxy.mirror.disk import locked
from tests.mirror.trees import BUILT_IN, MILLPOND, made, tree, write
from tests.support.certificates import Authority

OTHER = "http://127.0.0.1:6000"
THEIRS = b'server = "https://registry-1.docker.io"\n\n[host."https://old.test"]\n  capabilities = ["pull"]\n'


def install(plan: Plan) -> dict[str, str]:
    """The state of each file by its path."""
    outcomes = Installation(plan.client, plan.directory).install(plan)
    return {str(outcome.path.relative_to(plan.directory)): outcome.state for outcome in outcomes}


def remove(client: str, directory: Path) -> dict[str, str]:
    outcomes = Installation(client, directory).remove()
    return {str(outcome.path.relative_to(directory)): outcome.state for outcome in outcomes}


def check(plan: Plan) -> set[str]:
    return {outcome.state for outcome in Installation(plan.client, plan.directory).check(plan)}


@pytest.mark.parametrize("client", ["containerd", "docker", "podman", "k3s", "buildkit"])
def test_what_is_installed_is_what_is_printed_and_nothing_stays_when_it_is_removed(client: str, tmp_path: Path) -> None:
    directory = tmp_path / "etc" / client
    plan = made(client, directory)
    assert check(plan) == {"missing"}
    assert set(install(plan).values()) == {"installed"}
    for piece in plan.pieces:
        assert (directory / piece.path).read_text() == piece.printed
        assert (directory / piece.path).stat().st_mode & 0o777 == 0o644
    assert check(plan) == {"unchanged"}
    assert set(remove(client, directory).values()) == {"removed"}
    assert list(tmp_path.iterdir()) == []


def test_the_umask_does_not_hide_the_files_from_the_client(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install(made("podman", tmp_path / "containers"))
    finally:
        os.umask(before)
    found = tree(tmp_path / "containers")
    assert found["registries.conf.d"][0] == 0o755
    assert found["registries.conf.d/millpond.conf"][0] == 0o644
    assert found[".millpond"][0] == 0o700  # what was there before may hold a password
    assert found[".millpond/podman.json"][0] == 0o600


def test_installing_again_writes_nothing(tmp_path: Path) -> None:
    plan = made("containerd", tmp_path)
    install(plan)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert set(install(plan).values()) == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_there_comes_back_byte_for_byte_with_its_mode_and_owner(tmp_path: Path) -> None:
    theirs = write(tmp_path / "docker.io/hosts.toml", THEIRS, 0o640)
    if os.geteuid() == 0:
        os.chown(theirs, 1234, 1235)
    owner = (theirs.stat().st_uid, theirs.stat().st_gid)
    write(tmp_path / "docker.io/ca.crt", "foreign")
    write(tmp_path / "own.test/hosts.toml", "foreign")
    before = tree(tmp_path)
    states = install(made("containerd", tmp_path))
    assert set(states.values()) == {"installed"}
    after = tree(tmp_path)
    assert {path for path in before if before[path] != after[path]} == {"docker.io/hosts.toml"}
    assert (theirs.stat().st_uid, theirs.stat().st_gid, theirs.stat().st_mode & 0o777) == (*owner, 0o640)
    remove("containerd", tmp_path)
    assert tree(tmp_path) == before
    assert (theirs.stat().st_uid, theirs.stat().st_gid) == owner


CONTENTS = st.one_of(
    st.none(),
    st.sampled_from([THEIRS, THEIRS.rstrip(), b"", b"\r\n", b'server = "https://x"', THEIRS.replace(b"\n", b"\r\n")]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    files=st.dictionaries(st.sampled_from(BUILT_IN), CONTENTS),
    modes=st.lists(st.sampled_from([0o600, 0o644, 0o400]), min_size=4, max_size=4),
    rounds=st.lists(
        st.tuples(st.sampled_from([MILLPOND, OTHER]), st.sets(st.sampled_from(BUILT_IN), min_size=1)),
        min_size=1,
        max_size=4,
    ),
)
def test_after_any_installations_the_removal_restores_all(
    files: dict[str, bytes | None],
    modes: list[int],
    rounds: list[tuple[str, set[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("certs.d")
    for (name, data), mode in zip(files.items(), modes, strict=False):
        (directory / name).mkdir()
        if data is not None:
            write(directory / name / "hosts.toml", data, mode)
    before = tree(directory)
    for address, names in rounds:
        plan = made("containerd", directory, *sorted(names), address=address)
        install(plan)
        assert check(plan) == {"unchanged"}
        for name in set(BUILT_IN) - names:
            path = f"{name}/hosts.toml"
            assert tree(directory).get(path) == before.get(path)
    remove("containerd", directory)
    assert tree(directory) == before


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_at_any_write_leaves_what_can_be_restored_and_installed(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at its n-th rename: each is the moment at which something becomes visible."""
    directory = tmp_path / "certs.d"
    write(directory / "docker.io/hosts.toml", THEIRS, 0o600)
    before = tree(directory)
    install(made("containerd", directory, "docker.io", "ghcr.io", address=OTHER))

    class Crash(BaseException):
        pass

    count, replace = 0, Path.replace

    def crashing(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == step:
            raise Crash
        return replace(self, target)

    plan = made("containerd", directory)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crashing)
        try:
            install(plan)
            remove("containerd", directory)
        except Crash:
            pass
    assert count >= min(step, 7)
    for name in ("docker.io", "ghcr.io"):
        found = directory / name / "hosts.toml"
        if found.exists():
            assert found.read_bytes() == THEIRS or MILLPOND in found.read_text() or OTHER in found.read_text()
    if step % 2:
        assert {"refused", "failed"}.isdisjoint(install(plan).values())
        assert check(plan) == {"unchanged"}
    remove("containerd", directory)
    assert tree(directory) == before


def test_what_somebody_else_overwrites_is_installed_again_and_then_restored(tmp_path: Path) -> None:
    plan = made("containerd", tmp_path, "docker.io", "ghcr.io")
    install(plan)
    hosts = write(tmp_path / "docker.io/hosts.toml", THEIRS)
    (tmp_path / "ghcr.io/hosts.toml").unlink()
    assert check(plan) == {"missing"}
    assert set(install(plan).values()) == {"installed"}
    assert hosts.read_text().index(MILLPOND) < hosts.read_text().index("https://old.test")
    remove("containerd", tmp_path)
    assert hosts.read_bytes() == THEIRS
    assert not (tmp_path / "ghcr.io").exists()


def test_what_an_admin_adds_to_an_installed_file_survives_a_new_address_and_the_removal(tmp_path: Path) -> None:
    hosts = tmp_path / "docker.io/hosts.toml"
    install(made("containerd", tmp_path, "docker.io"))
    added = '\n[host."https://late.test"]\n  capabilities = ["pull"]\n'
    hosts.write_text(hosts.read_text() + added)
    install(made("containerd", tmp_path, "docker.io", address=OTHER))
    assert OTHER in hosts.read_text()
    assert MILLPOND not in hosts.read_text()
    assert added in hosts.read_text()
    remove("containerd", tmp_path)
    assert OTHER not in hosts.read_text()
    assert added in hosts.read_text()


def test_other_keys_of_daemon_json_may_change_meanwhile(tmp_path: Path) -> None:
    file = write(tmp_path / "daemon.json", '{"log-driver":"journald", "registry-mirrors":["https://old.test"]}', 0o600)
    install(made("docker", tmp_path))
    document = json.loads(file.read_text())
    assert document["registry-mirrors"] == [MILLPOND, "https://old.test"]
    document["log-driver"] = "local"
    write(file, json.dumps(document), 0o600)
    assert remove("docker", tmp_path) == {"daemon.json": "restored"}
    assert json.loads(file.read_text()) == {"log-driver": "local", "registry-mirrors": ["https://old.test"]}
    assert not (tmp_path / ".millpond").exists()


def test_a_daemon_json_that_was_only_laid_out_anew_comes_back_as_it_was(tmp_path: Path) -> None:
    text = '{"log-driver":"journald"}'
    file = write(tmp_path / "daemon.json", text)
    install(made("docker", tmp_path))
    file.write_text(json.dumps(json.loads(file.read_text()), indent=8))
    remove("docker", tmp_path)
    assert file.read_text() == text


def test_our_part_changed_by_hand_is_left_and_said_until_it_is_gone(tmp_path: Path) -> None:
    hosts = write(tmp_path / "docker.io/hosts.toml", THEIRS)
    plan = made("containerd", tmp_path, "docker.io")
    install(plan)
    edited = hosts.read_text().replace('"3s"', '"9s"')
    hosts.write_text(edited)
    assert install(plan) == {"docker.io/hosts.toml": "refused"}
    assert remove("containerd", tmp_path) == {"docker.io/hosts.toml": "left"}
    assert hosts.read_text() == edited
    hosts.write_text("# by hand\n")
    assert remove("containerd", tmp_path) == {"docker.io/hosts.toml": "restored"}
    assert tree(tmp_path).keys() == {".", "docker.io", "docker.io/hosts.toml"}
    assert hosts.read_text() == "# by hand\n"


def test_a_file_by_hand_that_says_the_same_is_neither_ours_nor_removed(tmp_path: Path) -> None:
    plan = made("containerd", tmp_path, "docker.io")
    (piece,) = plan.pieces
    write(tmp_path / piece.path, f"# by hand\n{piece.printed}")
    before = tree(tmp_path)
    assert install(plan) == {"docker.io/hosts.toml": "there"}
    assert check(plan) == {"there"}
    assert tree(tmp_path) == before
    assert remove("containerd", tmp_path) == {}
    assert tree(tmp_path) == before


def test_one_file_that_cannot_be_does_not_keep_the_others_back(tmp_path: Path) -> None:
    write(tmp_path / "docker.io/hosts.toml", "[")
    states = install(made("containerd", tmp_path, "docker.io", "ghcr.io"))
    assert states == {"docker.io/hosts.toml": "refused", "ghcr.io/hosts.toml": "installed"}
    assert (tmp_path / "docker.io/hosts.toml").read_text() == "["


def test_certificates_for_the_registry_itself_are_not_made_useless(tmp_path: Path) -> None:
    """containerd takes the *.crt of a folder only where that has no hosts.toml."""
    write(tmp_path / "own.test/ca.crt", "foreign")
    before = tree(tmp_path)
    (outcome,) = Installation("containerd", tmp_path).install(made("containerd", tmp_path, "own.test"))
    assert outcome.state == "refused"
    assert "ca.crt, which containerd would pass over" in outcome.detail
    assert tree(tmp_path) == before


def test_a_default_of_somebody_else_that_no_longer_counts_is_said(tmp_path: Path) -> None:
    write(tmp_path / "_default/hosts.toml", THEIRS)
    (remark,) = made("containerd", tmp_path, "docker.io").remarks()
    assert remark.endswith("_default/hosts.toml no longer counts for docker.io, which have their own")
    assert made("containerd", tmp_path, "docker.io", "_default").remarks() == []


@pytest.mark.parametrize("file", ["registries.conf", "registries.conf.d/000-own.conf", "registries.conf.d/zzz.conf"])
def test_podmans_other_files_for_the_same_registry_are_not_overruled(file: str, tmp_path: Path) -> None:
    write(tmp_path / file, '[[registry]]\nprefix = "quay.io"\nlocation = "mirror.test"\n')
    before = tree(tmp_path)
    (outcome,) = Installation("podman", tmp_path).install(made("podman", tmp_path))
    assert outcome.state == "refused"
    assert f"{tmp_path / file} has a [[registry]] for quay.io" in outcome.detail
    assert tree(tmp_path) == before
    assert install(made("podman", tmp_path, "docker.io")) == {"registries.conf.d/millpond.conf": "installed"}


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "certs.d"
    target = write(tmp_path / "elsewhere/hosts.toml", THEIRS)
    directory.mkdir()
    (directory / "docker.io").symlink_to(target.parent)
    (directory / "ghcr.io").mkdir()
    (directory / "ghcr.io/hosts.toml").symlink_to(target)
    states = install(made("containerd", directory, "docker.io", "ghcr.io"))
    assert set(states.values()) == {"refused"}
    assert target.read_bytes() == THEIRS


def test_a_new_authority_replaces_the_one_that_was_installed(authority: Authority, tmp_path: Path) -> None:
    directory, ca = tmp_path / "certs.d", tmp_path / "ca.pem"
    first = authority.ca_file.read_text()
    for text in (first, f"{first}# second\n"):
        ca.write_text(text)
        install(made("containerd", directory, "docker.io", address="https://mirror.test", ca=ca))
        assert (directory / "docker.io/millpond-ca.pem").read_text() == text
    remove("containerd", directory)
    assert not directory.exists()


def test_two_clients_in_one_directory_do_not_meet(tmp_path: Path) -> None:
    install(made("docker", tmp_path))
    install(made("buildkit", tmp_path))
    assert remove("docker", tmp_path) == {"daemon.json": "removed"}
    assert remove("buildkit", tmp_path) == {"buildkitd.toml": "removed"}
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_damaged_stops_everything(tmp_path: Path) -> None:
    plan = made("docker", tmp_path)
    install(plan)
    write(tmp_path / ".millpond/docker.json", "{}")
    before = tree(tmp_path)
    with pytest.raises(Refused, match="not from this version or damaged"):
        install(plan)
    with pytest.raises(Refused, match="not from this version or damaged"):
        remove("docker", tmp_path)
    assert tree(tmp_path) == before


def test_two_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.mirror.disk.LOCK_DEADLINE", 0.0)
    with locked(tmp_path), pytest.raises(Refused, match="another mirror-config is at work"):
        install(made("docker", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_is_said_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "docker.io/hosts.toml", THEIRS)
    before = tree(tmp_path)
    plan = made("containerd", tmp_path, "docker.io")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "put", full)
        (outcome,) = Installation("containerd", tmp_path).install(plan)
    assert (outcome.state, outcome.detail) == ("failed", "No space left on device")
    assert (tmp_path / "docker.io/hosts.toml").read_bytes() == THEIRS
    remove("containerd", tmp_path)
    assert tree(tmp_path) == before

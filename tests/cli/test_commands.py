"""The commands that show how a server is, and those that change what it keeps."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.cache.disks import landed
from tests.conftest import StartMillpond
from tests.support import images
from tests.support.command import ROOT, millpond, on_terminal, refused, well
from tests.support.faults import Gate, change
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.programs import Process, program, require, run
from tests.support.pulls import opened, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

BODY: Final = b"".join(images.noise(300_000, 43))
ONE: Final = images.image([images.blob(BODY, images.OCI_LAYER)])
TWO: Final = images.image([images.blob(BODY[:50_000], images.OCI_LAYER)], note="two")


def base(of: Millpond, name: str = "one") -> str:
    return f"{of.url}/v2/docker.io/library/{name}"


@pytest.fixture
def served(start_millpond: StartMillpond, upstream: ScriptedUpstream) -> Millpond:
    """One that has pulled two images, and still runs."""
    upstream.add(ONE, "library/one", "1")
    upstream.add(TWO, "library/two", "2")
    made = start_millpond({"docker.io": upstream.upstream()})
    pull(base(made), ONE, "1")
    pull(base(made, "two"), TWO, "2")
    landed(made)
    return made


def test_the_status_of_a_server_is_told_in_a_line_for_each_part(served: Millpond, upstream: ScriptedUpstream) -> None:
    lines = [line.split("\t") for line in well("status", of=served).splitlines()]
    assert [line[:2] for line in lines[1:3]] == [["cache", "ok"], ["upstream", "docker.io"]]
    assert lines[0][0].startswith("millpond ")
    assert lines[0][1] == "ok"
    assert re.search(r"up \d+ s, 0 responses and 0 downloads in progress", lines[0][2])
    assert lines[1][2].startswith("5 blobs, ")
    assert lines[2][2] == "ok"
    found = json.loads(well("status", "--json", of=served))
    assert found["cache"]["blobs"] == 5
    assert found["upstreams"][0]["url"] == upstream.url


def test_a_terminal_shows_the_status_as_tables(served: Millpond) -> None:
    code, shown = on_terminal("status", of=served)
    assert code == 0
    assert re.search(r"cache +ok +5 blobs", shown)
    assert re.search(r"upstream +state +requests", shown)


def test_an_upstream_that_fails_is_seen_in_the_status_and_its_exit_code(
    served: Millpond, upstream: ScriptedUpstream
) -> None:
    upstream.stop()
    for number in range(6):  # as many as open the breaker
        with opened(f"{base(served)}/manifests/none-{number}") as answer:
            assert answer.status >= 500
    done = millpond("status", of=served)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("upstream\tdocker.io"))
    assert line.split("\t")[2] == "failing"
    assert "127.0.0.1" in line


def test_while_none_runs_the_status_is_that_of_the_directory(served: Millpond) -> None:
    assert served.terminate() == 0
    done = millpond("status", of=served)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0].split("\t")[:2] == ["server", "stopped"]
    assert done.stdout.splitlines()[1].split("\t")[2].startswith("5 blobs, ")


@pytest.mark.parametrize("running", [True, False], ids=["by the running program", "by itself"])
def test_images_are_listed_and_found(served: Millpond, running: bool) -> None:
    if not running:
        assert served.terminate() == 0
    lines = [line.split("\t") for line in well("images", of=served).splitlines()]
    assert [line[0] for line in lines] == ["docker.io/library/one:1", "docker.io/library/two:2"]
    assert [line[1] for line in lines] == [ONE.digest[:19], TWO.digest[:19]]
    assert all(line[3:5] == ["100 %", "linux/amd64"] for line in lines)
    assert well("images", "*/two:*", of=served).splitlines()[0].startswith("docker.io/library/two:2\t")
    (row,) = json.loads(well("images", "one", "--json", of=served))
    assert (row["digest"], row["held"]["disk"]) == (ONE.digest, "whole")
    assert millpond("images", "three", of=served).returncode == 1


@pytest.mark.parametrize("running", [True, False], ids=["by the running program", "by itself"])
def test_an_image_is_pinned_unpinned_and_purged(served: Millpond, running: bool) -> None:
    if not running:
        assert served.terminate() == 0
    layer = served.blob_file(ONE.blobs[1].digest)
    assert well("pin", "one:1", of=served).startswith("docker.io/library/one:1\tkept: 3 blobs, ")
    assert "\tpinned\t" in well("images", "one", of=served)
    assert "pinned" in refused("purge", "one:1", of=served)
    assert layer.exists()
    assert well("unpin", "one:1", of=served).startswith("docker.io/library/one:1\tmay go: 3 blobs, ")
    assert "is not pinned" in refused("unpin", "one:1", of=served)
    gone = json.loads(well("purge", "one:1", "--json", of=served))
    assert (gone["image"], gone["digests"]) == ("docker.io/library/one:1", 2), "both have one configuration"
    assert not layer.exists()
    assert served.blob_file(TWO.digest).exists()
    assert "one:1 is not cached" in refused("purge", "one:1", of=served)


def test_a_tag_that_has_moved_is_seen_at_a_refresh(served: Millpond, upstream: ScriptedUpstream) -> None:
    still = well("refresh", "one:1", of=served)
    assert still == f"docker.io/library/one:1\tstill at {ONE.digest[:19]}\n"
    upstream.add(TWO, "library/one", "1")
    moved = well("refresh", "one:1", of=served)
    assert moved == f"docker.io/library/one:1\tmoved from {ONE.digest[:19]} to {TWO.digest[:19]}\n"
    assert json.loads(well("refresh", "one:1", "--json", of=served))["changed"] is False


def test_an_image_is_explained_in_one_sentence_and_the_steps_behind_it(served: Millpond) -> None:
    cause, following, name, *steps = (line.split("\t") for line in well("explain", "one:1", of=served).splitlines())
    assert (cause[0], following[0]) == ("cause", "next")
    assert cause[1]
    assert following[1]
    assert name == ["name", "docker.io/library/one:1", ONE.digest]
    assert len(steps) > 3
    found = json.loads(well("explain", "one:1", "--json", of=served))
    assert _timeless(found["cause"]) == _timeless(cause[1])
    code, shown = on_terminal("explain", "one:1", of=served)
    assert code == 0
    assert _timeless(shown.splitlines()[0]) == _timeless(cause[1])
    assert "no upstream 'nowhere.test'" in refused("explain", "nowhere.test/x", of=served)


def _timeless(sentence: str) -> str:
    return re.sub(r"\d+ (s|min)", "a while", sentence)


def test_a_configuration_is_read_again_or_refused(served: Millpond) -> None:
    upstreams = served.config["upstreams"]
    served.configure({**served.config, "upstreams": {"docker.io": {**upstreams["docker.io"], "tag_ttl": "1h"}}})
    assert well("reload", of=served) == "changed\tupstreams.docker.io.tag_ttl\n"
    served.configure({**served.config, "cache": {"max_size": "10GiB"}})
    assert "needs a restart\tcache.max_size" in well("reload", of=served)
    # A file that the command line could not read either is one for whoever runs the server.
    good = served.directory / "good.yaml"
    good.write_text(yaml.safe_dump(served.config))
    served.config_file.write_text("cache: {max_szie: 1GiB}")
    assert "max_szie" in refused("reload", of=good)


def test_top_follows_a_download_while_it_drips(served: Millpond, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    slow = b"".join(images.noise(2_000_000, 44))
    gate = Gate()
    digest = upstream.add_blob("library/slow", slow)
    upstream.script(digest, change(gates={1_000_000: gate}))
    log = tmp_path / "top.log"
    top = Process(
        [sys.executable, "-m", "proxy.cli", "top", "--json", "--config", str(served.config_file)],
        log,
        {"PYTHONPATH": str(ROOT)},
    )
    try:
        with opened(f"{base(served, 'slow')}/blobs/{digest}") as download:
            wait_until(lambda: any(digest in line for line in log.read_text().splitlines()), "top shows the download")
            gate.open()
            assert download.drain()
        wait_until(lambda: '"event": "pull"' in log.read_text(), "top shows that it has ended")
    finally:
        gate.open()
        top.send(signal.SIGINT)
        assert top.wait() == 0
    ticks = [row for row in map(json.loads, log.read_text().splitlines()) if row["event"] == "tick"]
    (flight,) = next(tick["flights"] for tick in ticks if tick["flights"])
    assert (flight["digest"], flight["followers"]) == (digest, 1)


def test_top_on_a_terminal_shows_downloads_as_bars(served: Millpond, upstream: ScriptedUpstream) -> None:
    slow = b"".join(images.noise(2_000_000, 45))
    gate = Gate()
    digest = upstream.add_blob("library/slow", slow)
    upstream.script(digest, change(gates={1_000_000: gate}))
    with opened(f"{base(served, 'slow')}/blobs/{digest}") as download:
        code, shown = on_terminal("top", of=served, until=digest[:19])
        gate.open()
        assert download.drain()
    assert code == 0
    assert re.search(rf"docker.io/library/slow {digest[:19]}.* █+░+ ", shown)
    assert "requests/s" in shown


def test_top_in_a_pipe_is_a_line_a_second(served: Millpond, tmp_path: Path) -> None:
    log = tmp_path / "top.log"
    command = [sys.executable, "-m", "proxy.cli", "top", "--config", str(served.config_file)]
    top = Process(command, log, {"PYTHONPATH": str(ROOT)})
    wait_until(lambda: len(log.read_text().splitlines()) >= 2, "two seconds have been told of")
    assert served.terminate() == 0
    assert top.wait() == 2
    *lines, last = log.read_text().splitlines()
    assert all(len(line.split("\t")) == 8 for line in lines)
    assert last.startswith("millpond: ")


@pytest.mark.parametrize("command", ["top", "explain x", "warm x", "refresh x", "reload"])
def test_what_needs_a_server_says_where_it_looked_for_one(command: str, tmp_path: Path) -> None:
    nobody = Millpond({}, tmp_path)
    told = refused(*command.split(), of=nobody)
    assert f"no Millpond answers at 127.0.0.1:{nobody.admin_port}, which is admin.listen" in told
    assert not nobody.cache.exists()


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how_to_complete(shell: str) -> None:
    shown = well("completion", shell)
    assert "_MILLPOND_COMPLETE" in shown
    if shell == "bash":
        require("bash")
        run([program("bash"), "-n", "-c", shown])


def completed(of: Millpond, *words: str) -> list[str]:
    """What bash would offer behind these words."""
    asked = {
        "_MILLPOND_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["millpond", *words]),
        "COMP_CWORD": str(len(words)),
        "MILLPOND_CONFIG": str(of.config_file),
        "PYTHONPATH": str(ROOT),
    }
    code = "import sys; sys.argv[0] = 'millpond'; from proxy.cli import main; main(prog_name='millpond')"
    lines = run([sys.executable, "-c", code], env=asked).splitlines()
    return [line.partition(",")[2] for line in lines if line]


def test_commands_and_images_are_completed(served: Millpond) -> None:
    assert completed(served, "ex") == ["explain", "export"]
    assert completed(served, "pin", "on") == ["one:1"]
    assert completed(served, "purge", "docker.io/library/t") == ["docker.io/library/two:2"]
    assert served.terminate() == 0
    assert completed(served, "pin", "on") == []


# Warm


@pytest.fixture
def many(served: Millpond, upstream: ScriptedUpstream) -> dict[str, Manifest]:
    """Five images that nobody has pulled."""
    made = {f"many-{number}": images.image([images.blob(BODY[number + 1 :], images.OCI_LAYER)]) for number in range(5)}
    for name, image in made.items():
        upstream.add(image, f"library/{name}", "1")
    return made


def test_images_are_warmed_and_then_served_without_upstream(
    served: Millpond, upstream: ScriptedUpstream, many: dict[str, Manifest], tmp_path: Path
) -> None:
    file = tmp_path / "images.txt"
    file.write_text("# all of them\n" + "\n".join(f"{name}:1" for name in many) + "\n\n")
    shown = well("warm", "-f", str(file), of=served)
    assert shown.splitlines()[-1].startswith("5 images warm, 1.4 MiB")
    assert sorted(line.split("\t")[:2] for line in shown.splitlines()[:-1]) == [
        ["done", f"docker.io/library/{name}:1"] for name in many
    ]
    upstream.stop()
    for name, image in many.items():
        pull(base(served, name), image, "1")


def test_what_cannot_be_warmed_is_named_with_its_reason(served: Millpond, many: dict[str, Manifest]) -> None:
    done = millpond("warm", "many-0:1", "none:1", of=served)
    assert (done.returncode, done.stderr) == (1, "")
    failed = next(line for line in done.stdout.splitlines() if line.startswith("failed"))
    assert failed.split("\t")[1] == "docker.io/library/none:1"
    assert failed.split("\t")[2]
    assert done.stdout.splitlines()[-1].endswith(", 1 failed")
    *_, last = map(json.loads, well("warm", "many-0:1", "--json", of=served).splitlines())
    assert last == {"summary": {"done": 1, "failed": 0, "bytes": 0}}, "what is there is skipped"


def test_a_terminal_shows_how_far_warming_is(served: Millpond, many: dict[str, Manifest]) -> None:
    code, shown = on_terminal("warm", *(f"{name}:1" for name in many), of=served)
    assert code == 0
    assert "5 of 5 images" in shown
    assert "5 images warm" in shown.splitlines()[-1]


def fake_kubectl(directory: Path, answer: str, code: int = 0) -> dict[str, str]:
    """An environment with a kubectl that answers so when it is asked for all pods, as JSON."""
    directory.mkdir()
    (directory / "answer").write_text(answer)
    script = directory / "kubectl"
    script.write_text(
        '#!/bin/sh\n[ "$*" = "get pods --all-namespaces --output=json" ] || exit 9\n'
        f'[ {code} = 0 ] || {{ echo "no cluster" >&2; exit {code}; }}\ncat {directory}/answer\n'
    )
    script.chmod(0o755)
    return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}


def test_the_images_of_a_cluster_are_warmed_and_foreign_ones_left_out(
    served: Millpond, many: dict[str, Manifest], tmp_path: Path
) -> None:
    pods = [
        {
            "spec": {
                "initContainers": [{"image": "many-0:1"}],
                "containers": [{"image": "docker.io/library/many-1:1"}, {"image": "elsewhere.test/x:1"}],
                "ephemeralContainers": [{"image": "many-2:1"}],
            }
        },
        {"spec": {"containers": [{"image": "many-0:1"}]}},
    ]
    path = fake_kubectl(tmp_path / "bin", json.dumps({"items": pods}))
    done = millpond("warm", "--from-cluster", of=served, env=path)
    assert done.returncode == 0, done.stderr
    assert "left out elsewhere.test/x:1: no upstream 'elsewhere.test'" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 images warm")


def test_a_cluster_that_does_not_answer_is_said_to_be_the_reason(tmp_path: Path) -> None:
    nobody = Millpond({}, tmp_path / "none")
    done = millpond("warm", "--from-cluster", of=nobody, env=fake_kubectl(tmp_path / "bin", "", 1))
    assert (done.returncode, done.stderr) == (2, "millpond: kubectl says: no cluster\n")
    done = millpond("warm", "--from-cluster", of=nobody, env=fake_kubectl(tmp_path / "other", "[]"))
    assert (done.returncode, done.stderr) == (2, "millpond: kubectl did not answer with a list of pods\n")


CHART: Final = {
    "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
    "values.yaml": "tag: '0'\n",
    "templates/all.yaml": (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  template:\n    spec:\n"
        "      containers:\n        - {name: a, image: 'many-3:{{ .Values.tag }}'}\n"
        "---\napiVersion: example.test/v1\nkind: Shop\nmetadata: {name: shop}\nspec: {web: {image: many-4:1}}\n"
    ),
}


def test_the_images_of_a_chart_are_warmed_as_it_is_rendered(
    served: Millpond, many: dict[str, Manifest], tmp_path: Path
) -> None:
    require("helm")
    chart = tmp_path / "shop"
    for name, text in CHART.items():
        (chart / name).parent.mkdir(parents=True, exist_ok=True)
        (chart / name).write_text(text)
    values = tmp_path / "values.yaml"
    values.write_text("tag: '1'\n")
    shown = well("warm", "--from-chart", str(chart), "--values", str(values), of=served)
    assert shown.splitlines()[-1].startswith("2 images warm")
    (chart / "templates" / "all.yaml").write_text("{{ nonsense }}")
    assert "helm says: " in refused("warm", "--from-chart", str(chart), of=served)


def test_without_a_name_warming_says_how_to_give_some(tmp_path: Path) -> None:
    assert "name an IMAGE, or where to find some: -f FILE" in refused("warm", of=Millpond({}, tmp_path))


def test_a_directory_that_cannot_be_used_is_no_empty_cache(tmp_path: Path) -> None:
    """A user who may not open it is told so, not that nothing is cached."""
    nobody = Millpond({}, tmp_path)
    (nobody.cache / "lock").mkdir(parents=True)
    told = refused("images", of=nobody)
    assert f"{nobody.cache} cannot be used: Is a directory; and no Millpond answers" in told

"""The bench itself: a small run of it, and what it makes of its figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.bars import verdicts
from tests.bench.lag import quantile
from tests.bench.measure import Measurement
from tests.bench.plots import draw
from tests.bench.report import Row, read, rows, show, write
from tests.support.programs import require, run

ROOT = Path(__file__).parents[2]


def _measured(case: str, peer: str, *values: float, upstream: Sequence[float] = ()) -> Measurement:
    return Measurement(case, peer, "x", list(values), peak=[90.0], upstream=list(upstream))


def _rows() -> list[Row]:
    return rows(
        [
            _measured("warm blob, 4 clients", "nginx sendfile", 4.0, 5.0, 6.0),
            _measured("warm blob, 4 clients", "distribution proxy", 2.0),
            _measured("warm blob, 4 clients", "millpond", 4.5),
            _measured("cold blob of 512 MiB, 20 MB/s a connection", "direct", 20),
            _measured("cold blob of 512 MiB, 20 MB/s a connection", "millpond", 110),
            _measured("storm of 100 nodes, 512 MiB, cold: last node", "distribution proxy", 30.0),
            _measured("storm of 100 nodes, 512 MiB, cold: last node", "millpond", 10.0, upstream=[1.25]),
        ]
    )


def test_a_ratio_is_that_of_medians_to_the_first_peer_of_the_case() -> None:
    assert [round(row.ratio, 2) for row in _rows()] == [1.0, 0.4, 0.9, 1.0, 5.5, 1.0, 0.33]


def test_a_bar_is_judged_by_the_ratio_of_medians() -> None:
    met = {verdict.bar: (verdict.found, verdict.met) for verdict in verdicts(_rows())}
    assert met == {
        "warm blob, 4 clients, against nginx sendfile": ("0.90 x", False),
        "warm blob, 1 · 4 · 16 · 64 clients, against distribution": ("2.25", True),
        "upstream limited to 20 MB/s a connection, against direct": ("5.50 x", True),
        "storm, cold: upstream bytes": ("1.250 x", False),
        "storm, cold: faster than distribution": ("3.00 x", True),
        "memory in every case": ("90 to 90 MiB (warm blob, 4 clients)", True),
    }


def test_a_share_of_timers_is_read_from_a_histogram_by_straight_lines() -> None:
    buckets = {0.01: 50.0, 0.02: 90.0, 0.03: 100.0, float("inf"): 100.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.01)
    assert quantile(buckets, 0.95) == pytest.approx(0.025)
    assert quantile({**buckets, float("inf"): 200.0}, 0.99) == pytest.approx(0.03)


def test_what_is_written_can_be_read_shown_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(_rows(), tmp_path / "bench.json")
    found = read(tmp_path / "bench.json")
    assert found == _rows()
    show(found)
    assert "MISSED" in capsys.readouterr().out
    drawn = draw(found, tmp_path)
    assert [file.name for file in drawn] == ["warm.svg", "storm.svg", "limited.svg"]
    assert all(file.stat().st_size < 64_000 for file in drawn)


@pytest.mark.clients
def test_a_small_run_measures_every_peer_and_counts_what_the_upstream_sent(tmp_path: Path) -> None:
    require("nginx", "docker-registry")
    small = ["--rounds", "1", "--seconds", "0.2", "--size", "64", "--storm", "20", "--nodes", "4"]
    files = ["--json", str(tmp_path / "bench.json"), "--directory", str(tmp_path)]
    run(
        [sys.executable, "-m", "tests.bench", "tls", "cold", "storm", "lag", *small, *files],
        env={"PYTHONPATH": str(ROOT)},
    )
    found = {(row.case, row.peer): row for row in read(tmp_path / "bench.json")}
    storm = "storm of 4 nodes, 20 MiB"
    assert found["cold blob, 1 client: last byte", "millpond"].upstream == 1
    assert found[f"{storm}, cold: last node", "millpond"].upstream == 1
    assert found[f"{storm}, warm: last node", "millpond"].upstream == 0
    assert found[f"{storm}, page cache dropped: loop lag p99", "a process beside it"].median > 0
    assert all(row.median > 0 for row in found.values() if "loop lag" not in row.case)
    peers = {"nginx, TLS", "nginx proxy_cache", "distribution proxy", "direct", "millpond", "a process beside it"}
    assert peers == {who for _, who in found}

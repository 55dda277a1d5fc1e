"""What issue 3 promises, and whether one run shows it: information, not a test, since a machine may be busy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.bench.report import Row

NGINX: Final = "nginx sendfile"
CACHE: Final = "nginx proxy_cache"
DISTRIBUTION: Final = "distribution proxy"
MEMORY: Final = 150
"""MiB resident, in every case."""


@dataclass(frozen=True, slots=True)
class Verdict:
    bar: str
    wanted: str
    found: str
    met: bool


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Those whose cases are among `rows`."""
    found = _Found(rows)
    return [
        *_warm(found),
        *_cold(found),
        *_limited(found),
        *_manifests(found),
        *_storm(found),
        *_lag(found),
        *_ecr(found),
        *_watched(found),
        *_memory(rows),
    ]


class _Found:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def row(self, case: str, peer: str) -> Row | None:
        """The first row of this peer whose case matches: `*` stands for what a size or a count of nodes may be."""
        before, _, after = case.partition("*")
        for row in self.rows:
            if row.peer == peer and row.case.startswith(before) and row.case.endswith(after or row.case):
                return row
        return None

    def ratio(self, case: str, peer: str, other: str) -> float | None:
        """The median of one peer over that of another."""
        ours, theirs = self.row(case, peer), self.row(case, other)
        return ours.median / theirs.median if ours and theirs else None


def _warm(found: _Found) -> Iterator[Verdict]:
    for clients in (4, 16, 64):
        ratio = found.ratio(f"warm blob, {clients} clients", "millpond", NGINX)
        yield from _at_least(f"warm blob, {clients} clients, against nginx sendfile", ratio, 0.95)
    counts = ("1 client", "4 clients", "16 clients", "64 clients")
    ratios = [found.ratio(f"warm blob, {clients}", "millpond", DISTRIBUTION) for clients in counts]
    if known := [ratio for ratio in ratios if ratio is not None]:
        text = " · ".join(f"{ratio:.2f}" for ratio in known)
        yield Verdict("warm blob, 1 · 4 · 16 · 64 clients, against distribution", "≥ 1.8 x", text, min(known) >= 1.8)


def _cold(found: _Found) -> Iterator[Verdict]:
    held = "cold blob, upstream held to 250 MB/s"
    for peer, how in (("millpond", "as configured by default"), ("millpond, one connection", "one connection")):
        yield from _at_most(f"{held}, {how}: time against direct", found.ratio(held, peer, "direct"), 1.1)
    for clients in ("1 client", "16 clients"):
        ratio = found.ratio(f"cold blob, {clients}: last byte", "millpond", CACHE)
        yield from _at_most(f"cold blob, {clients}: time against nginx proxy_cache", ratio, 1.0)
    ours = found.row("cold blob, 16 clients: first byte", "millpond")
    # Of an upstream at rest, where it was measured: with 16 clients of its own it is slower.
    rest = found.row("cold blob, 1 client: first byte", "direct")
    theirs = rest or found.row("cold blob, 16 clients: first byte", "direct")
    if ours and theirs:
        late = ours.median - theirs.median
        yield Verdict("cold blob, 16 clients: first byte after upstream's", "≤ 50 ms", f"{late:.0f} ms", late <= 50)


def _limited(found: _Found) -> Iterator[Verdict]:
    ratio = found.ratio("cold blob of * MiB, 20 MB/s a connection", "millpond", "direct")
    yield from _at_least("upstream limited to 20 MB/s a connection, against direct", ratio, 5)


def _manifests(found: _Found) -> Iterator[Verdict]:
    case = "warm manifest by tag, 16 clients"
    yield from _at_least("warm manifest by tag, against distribution", found.ratio(case, "millpond", DISTRIBUTION), 10)
    if rate := found.row(case, "millpond"):
        yield Verdict("warm manifest by tag, requests a second", "≥ 5,000", f"{rate.median:,.0f}", rate.median >= 5000)
    if p99 := found.row(f"{case}: p99", "millpond"):
        yield Verdict("warm manifest by tag, p99", "≤ 10 ms", f"{p99.median:.1f} ms", p99.median <= 10)


def _storm(found: _Found) -> Iterator[Verdict]:
    case = "storm of *, cold: last node"
    ours = found.row(case, "millpond")
    if ours and ours.upstream is not None:
        text = f"{ours.upstream:.3f} x"
        yield Verdict("storm, cold: upstream bytes", "1.00 x the image", text, 0.995 <= ours.upstream < 1.005)
    yield from _at_least("storm, cold: faster than distribution", found.ratio(case, DISTRIBUTION, "millpond"), 2)


def _lag(found: _Found) -> Iterator[Verdict]:
    case = "storm of *, page cache dropped: loop lag p99"
    ours, beside = found.row(case, "millpond"), found.row(case, "a process beside it")
    if ours and beside:
        text = f"{ours.median:.0f} ms; a process that does nothing: {beside.median:.0f} ms"
        yield Verdict("storm, page cache dropped: loop lag p99", "< 20 ms", text, ours.median < 20)


def _ecr(found: _Found) -> Iterator[Verdict]:
    ratio = found.ratio("cold image *, 1 node", "two ECR targets", "no ECR")
    yield from _at_most("cold image with two ECR targets: time against none", ratio, 1.05)


def _watched(found: _Found) -> Iterator[Verdict]:
    ratio = found.ratio("warm blob, *, looked at", "page and scrapes", "nobody looks")
    yield from _at_least("warm blob, looked at: throughput against not", ratio, 0.98)


def _memory(rows: Sequence[Row]) -> Iterator[Verdict]:
    peaks = [(row.peak, row.case) for row in rows if row.peer.startswith("millpond") and row.peak is not None]
    if peaks:
        peak, case = max(peaks)
        text = f"{min(peaks)[0]:.0f} to {peak:.0f} MiB ({case})"
        yield Verdict("memory in every case", f"≤ {MEMORY} MiB", text, peak <= MEMORY)


def _at_least(bar: str, ratio: float | None, wanted: float) -> Iterator[Verdict]:
    if ratio is not None:
        yield Verdict(bar, f"≥ {wanted:g} x", f"{ratio:.2f} x", ratio >= wanted)


def _at_most(bar: str, ratio: float | None, wanted: float) -> Iterator[Verdict]:
    if ratio is not None:
        yield Verdict(bar, f"≤ {wanted:g} x", f"{ratio:.2f} x", ratio <= wanted)

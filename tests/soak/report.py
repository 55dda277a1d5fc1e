"""What a soak has shown, as text, and whether that is good enough."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.soak.clients import Account
from tests.soak.watch import Idle, Sample

MIB: Final = 1 << 20
# Issue 6's bar for memory after the warm-up.
GROWTH: Final = 0.10
# Less than this says nothing about memory: allocators and caches are still filling.
JUDGED_SECONDS: Final = 90.0
# Connections to upstreams and ECR come and go; what leaks with every request is far beyond this after some hundred.
ALLOWANCE: Final = 12
_WIDTH: Final = 72
_HEIGHT: Final = 10


@dataclass
class Report:
    """`warm` are samples of one life of the program after its warm-up; `idle` is how it was then, and at the end."""

    seconds: float
    account: Account
    samples: Sequence[Sample]
    warm: Sequence[Sample]
    idle: tuple[Idle, Idle]
    troubles: Counter[str]
    counts: dict[str, float]
    complaints: Sequence[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Resident memory at the end over that after the warm-up, medians of a quarter each, less one."""
        quarter = max(1, len(self.warm) // 4)
        first, last = (
            statistics.median(sample.rss for sample in part) for part in (self.warm[:quarter], self.warm[-quarter:])
        )
        return last / first - 1

    @property
    def judges_memory(self) -> bool:
        return self.warm[-1].at - self.warm[0].at >= JUDGED_SECONDS

    def failures(self) -> Iterator[str]:
        """Why it was not good enough; nothing when it was."""
        if self.account.unexpected_count:
            yield f"{self.account.unexpected_count} errors that no injected fault explains"
        if self.complaints:
            yield f"{len(self.complaints)} signs of a defect, in the log or in what upstream and ECR were asked"
        if self.judges_memory and self.growth > GROWTH:
            yield f"memory grew by {self.growth:.0%} after the warm-up"
        before, after = self.idle
        for name, first, last in (("files", before.files, after.files), ("tasks", before.tasks, after.tasks)):
            if last > first + ALLOWANCE:
                yield f"{last} open {name} when idle, {first} after the warm-up"
        if after.temporaries:
            yield f"{after.temporaries} temporary files when idle"
        if after.astray:
            yield f"{after.astray} bytes accounted for that are not on the disk"
        # A soak in which nothing happened would pass for a good one.
        for name, count in (*self.counts.items(), ("images pulled", self.account.done["images pulled"])):
            if not count:
                yield f"there were no {name}: this soak shows nothing"

    def lines(self) -> Iterator[str]:
        yield f"soak of {self.seconds:.0f} s"
        yield "  clients   " + _counted(self.account.done)
        yield "  troubles  " + _counted(self.troubles)
        yield "  program   " + _counted(self.counts)
        yield f"  errors    {self.account.unexpected_count} unexpected; excused: {_counted(self.account.excused)}"
        for text in (*self.account.unexpected, *self.complaints[:10]):
            yield f"    {text}"
        if self.samples:
            yield "  memory in MiB (| is a start of the program)"
            yield from (f"    {line}" for line in plot(self.samples))
            files, tasks = (max(getattr(one, name) for one in self.samples) for name in ("files", "tasks"))
            yield f"  the most  {files} files, {tasks} tasks"
        judged = "" if self.judges_memory else f" (too short to judge: less than {JUDGED_SECONDS:.0f} s)"
        yield f"  memory    {self.growth:+.1%} from after the warm-up to the end{judged}"
        for when, idle in zip(("after warm-up", "at the end"), self.idle, strict=True):
            yield (
                f"  idle      {when}: {idle.files} files, {idle.tasks} tasks, {idle.temporaries} temporary files, "
                f"{idle.astray} bytes astray"
            )
        found = list(self.failures())
        yield from (f"  FAILED    {text}" for text in found)
        if not found:
            yield "  good      nothing grew, stayed behind, or went wrong by itself"


def plot(samples: Sequence[Sample]) -> list[str]:
    """Resident memory over time; a column is the median of its samples."""
    end = samples[-1].at or 1.0
    columns: list[list[Sample]] = [[] for _ in range(_WIDTH)]
    for sample in samples:
        columns[min(_WIDTH - 1, int(sample.at / end * _WIDTH))].append(sample)
    levels = [statistics.median(one.rss for one in column) / MIB if column else None for column in columns]
    known = [level for level in levels if level is not None]
    low, high = min(known), max(known)
    step = (high - low) / (_HEIGHT - 1) or 1.0
    lines = []
    for row in reversed(range(_HEIGHT)):
        marks = ("*" if level is not None and round((level - low) / step) == row else " " for level in levels)
        lines.append(f"{low + row * step:7.1f} {''.join(marks)}".rstrip())
    lives = [max((one.life for one in column), default=0) for column in columns]
    starts = ("|" if life > max(lives[:at], default=1) else "-" for at, life in enumerate(lives))
    return [*lines, f"        {''.join(starts)}", f"        0{f'{end:.0f} s':>{_WIDTH - 1}}"]


def _counted(counts: dict[str, float] | Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{count:.0f} {name}" for name, count in counts.items()) or "none"

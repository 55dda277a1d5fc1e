"""How the commands print: tables with colours on a terminal, plain lines with tabs elsewhere, numbers for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

BAD: Final = frozenset({"differs", "unverified", "rejected", "failed", "failing", "refused"})
_STYLES: Final = {
    "ok": "green",
    "done": "green",
    "same": "green",
    "idle": "dim",
    "queued": "dim",
    "pushing": "cyan",
    "pulling": "cyan",
    "waiting": "yellow",
    "limited": "yellow",
}
_SHORT: Final = len("sha256:") + 12  # as much of a digest as people compare by eye


def on_terminal() -> bool:
    return sys.stdout.isatty()


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> None:
    """Nothing at all without rows. Elsewhere than on a terminal each line begins with `kind`."""
    if not rows:
        return
    if not on_terminal():
        for row in rows:
            print_line([kind, *row] if kind else row)
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

    Console().print(table(heads, rows))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """As rich draws it, of lines without borders."""
    from rich.table import Table  # noqa: PLC0415 - only a terminal needs it

    drawn = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        drawn.add_row(*map(styled, row))
    return drawn


def styled(text: str) -> Text:
    """Text that is nobody's markup; a state has its colour."""
    from rich.text import Text  # noqa: PLC0415 - only a terminal needs it

    return Text(text, style="bold red" if text in BAD else _STYLES.get(text, ""))


def print_line(parts: Iterable[str]) -> None:
    """One line whatever a message holds, so that grep and cut can be relied on."""
    click.echo("\t".join(" ".join(part.split()) for part in parts))


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def short(digest: str) -> str:
    return digest[:_SHORT]


def share(part: float, whole: float) -> str:
    """Per cent, rounded down: 100 is all of it."""
    return f"{int(100 * part // whole)} %" if whole else ""

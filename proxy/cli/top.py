"""`millpond top`"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from proxy.cli import text
from proxy.cli.cached import Row
from proxy.cli.command import api_of, command, json_option
from proxy.oci.figures import sized

if TYPE_CHECKING:
    from rich.console import Group

_RECENT: Final = 8  # pulls and changes of state that stay in sight
_FULL: Final = 20  # cells of a bar
_HEADS: Final = ["download", "from", "", "", "speed", "followers"]


@command()
@json_option
def top(config_file: Path | None, as_json: bool) -> int:
    """Show what the server does, every second, until Ctrl-C. In a pipe a line a second; with --json all events."""
    events = api_of(config_file).events("/api/v1/events")
    try:
        if as_json:
            for name, data in events:
                click.echo(json.dumps({"event": name, **data}))
        elif text.on_terminal():
            _live(events)
        else:
            for name, data in events:
                if name == "tick":
                    text.print_line(_sums(data))
    except KeyboardInterrupt:
        return 0
    raise AssertionError("events end with an error, or with whoever reads them")


def _live(events: Iterable[tuple[str, Row]]) -> None:
    from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

    recent: list[str] = []
    with Live(screen=True, auto_refresh=False) as live:
        for name, data in events:
            if name == "tick":
                live.update(_screen(data, recent), refresh=True)
            else:
                recent.append(str(data["sentence"]) if name == "state" else _pull(data))
                del recent[:-_RECENT]


def _screen(tick: Row, recent: Iterable[str]) -> Group:
    from rich.console import Group  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415

    flights = [_flight(each) for each in tick["flights"]]
    more = tick["flights_total"] - len(flights)
    parts: list[Any] = [Text("   ".join(_sums(tick)), style="bold"), Text()]
    parts.append(text.table(_HEADS, flights) if flights else Text("no downloads", style="dim"))
    if more > 0:
        parts.append(Text(f"and {more} more", style="dim"))
    parts += [Text(), *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in recent)]
    return Group(*parts)


def _sums(tick: Row) -> list[str]:
    hits = tick["hit_ratio"]
    return [
        f"{sized(tick['served_rate'])}/s out",
        f"{sized(tick['fetched_rate'])}/s in",
        f"{tick['requests_rate']:.0f} requests/s",
        f"{100 * hits:.0f} % hits" if hits is not None else "no hits yet",
        text.count(tick["active"], "response"),
        text.count(tick["flights_total"], "download"),
        f"cache {sized(tick['cache_bytes'])}",
        f"loop {tick['lag'] * 1000:.0f} ms",
    ]


def _flight(each: Row) -> list[str]:
    size = each["size"]
    part = min(each["landed"] / size, 1) if size else 0
    return [
        f"{each['repository']} {text.short(each['digest'])}",
        each["tier"] or "",
        "█" * int(_FULL * part) + "░" * (_FULL - int(_FULL * part)),
        text.share(each["landed"], size) if size else sized(each["landed"]),
        f"{sized(each['rate'])}/s",
        str(each["followers"]),
    ]


def _pull(pull: Row) -> str:
    took = f"{sized(pull['bytes'])} in {pull['seconds']:.1f} s"
    return f"{pull['client']}  {pull['image']}  {pull['source']}  {took}  {pull['why'] or ''}"

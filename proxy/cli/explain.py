"""`millpond explain`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from proxy.cli import text
from proxy.cli.command import api_of, command, json_option
from proxy.cli.completion import image_names


@command()
@click.argument("image", shell_complete=image_names)
@json_option
def explain(config_file: Path | None, image: str, as_json: bool) -> int:
    """Say how it stands with IMAGE: why its pulls are as they are, what the next one would do, and all that decides it.

    Asks the running server, whose upstreams, breakers and limits are what counts.
    """
    found = api_of(config_file).get("/api/v1/explain", {"image": image})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return 0
    if text.on_terminal():
        click.secho(found["cause"], bold=True)
        click.echo(f"Next pull: {found['next']}\n")
    else:
        text.print_line(["cause", found["cause"]])
        text.print_line(["next", found["next"]])
    named = [["name", found["name"], found["digest"] or ""]]
    steps = [[step["what"], step["answer"], step["detail"] or ""] for step in found["steps"]]
    text.print_table(["", "", ""], named + steps)
    return 0

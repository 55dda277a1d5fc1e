"""`millpond completion`, and the names of images that a shell may complete."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from proxy.cli.admin_api import ApiError, admin_api
from proxy.oci.errors import MillpondError
from proxy.settings import SettingsError, load

_PROGRAM: Final = "millpond"
_VARIABLE: Final = "_MILLPOND_COMPLETE"
_SHELLS: Final = ("bash", "zsh", "fish")
_MOST: Final = 50  # names that a shell shows


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and the names of cached images.

    For bash: millpond completion bash > /etc/bash_completion.d/millpond
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows these shells"
    click.echo(made(context.find_root().command, {}, _PROGRAM, _VARIABLE).source())


def image_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Cached images whose name has what was typed in it; none while no server runs. A shell waits for this."""
    try:
        settings = load(context.params.get("config_file"))
        rows = admin_api(settings).get("/api/v1/images", {"q": begun, "limit": _MOST})["images"]
    except (ApiError, SettingsError, MillpondError):
        return []
    names = dict.fromkeys(name for row in rows for name in _spellings(row["name"], row["tag"]))
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _spellings(name: str, tag: str | None) -> list[str]:
    """An image as it may be typed: whole, and without what is taken for granted."""
    whole = f"{name}:{tag}" if tag else name
    return [whole, whole.removeprefix("docker.io/").removeprefix("library/")]

"""What most commands share: the configuration, JSON if asked for, and an exit code that scripts can rely on."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from proxy.cli.admin_api import AdminApi, ApiError, admin_api
from proxy.cli.config import EXIT_UNUSABLE, config_option, settings_or_exit
from proxy.oci.errors import MillpondError

json_option = click.option("--json", "as_json", is_flag=True, help="JSON also on a terminal.")


def command(
    group: Callable[..., Callable[[Callable[..., None]], click.Command]] = click.command, name: str | None = None
) -> Callable[[Callable[..., int]], click.Command]:
    """A command with --config, of `group` (`Group.command`) or on its own.

    What the function returns is the exit code. What could not be asked ends it with EXIT_UNUSABLE and the reason.
    """

    def make(function: Callable[..., int]) -> click.Command:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            try:
                code = function(**arguments)
            except (ApiError, MillpondError) as error:
                click.echo(f"millpond: {error}", err=True)
                code = EXIT_UNUSABLE
            sys.exit(code)

        return group(name=name or function.__name__.strip("_"))(config_option(run))

    return make


def api_of(config_file: Path | None) -> AdminApi:
    """The server's that runs with this configuration. Raises ApiError."""
    return admin_api(settings_or_exit(config_file))

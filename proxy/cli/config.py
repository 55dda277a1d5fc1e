"""The option that every command shares, and what a command does with a configuration that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from proxy.settings import Settings, SettingsError, load

EXIT_UNUSABLE: Final = 2  # what click uses for a wrong command line; a wrong configuration is its sibling

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration, in YAML. Without it: the file that MILLPOND_CONFIG names, else the defaults.",
)


def settings_or_exit(config_file: Path | None) -> Settings:
    """The settings; else the problems go to standard error and the program ends."""
    try:
        return load(config_file)
    except SettingsError as error:
        click.echo(f"millpond: {error}", err=True)
        sys.exit(EXIT_UNUSABLE)

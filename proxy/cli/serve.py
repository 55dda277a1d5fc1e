"""`millpond serve`"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.cli.config import config_option, settings_or_exit


@click.command()
@config_option
def serve(config_file: Path | None) -> None:
    """Serve the registry port and the admin port until SIGTERM or SIGINT. SIGHUP reads the configuration again."""
    settings = settings_or_exit(config_file)
    from proxy import app  # noqa: PLC0415 - the whole program hangs on it, and `--version` is to be quick

    sys.exit(app.run(settings, config_file))

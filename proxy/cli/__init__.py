"""The program `millpond`. One module a command; a command reads its arguments and calls one function."""

import click

from proxy import __version__
from proxy.cli.check import check
from proxy.cli.ecr import ecr
from proxy.cli.mirror import mirror_config
from proxy.cli.serve import serve
from proxy.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="millpond")
def main() -> None:
    """Millpond, a pull-through cache for container images."""


main.add_command(serve)
main.add_command(check)
main.add_command(verify)
main.add_command(ecr)
main.add_command(mirror_config)

"""The program `millpond`. One module a command; a command reads its arguments and calls one function."""

import click

from proxy import __version__
from proxy.cli.changes import pin, purge, refresh, reload, unpin
from proxy.cli.check import check
from proxy.cli.completion import completion
from proxy.cli.ecr import ecr
from proxy.cli.explain import explain
from proxy.cli.export import export
from proxy.cli.images import images
from proxy.cli.imports import import_
from proxy.cli.mirror import mirror_config
from proxy.cli.serve import serve
from proxy.cli.status import status
from proxy.cli.top import top
from proxy.cli.verify import verify
from proxy.cli.warm import warm


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="millpond")
def main() -> None:
    """Millpond, a pull-through cache for container images."""


for _command in (
    serve,
    check,
    status,
    top,
    images,
    explain,
    warm,
    pin,
    unpin,
    purge,
    refresh,
    reload,
    verify,
    export,
    import_,
    ecr,
    mirror_config,
    completion,
):
    main.add_command(_command)

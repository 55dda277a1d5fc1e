"""`millpond mirror-config`"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import structlog

from proxy.cli.config import EXIT_UNUSABLE, config_option, settings_or_exit
from proxy.mirror import (
    CLIENTS,
    Address,
    Finding,
    Installation,
    Outcome,
    Plan,
    Refused,
    Registry,
    config_path,
    default_config,
    default_root,
    plan,
    watch,
)
from proxy.observe import logs
from proxy.settings import Settings

_ENDINGS: Final = {signal.SIGTERM, signal.SIGINT}
_TWO: Final = (
    "another node mirror has installed {0} since; left to it. Keep one of them: nodeMirror.enabled belongs into one "
    "release. When it is removed, {1} is installed again"
)
_PATH: Final = click.Path(path_type=Path)


@click.command(name="mirror-config")
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.argument("address", required=False)
@click.option("--registry", "names", multiple=True, metavar="NAME[=URL]", help="Only this one; may be given again.")
@click.option("--ca-file", type=_PATH, metavar="FILE", help="The authority of Millpond's certificate, in PEM.")
@click.option("--directory", type=_PATH, metavar="DIR", help="Where the client has its configuration.")
@click.option("--install", is_flag=True, help="Write it, and keep what was there.")
@click.option("--remove", is_flag=True, help="Restore what was there before --install.")
@click.option("--check", is_flag=True, help="Say whether it is installed. Exit 1 if not.")
@click.option("--watch", "watching", is_flag=True, help="With --install: go on, and install again what gets changed.")
@click.option("--remove-on-exit", is_flag=True, help="With --watch: --remove at SIGTERM.")
@click.option("--containerd-config", type=_PATH, metavar="FILE", help="By default config.toml above the directory.")
@click.option("--host-root", type=_PATH, metavar="DIR", help="Where a node's / is mounted, for --containerd-config.")
@config_option
def mirror_config(client: str, address: str | None, config_file: Path | None, **options: Any) -> None:
    """Print the configuration with which CLIENT pulls through the Millpond at ADDRESS, or install it.

    ADDRESS is http://host:port, as CLIENT reaches it. The registries are those of Millpond's configuration; each stays
    the way around Millpond.
    """
    chosen = [name for name in ("install", "remove", "check") if options[name]]
    if len(chosen) > 1:
        raise click.UsageError("--install, --remove and --check exclude each other")
    if options["watching"] and not options["install"]:
        raise click.UsageError("--watch goes with --install")
    if options["remove_on_exit"] and not options["watching"]:
        raise click.UsageError("--remove-on-exit goes with --watch")
    command = _Command(client, address, config_file, options)
    try:
        code = command.run(chosen[0] if chosen else "print")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except (Refused, OSError) as error:
        click.echo(f"millpond: {_reason(error)}", err=True)
        code = EXIT_UNUSABLE
    sys.exit(code)


class _Command:
    def __init__(self, client: str, address: str | None, config_file: Path | None, options: dict[str, Any]) -> None:
        self._client = client
        self._address = address
        self._config_file = config_file
        self._options = options
        self._directory: Path = (options["directory"] or Path(CLIENTS[client].directory)).absolute()
        self._installation = Installation(client, self._directory)

    def run(self, action: str) -> int:
        """The exit code."""
        if action == "remove":
            return self._report([_found(outcome) for outcome in self._installation.remove()] or [self._nothing()])
        if self._address is None:
            raise ValueError("name the ADDRESS of Millpond, such as http://127.0.0.1:5000")
        settings = settings_or_exit(self._config_file)
        planned = self._plan(settings)
        if action == "print":
            return self._print(planned)
        if self._options["watching"]:
            return self._watch(settings)
        if action == "check":
            return self._report([*map(_found, self._installation.check(planned)), *self._about_containerd()])
        code = self._report([_found(outcome) for outcome in self._installation.install(planned)])
        for text in [*planned.remarks(), planned.then, *(f.detail for f in self._about_containerd() if not f.ok)]:
            click.echo(text, err=True)
        return code

    def _plan(self, settings: Settings) -> Plan:
        names = self._options["names"] or settings.upstreams
        if self._client == "docker" and settings.default_upstream != "docker.io":
            raise ValueError(
                f"Docker does not say which registry it means, and default_upstream is "
                f"{settings.default_upstream}; with docker.io there, this could work"
            )
        upstreams = settings.upstreams
        registries = []
        for text in dict.fromkeys(names):
            name, _, url = text.partition("=")
            registries.append(Registry.parse(name, url or (upstreams[name].url if name in upstreams else None)))
        if not registries:
            raise ValueError("the configuration has no upstream; name one with --registry")
        return plan(
            self._client,
            Address.parse(str(self._address)),
            registries,
            directory=self._directory,
            ca=self._options["ca_file"],
        )

    def _print(self, planned: Plan) -> int:
        """To standard output nothing but what belongs into the file."""
        click.echo("\n".join(piece.printed for piece in planned.pieces if piece.printed is not None), nl=False)
        for text in planned.remarks():
            click.echo(text, err=True)
        for piece in planned.pieces:
            if piece.printed is None:
                click.echo(f"{self._directory / piece.path}: a copy of {self._options['ca_file']}", err=True)
        return 0

    def _about_containerd(self) -> list[Finding]:
        if self._client != "containerd":
            return []
        config = (self._options["containerd_config"] or default_config(self._directory)).absolute()
        root = (self._options["host_root"] or default_root(self._directory)).absolute()
        found = config_path(config, self._directory, root)
        return [Finding(found.ok, "ok" if found.ok else "FAILED", "config_path", found.detail)]

    def _watch(self, settings: Settings) -> int:
        # Before the log has its thread, which is to inherit it: a signal must not end an installation half way.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
        logs.configure(settings.log.format, settings.log.level)

        begun = False

        def look() -> Iterable[Finding]:
            nonlocal begun
            try:
                planned = self._plan(settings)  # anew, since the authority's file may be another one now
                other = self._installation.host() if begun else ""
                if other and other != planned.address.host:
                    # Who came last wins: two that take it from each other every few seconds help nobody.
                    yield Finding(False, "refused", str(self._directory), _TWO.format(other, planned.address.host))
                    return
                begun = True
                for outcome in self._installation.install(planned):
                    yield _found(outcome)
                for text in planned.remarks():
                    yield Finding(True, "remark", text)
                yield from self._about_containerd()
            except (Refused, OSError, ValueError) as error:
                yield Finding(False, "failed", str(self._directory), _reason(error))

        watch(look, _log, lambda seconds: signal.sigtimedwait(_ENDINGS, seconds) is not None)
        if not self._options["remove_on_exit"]:
            return 0
        if self._installation.host() not in ("", Address.parse(str(self._address)).host):
            return 0  # not ours
        outcomes = self._installation.remove()
        for outcome in outcomes:
            _log(_found(outcome))
        return 0 if all(outcome.ok for outcome in outcomes) else 1

    def _report(self, findings: Sequence[Finding]) -> int:
        for finding in findings:
            click.echo("\t".join(part for part in (finding.state, finding.subject, finding.detail) if part))
        return 0 if all(finding.ok for finding in findings) else 1

    def _nothing(self) -> Finding:
        return Finding(True, "unchanged", str(self._directory), "nothing is installed there")


def _found(outcome: Outcome) -> Finding:
    return Finding(outcome.ok, outcome.state, str(outcome.path), outcome.detail, outcome.acted)


def _log(finding: Finding) -> None:
    log = structlog.get_logger()
    (log.info if finding.ok else log.warning)(
        "node mirror", state=finding.state, subject=finding.subject, detail=finding.detail
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return str(error)

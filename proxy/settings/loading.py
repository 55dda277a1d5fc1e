"""From a file and the environment to `Settings`: built-in upstreams, then the file, then the environment over both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from proxy.settings.model import Settings
from proxy.settings.problems import Problem, SettingsError, explain
from proxy.settings.sources import (
    CONFIG_VARIABLE,
    merge,
    place,
    read_environment,
    read_file,
    unknown_variable,
)

BUILT_IN: Final[Mapping[str, Mapping[str, Any]]] = {
    "docker.io": {
        "url": "https://registry-1.docker.io",
        "aliases": ["index.docker.io", "registry-1.docker.io"],
        "token_hosts": ["auth.docker.io"],
    },
    "ghcr.io": {"url": "https://ghcr.io"},
    "registry.k8s.io": {"url": "https://registry.k8s.io"},
    "quay.io": {"url": "https://quay.io"},
}

SYSTEM_DIRECTORY: Final = Path("/var/lib/millpond")


def load(config_file: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of `config_file` (else of the file that MILLPOND_CONFIG names, else none) under the environment.

    `environ` is the process's own environment unless given.

    Raises:
        SettingsError: the file or the environment cannot be used; the message lists every problem found.
    """
    environ = os.environ if environ is None else environ
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    tree = read_file(config_file) if config_file else {}
    _refuse_passwords(tree)

    named = tree.get("upstreams")
    found = read_environment(environ, [*BUILT_IN, *(named if isinstance(named, Mapping) else ())])
    problems = [
        unknown_variable(variable, Settings.model_fields)
        for path, (variable, _) in found.items()
        if path[0] not in Settings.model_fields
    ]
    if problems:
        raise SettingsError(problems)
    for path, (_, value) in found.items():
        tree = place(tree, path, value)

    tree["upstreams"] = _with_built_in(tree.get("upstreams"))
    tree["cache"] = _with_directory(tree.get("cache"), environ)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise explain(error, Settings, {path: variable for path, (variable, _) in found.items()}) from None


def _refuse_passwords(tree: Mapping[str, Any]) -> None:
    """A file is copied, committed and shown in tickets; a password in it would leave its trust domain."""
    upstreams = tree.get("upstreams")
    problems = [
        Problem(
            f"upstreams.{name}.password",
            "a password does not belong into this file; put it into a file of its own and name that with "
            "password_file, or set the environment variable MILLPOND_UPSTREAMS__<NAME>__PASSWORD",
            "(hidden)",
        )
        for name, upstream in (upstreams.items() if isinstance(upstreams, Mapping) else ())
        if isinstance(upstream, Mapping) and "password" in upstream
    ]
    if problems:
        raise SettingsError(problems)


def _with_built_in(configured: Any) -> Any:
    """The built-in upstreams with the configured ones over them. Null removes a built-in one; a new name, whatever
    stands under it, is its own host."""
    if configured is not None and not isinstance(configured, Mapping):
        return configured
    upstreams: dict[str, Any] = {}
    for name in dict.fromkeys([*BUILT_IN, *(configured or ())]):
        built_in = dict(BUILT_IN.get(name, {"url": f"https://{name}"}))
        if configured is None or name not in configured:
            upstreams[name] = built_in
        elif (own := configured[name]) is not None or name not in BUILT_IN:
            own = {} if own is None else own
            if isinstance(own, Mapping) and not _same_host(own.get("url"), built_in["url"]):
                # Another host is another trust domain: credentials for it must not go where the built-in ones may.
                built_in.pop("token_hosts", None)
            upstreams[name] = merge(built_in, own)
    return upstreams


def _same_host(url: Any, built_in: str) -> bool:
    try:
        return url is None or urlsplit(str(url)).netloc == urlsplit(built_in).netloc
    except ValueError:  # not a URL at all, which validation will say
        return False


def _with_directory(cache: Any, environ: Mapping[str, str]) -> Any:
    if cache is not None and not isinstance(cache, Mapping):
        return cache
    if cache and cache.get("directory") is not None:
        return cache
    return {**(cache or {}), "directory": default_directory(environ)}


def default_directory(environ: Mapping[str, str], system: Path = SYSTEM_DIRECTORY) -> Path:
    """`system` when this process may write there or create it, else the user's cache directory."""
    if os.access(system if system.exists() else system.parent, os.W_OK | os.X_OK):
        return system
    # The base directory specification: a relative XDG_CACHE_HOME is invalid and to be ignored.
    base = Path(environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path(environ.get("HOME") or "~").expanduser() / ".cache") / "millpond"

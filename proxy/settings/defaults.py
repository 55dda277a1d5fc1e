"""What holds where nothing is configured: four upstreams, and where the cache goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

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


def with_built_in(configured: Any) -> Any:
    """The built-in upstreams with the configured ones over them. Null removes a built-in one; a new name, whatever
    stands under it, is its own host."""
    if not isinstance(configured, Mapping | None):
        return configured
    configured = configured or {}
    upstreams: dict[str, Any] = {}
    for name in dict.fromkeys([*BUILT_IN, *configured]):
        own = configured.get(name, {})
        if own is None and name in BUILT_IN:
            continue
        built_in = dict(BUILT_IN.get(name, {"url": f"https://{name}"}))
        if isinstance(own, Mapping) and not _same_host(own.get("url"), built_in["url"]):
            # Another host is another trust domain: credentials for it must not go where the built-in ones may.
            built_in.pop("token_hosts", None)
        upstreams[name] = {**built_in, **(own or {})} if isinstance(own, Mapping | None) else own
    return upstreams


def _same_host(url: Any, built_in: str) -> bool:
    try:
        return url is None or urlsplit(str(url)).netloc == urlsplit(built_in).netloc
    except ValueError:  # not a URL at all, which validation will say
        return False


def default_directory(environ: Mapping[str, str] = os.environ, system: Path = SYSTEM_DIRECTORY) -> Path:
    """`system` when this process may write there or create it, else the user's cache directory."""
    if os.access(system if system.exists() else system.parent, os.W_OK | os.X_OK):
        return system
    # The base directory specification: a relative XDG_CACHE_HOME is invalid and to be ignored.
    base = Path(environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path(environ.get("HOME") or "~").expanduser() / ".cache") / "millpond"

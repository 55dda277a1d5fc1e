"""The names that a client's certificate holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_KINDS: Final = frozenset({"DNS", "URI", "email"})


def client_names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The host names, URIs and mail addresses of a verified certificate in its order, then its common names.

    `certificate` is as `ssl.SSLSocket.getpeercert` has it; None and an empty one hold no name.
    """
    if not certificate:
        return ()
    alternative = [name for kind, name in certificate.get("subjectAltName", ()) if kind in _KINDS]
    parts = [pair for part in certificate.get("subject", ()) for pair in part]
    return (*alternative, *(value for key, value in parts if key == "commonName"))

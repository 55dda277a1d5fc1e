"""Credentials of a section: secrets come from the environment, or from files of their own."""

from __future__ import annotations

from pydantic import SecretStr

from proxy.settings.base import Misfit, Section
from proxy.settings.values import secret_in


def take_from_file(section: Section, key: str) -> None:
    """Fill the secret `key` from the file that `<key>_file` names. Read once, at start: a file that cannot be used is
    refused then, not when somebody needs it. Raises Misfit."""
    file_key = f"{key}_file"
    file = getattr(section, file_key)
    if file is None:
        return
    if getattr(section, key) is not None:
        raise Misfit((key,), None, f"{file_key} is set as well; keep one of them")
    try:
        object.__setattr__(section, key, SecretStr(secret_in(file, key)))
    except ValueError as error:
        raise Misfit((file_key,), str(file), str(error)) from None


def take_credential(section: Section, prefix: str = "") -> None:
    """The same for `<prefix>password`, which goes with `<prefix>username`. Raises Misfit."""
    username, password = f"{prefix}username", f"{prefix}password"
    take_from_file(section, password)
    if (getattr(section, username) is None) != (getattr(section, password) is None):
        missing = username if getattr(section, username) is None else f"{password}_file"
        raise Misfit((missing,), None, "a credential has two halves and this one is missing; set both or neither")

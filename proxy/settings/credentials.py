"""The files of users: htpasswd with bcrypt, and tokens. A message names a line, never what stands in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MAX_FILE: Final = 1024 * 1024  # bytes: ten thousand users
MAX_COST: Final = 14  # each step doubles the time: a check of this cost takes about a second, of 31 a day
MIN_TOKEN: Final = 16  # characters: shorter ones are words, and words are guessed
MAX_TOKEN: Final = 4096

_NAME: Final = re.compile(r"[^\x00-\x20:\x7f]{1,255}")
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_TOKEN: Final = re.compile(rf"[\x21-\x7e]{{{MIN_TOKEN},{MAX_TOKEN}}}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """bcrypt hashes by user, and users by the SHA-256 of each token."""

    passwords: Mapping[str, str] = field(repr=False)
    tokens: Mapping[bytes, str] = field(repr=False)


def read_passwords(file: Path) -> dict[str, str]:
    """The users of an htpasswd file. Raises ValueError."""
    found: dict[str, str] = {}
    for number, name, hashed in _lines(file, "name:hash, as `htpasswd -nB name` prints"):
        match = _BCRYPT.fullmatch(hashed)
        if not match:
            raise ValueError(
                f"line {number}: the password of {name} is not hashed with bcrypt, and other hashes are too easy to "
                f"guess from; write it anew with `htpasswd -B`"
            )
        if not 4 <= int(match[1]) <= MAX_COST:
            raise ValueError(
                f"line {number}: a check of the password of {name} would take too long (cost {match[1]}); "
                f"write it anew with `htpasswd -B -C 10`, or a cost up to {MAX_COST}"
            )
        if name in found:
            raise ValueError(f"line {number}: {name} has a password already; remove one of the lines")
        found[name] = hashed
    return found


def read_tokens(file: Path) -> dict[bytes, str]:
    """The users of a file of tokens, by the SHA-256 of each; a user may have several. Raises ValueError."""
    found: dict[bytes, str] = {}
    for number, name, token in _lines(file, "name:token"):
        if not _TOKEN.fullmatch(token):
            raise ValueError(
                f"line {number}: the token of {name} is not one that is safe to use; write {MIN_TOKEN} to {MAX_TOKEN} "
                "visible ASCII characters, such as `openssl rand -hex 32` makes"
            )
        hashed = hashlib.sha256(token.encode()).digest()
        if found.setdefault(hashed, name) != name:
            raise ValueError(f"line {number}: {name} has the token of another user; give each its own")
    return found


def _lines(file: Path, form: str) -> Iterator[tuple[int, str, str]]:
    """Number, name and the rest of each line that is neither empty nor a comment; at least one."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE + 1)
        text = raw.decode()
    except OSError as error:
        raise ValueError(f"this file cannot be read ({error.strerror}); change its owner or mode") from None
    except UnicodeDecodeError:
        raise ValueError(f"this file is not text; write a line for each user, {form}") from None
    if len(raw) > MAX_FILE:
        raise ValueError(f"this file is larger than {MAX_FILE} bytes; write a line for each user, {form}")
    empty = True
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()  # noqa: PLW2901 - as both halves of it are
        if not line or line.startswith("#"):
            continue
        name, colon, rest = (part.strip() for part in line.partition(":"))
        if not colon or not _NAME.fullmatch(name) or not rest:
            raise ValueError(f"line {number} is not a user; write {form}")
        empty = False
        yield number, name, rest
    if empty:
        raise ValueError(f"no user is in this file, and so nobody could pull; write a line for each, {form}")

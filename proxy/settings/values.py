"""Values as people write them (`50GiB`, `1h30m`, `0.0.0.0:5000`), parsed once.

Every parser raises ValueError with a message of two halves, "what is wrong; what would be right". The value itself is
not part of the message: whoever reports the problem decides whether it may be shown.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import ssl
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

_UNITS: Final = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024), ("i", 1024))  # "i" alone is how Kubernetes writes it
}
_SIZE: Final = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)\s*([a-z]{0,3}|%)", re.IGNORECASE)
_SIZE_HINT: Final = 'write "50GiB" (1024), "50GB" (1000), a number of bytes, or "80%" of the file system'

_SECONDS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_PART: Final = r"\d{1,9}(?:\.\d{1,6})?"
_DURATION: Final = re.compile("".join(rf"(?:({_PART}){unit}(?![a-z]))?" for unit in _SECONDS))
_DURATION_HINT: Final = 'write "30s", "5m", "1h30m", "7d", or a number of seconds'
_LONGEST: Final = 100 * 365 * 86400  # a century: beyond it timers overflow, and nobody means it

_LABEL: Final = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_HINT: Final = 'write a host as images name it, in lower case, such as "ghcr.io" or "registry.local:5000"'
_MAX_PORT: Final = 65535
_MAX_SECRET: Final = 64 * 1024  # the longest tokens in use (cloud service-account keys) are a few KiB


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, or a share of the file system it is measured on."""

    bytes: int = 0
    percent: Decimal | None = None

    @classmethod
    def parse(cls, value: object) -> Size:
        """Accepts a whole number of bytes, a number with a unit, or a percentage above 0 and up to 100."""
        if isinstance(value, Size):
            return value
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"not a size; {_SIZE_HINT}")
        match = _SIZE.fullmatch(str(value).strip())
        if not match:
            raise ValueError(f"not a size; {_SIZE_HINT}")
        number, unit = Decimal(match[1]), match[2].lower()
        if unit == "%":
            if not 0 < number <= 100:
                raise ValueError('a share must be above 0% and at most 100%; write "80%"')
            return cls(percent=number)
        if unit not in _UNITS:
            raise ValueError(f"the unit {match[2]!r} is unknown or ambiguous; {_SIZE_HINT}")
        return cls(bytes=int(number * _UNITS[unit]))

    def resolve(self, total_bytes: int) -> int:
        """Bytes, on a file system of `total_bytes`."""
        if self.percent is None:
            return self.bytes
        return int(total_bytes * self.percent / 100)

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.percent is not None

    def __str__(self) -> str:
        if self.percent is not None:
            return f"{self.percent}%"
        for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
            size = _UNITS[unit.lower()]
            if self.bytes and self.bytes % size == 0:
                return f"{self.bytes // size}{unit}"
        return f"{self.bytes}B"


def positive_size(value: object) -> Size:
    """A size of at least one byte."""
    size = Size.parse(value)
    if not size:
        raise ValueError(f"must be above zero; {_SIZE_HINT}")
    return size


def duration(value: object) -> float:
    """Seconds, from a number of seconds or from parts in falling order (`1h30m`)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"not a duration; {_DURATION_HINT}")
    if isinstance(value, str):
        text = value.strip().lower().replace(" ", "")
        if re.fullmatch(_PART, text):
            seconds = float(text)
        else:
            match = _DURATION.fullmatch(text) if text else None
            if not match:
                raise ValueError(f"not a duration; {_DURATION_HINT}")
            parts = zip(match.groups(), _SECONDS.values(), strict=True)
            seconds = sum(float(number) * unit for number, unit in parts if number)
    else:
        seconds = float(value)
    if not math.isfinite(seconds) or not 0 <= seconds <= _LONGEST:
        raise ValueError(f"must be between zero and a hundred years; {_DURATION_HINT}")
    return seconds


def positive_duration(value: object) -> float:
    """Seconds, more than zero: for deadlines."""
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError(f"a deadline must be above zero; {_DURATION_HINT}")
    return seconds


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on. Port 0 asks the system for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Listen:
        """Accepts `host:port`, `[v6]:port` and `:port` (every IPv4 interface)."""
        hint = 'write "0.0.0.0:5000", "127.0.0.1:5000", "[::]:5000" (in quotes) or ":5000"'
        if isinstance(value, Listen):
            return value
        match = (
            re.fullmatch(r"(\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^\s:\[\]/]*):(\d{1,5})", value.strip())
            if isinstance(value, str)
            else None
        )
        if not match or int(match[2]) > _MAX_PORT:
            raise ValueError(f"not an address with a port; {hint}")
        host = match[1].strip("[]") or "0.0.0.0"  # noqa: S104 - what ":5000" means
        if match[1].startswith("["):
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                raise ValueError(f"not an IPv6 address; {hint}") from None
        return cls(host, int(match[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host(value: object) -> str:
    """`host` or `host:port`, lower case: an upstream's name, an alias, a token host."""
    if not isinstance(value, str):
        raise ValueError(f"not a host name; {_HOST_HINT}")
    name, colon, port = value.partition(":")
    if len(name) > 253 or not _HOST.fullmatch(name):  # RFC 1035
        raise ValueError(f"not a host name; {_HOST_HINT}")
    if colon and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= _MAX_PORT):
        raise ValueError(f"not a port after the colon; {_HOST_HINT}")
    return value


def base_url(value: object) -> str:
    """An http(s) URL without credentials, query or fragment; a trailing slash is dropped."""
    hint = 'write "https://registry.example.com", with a port or a path if it has one'
    if not isinstance(value, str):
        raise ValueError(f"not a URL; {hint}")
    try:
        url = urlsplit(value)
        port_ok = url.port is None or url.port > 0
    except ValueError:
        raise ValueError(f"not a URL; {hint}") from None
    if url.scheme not in ("http", "https") or not url.hostname or not port_ok or re.search(r"[\s\\]", value):
        raise ValueError(f"not an http or https URL; {hint}")
    if "@" in url.netloc:
        raise ValueError("a URL must not hold a user name or password; use username and password_file")
    if url.query or url.fragment or value.endswith(("?", "#")):
        raise ValueError(f"a URL must not have a query or a fragment; {hint}")
    return value.rstrip("/")


def path(value: object) -> Path:
    """An absolute path; `~` is the home directory, and a relative one starts at the working directory."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("not a path; write an absolute path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("the home directory is unknown; write an absolute path") from None


def readable_file(value: object) -> Path:
    """A file that exists and that this process may read."""
    file = path(value)
    if not file.exists():
        raise ValueError("there is no such file; write the path of a file that Millpond can read")
    if not file.is_file():
        raise ValueError("this is not a regular file; write the path of a file that Millpond can read")
    if not os.access(file, os.R_OK):
        raise ValueError(f"this file cannot be read by user id {os.geteuid()}; change its owner or mode")
    return file


def audit_stream(value: object) -> Path | Literal["stdout"]:
    """`stdout`, or a file that this process may append to or create."""
    if value == "stdout":
        return "stdout"
    file = path(value)
    if not (file if file.exists() else file.parent).exists():
        raise ValueError("its directory does not exist; create it, or write another path, or stdout")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ValueError(f"this cannot be written by user id {os.geteuid()}; write another path, or stdout")
    return file


def ca_bundle(value: object) -> Path:
    """A PEM file with at least one certificate."""
    file = readable_file(value)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError, ValueError):
        raise ValueError(
            "this file holds no PEM certificate; write a file of -----BEGIN CERTIFICATE----- blocks"
        ) from None
    return file


def secret_in(file: Path, what: str = "password") -> str:
    """The content of a file that holds one secret, without its trailing line ends. `what` it is, for the message."""
    hint = f"put the {what} in it, alone, as UTF-8 text"
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_SECRET + 1)
        secret = text.decode().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"this file cannot be read ({error.strerror}); change its owner or mode") from None
    except UnicodeDecodeError:
        raise ValueError(f"this file is not text; {hint}") from None
    if not secret:
        raise ValueError(f"this file is empty; {hint}")
    if len(text) > _MAX_SECRET:
        raise ValueError(f"this file is larger than {_MAX_SECRET} bytes; {hint}")
    return secret

"""Where Millpond is, and the registries it stands for, as clients write them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

DEFAULT: Final = "_default"  # containerd's name for every registry without a folder of its own

# All of it ends up inside quotes in somebody's configuration: nothing but what a host name has.
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?")
_IPV6: Final = re.compile(r"\[([0-9a-f:.]+)\](?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients reach Millpond. `host` is host or host:port, as an image name has it."""

    scheme: str
    host: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError, with what would be right, when `text` is anything but scheme, host and port."""
        scheme, separator, host = text.removesuffix("/").partition("://")
        address = cls(scheme.lower(), host.lower())
        if not separator or address.scheme not in ("http", "https") or not _is_host(address.host):
            raise ValueError(
                f"{text!r} is not an address; write http:// or https://, a host and perhaps a port, and no path: "
                "http://127.0.0.1:5000"
            )
        return address


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry's `name`, as image names begin, and its own `server`: None where only the client can know it."""

    name: str
    server: str | None

    @classmethod
    def parse(cls, name: str, url: str | None = None) -> Registry:
        """`url` is where Millpond finds it; used only where that is the registry itself, not another way to it.

        Raises:
            ValueError: no image name begins like this.
        """
        if name == DEFAULT:
            return cls(name, None)
        if not _is_host(name):
            raise ValueError(
                f"{name!r} is not a registry; write it as image names begin: docker.io, registry.example.com:5000"
            )
        if name == "docker.io":
            return cls(name, "https://registry-1.docker.io")
        if url and urlsplit(url).netloc == name and not urlsplit(url).path:
            return cls(name, url)
        return cls(name, f"{'http' if _is_this_machine(name) else 'https'}://{name}")


def _is_host(text: str) -> bool:
    port = text.rpartition(":")[2]
    if port.isdecimal() and not 0 < int(port) < 65536:
        return False
    if match := _IPV6.fullmatch(text):
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError:
            return False
        return True
    return len(text) <= 253 and bool(_HOST.fullmatch(text))


def _is_this_machine(name: str) -> bool:
    """Every client speaks plain HTTP to a registry on its own machine."""
    host = name.partition(":")[0]
    return host == "localhost" or host.startswith("127.")

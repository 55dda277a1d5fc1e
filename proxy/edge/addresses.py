"""Where a request comes from: the connection's address, or the one that forwarders name whom the operator trusts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAX_HOPS: Final = 16  # forwarders in a row; real ones are two or three
_MAX_TEXT: Final = 64  # the longest address with brackets and a port has 56 characters
_REMEMBERED: Final = 4096  # addresses, of some 100 bytes each: a fleet's, so that each is read and judged once


class Addresses:
    """Tells a client's address, and whether it may connect. No `networks` means that all may."""

    def __init__(self, networks: Sequence[Network], forwarders: Sequence[Network]) -> None:
        self._networks = tuple(networks)
        self._forwarders = tuple(forwarders)
        self._is_forwarder = lru_cache(_REMEMBERED)(lambda address: _within(address, self._forwarders))
        self._may_connect = lru_cache(_REMEMBERED)(lambda address: _within(address, self._networks))

    def find(self, peer: str, forwarded_for: Sequence[str]) -> Address | None:
        """The client's address, from the connection's `peer` and the X-Forwarded-For lines as they came.

        Each forwarder adds on the right whom it was asked by, so what counts is the rightmost address that is no
        trusted forwarder: what stands left of it is only that client's word. None when `peer` is no address.
        """
        address = _read(peer)
        if address is None or not forwarded_for or not self._is_forwarder(address):
            return address
        for text in reversed(",".join(forwarded_for).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]):
            named = _read(text)
            if named is None:
                break  # not an address: the last one that a forwarder vouched for counts
            address = named
            if not self._is_forwarder(address):
                break
        return address

    def may_connect(self, address: Address | None) -> bool:
        return not self._networks or self._may_connect(address)


def _within(address: Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def _read(text: str) -> Address | None:
    return _parsed(text) if len(text) <= _MAX_TEXT else None


@lru_cache(_REMEMBERED)
def _parsed(text: str) -> Address | None:
    """An address; some forwarders write its port too. IPv4 that came over an IPv6 socket is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

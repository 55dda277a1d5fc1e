"""How far inside an IP address lies: what decides whether a hint from the network may lead there."""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import Final


class Reach(IntEnum):
    """The inner an address, the greater. Whoever answers from one place may point at it and further out only."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    FORBIDDEN = 3  # link-local (cloud metadata), unspecified, multicast: no registry lives there


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")
# The metadata service of EC2 over IPv6 is not link-local.
_METADATA: Final = ipaddress.IPv6Address("fd00:ec2::254")


def reach_of(address: str) -> Reach:
    """Where `address`, an IP literal without brackets, lies. Raises ValueError when it is not one."""
    ip = _unwrap(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip == _METADATA:
        return Reach.FORBIDDEN
    if isinstance(ip, ipaddress.IPv4Address) and ip in _THIS_NETWORK:
        return Reach.FORBIDDEN
    if ip.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def _unwrap(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address inside an IPv6 one, for each way in which a packet would end up there."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip

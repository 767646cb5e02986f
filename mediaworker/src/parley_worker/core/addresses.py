"""Addresses that nothing of ours connects to, wherever a name leads. Pure."""

from __future__ import annotations

import ipaddress

_METADATA = frozenset(
    {
        *("100.100.100.200", "192.0.0.192", "168.63.129.16"),
        *("fd00:ec2::254", "fd20:ce::254", "fd00:a9fe:a9fe::254"),
    }
)
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def may_be_reached(address: str) -> bool:
    """False for what is never a provider's or a tool's: link-local (cloud metadata), multicast, unspecified.

    The control plane judges URLs; only on the worker is it known what a name really leads to.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _within(ip)
    if isinstance(ip, ipaddress.IPv4Address) and (ip in _THIS_NETWORK or ip == _BROADCAST):
        return False
    return not (ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA)


def _within(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address leads to by translation or a tunnel, else the address."""
    if ip.ipv4_mapped is not None or ip.sixtofour is not None:
        return ip.ipv4_mapped or ip.sixtofour or ip
    compatible = int(ip) >> 32 == 0 and int(ip) > 1
    if compatible or any(ip in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip

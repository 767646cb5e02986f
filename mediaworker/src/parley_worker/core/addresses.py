"""Addresses that nothing of ours connects to, wherever a name leads. Pure."""

from __future__ import annotations

import ipaddress

_METADATA = frozenset({"100.100.100.200", "192.0.0.192", "fd00:ec2::254"})


def may_be_reached(address: str) -> bool:
    """False for what is never a provider's or a tool's: link-local (cloud metadata), multicast, unspecified.

    The control plane judges URLs; only on the worker is it known what a name really leads to.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return not (ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA)

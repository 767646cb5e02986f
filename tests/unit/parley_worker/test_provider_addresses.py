"""Where a provider may never be, whatever its name says."""

from __future__ import annotations

import pytest
from parley_worker.core.addresses import may_be_reached


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254", "224.0.0.1", "0.0.0.0"),
        *("100.100.100.200", "168.63.129.16", "fd20:ce::254", "255.255.255.255", "0.1.2.3"),
        # By translation, tunnel and old notation.
        *("64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::", "::169.254.169.254"),
        "::ffff:0:169.254.169.254",
    ],
)
def test_metadata_and_link_local_addresses_are_refused(address: str) -> None:
    assert not may_be_reached(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.96.0.20", "203.0.113.7", "2001:db8::1", "::1", "64:ff9b::cb00:7107"]
)
def test_others_are_allowed(address: str) -> None:
    assert may_be_reached(address)

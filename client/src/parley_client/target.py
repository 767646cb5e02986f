"""Where a session can be attached to, and with what."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """A worker's endpoint and the ticket of one session on it.

    Args:
        address: `host:port`.
        ticket: the session's ticket; never printed.
        tls: True to speak TLS.
        tls_server_name: name to verify in the worker's certificate; empty for the address's host.
        ca_pem: certificates to trust; empty for the system's.
        namespace, session: for messages only.
        session_uid: known when the target came from a cluster.
        worker: name of the worker's pod, when known.

    Raises:
        UsageError: the address is no `host:port`, or plain text is asked for outside loopback.
    """

    address: str
    ticket: str = field(repr=False)
    tls: bool = False
    tls_server_name: str = ""
    ca_pem: str = field(default="", repr=False)
    namespace: str = ""
    session: str = ""
    session_uid: str = ""
    worker: str = ""
    insecure: bool = False
    """True to allow plain text outside loopback."""

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"address {self.address!r}: give host:port, such as 10.0.0.7:8443")
        if not self.tls and not self.insecure and not is_loopback(host):
            raise UsageError(
                f"address {self.address}: TLS is required outside loopback; give the CA and the TLS name"
                " (or insecure=True in a network that you trust)"
            )

    @property
    def port(self) -> int:
        """The port of the address."""
        return int(self.address.rpartition(":")[2])

    def moved_to(self, address: str, tls_server_name: str = "") -> Target:
        """Return the same session at another address."""
        return replace(self, address=address, tls_server_name=tls_server_name or self.tls_server_name)


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses, with or without brackets."""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False

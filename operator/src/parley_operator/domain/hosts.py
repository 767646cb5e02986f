"""Which hosts a session may talk to. Works on the text of URLs: names are not resolved here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from parley_operator.api.fields import FieldError

OPENAI_URL = "wss://api.openai.com/v1/realtime"
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_FORBIDDEN = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "192.0.0.192/32", "224.0.0.0/4",
        "255.255.255.255/32", "168.63.129.16/32",
        "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128",
        "fd00:a9fe:a9fe::254/128",
    )
)  # fmt: skip
_TRANSLATED = tuple(ip_network(block) for block in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96"))
_IPV4_PART = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host (lower case, canonical for addresses) and port of a provider URL."""

    host: str
    port: int
    plaintext: bool

    @property
    def text(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str, path: str, schemes: Sequence[str] = ("wss", "ws", "https", "http")) -> Endpoint:
    """The endpoint of a URL of one of the schemes. Raises `FieldError` for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        words = f"is not a URL that can be read; write {schemes[0]}://host[:port]/path"
        raise FieldError(path, words) from error
    if parts.scheme not in schemes:
        known = [f"{scheme}://" for scheme in schemes]
        raise FieldError(path, f"must begin with {', '.join(known[:-1])} or {known[-1]}")
    if parts.username is not None or parts.password is not None:
        raise FieldError(path, "must not hold a user name or password; name a Secret")
    if not parts.hostname:
        raise FieldError(path, "has no host")
    if re.search(r"[\s\x00-\x20\\%]", parts.netloc):
        raise FieldError(path, "has characters in its host that no host name has")
    if not parts.hostname.isascii():
        # Resolvers fold such names: other full stops and digits would slip past every comparison.
        raise FieldError(path, "has characters beyond ASCII in its host; write the name in its xn-- form")
    plaintext = parts.scheme in ("ws", "http")
    return Endpoint(canonical_host(parts.hostname), port or _PORTS[parts.scheme], plaintext)


def canonical_host(host: str) -> str:
    """Lower case, without a trailing dot; every spelling of an address becomes its usual one."""
    text = host.lower().strip("[]").rstrip(".")
    address = literal_address(text)
    return text if address is None else str(address)


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` spells, also as 2130706433, 0x7f.1, 0177.0.0.1 or ::ffff:127.0.0.1."""
    bare = host.split("%", 1)[0]
    try:
        address = ip_address(bare)
    except ValueError:
        return _lenient_ipv4(bare)
    return _embedded_ipv4(address) if isinstance(address, IPv6Address) else address


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | IPv6Address:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    translated = any(address in block for block in _TRANSLATED)
    if translated or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _lenient_ipv4(host: str) -> IPv4Address | None:
    parts = host.split(".")
    if len(parts) > 4 or not all(_IPV4_PART.fullmatch(part) for part in parts):
        return None
    try:
        numbers = [_ipv4_number(part) for part in parts]
    except ValueError:
        return None
    *heads, tail = numbers
    if any(number > 255 for number in heads) or tail >= 256 ** (4 - len(heads)):
        return None
    value = tail
    for index, number in enumerate(heads):
        value += number << (24 - 8 * index)
    return IPv4Address(value)


def _ipv4_number(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part[2:] or "0", 16)
    return int(part, 8) if len(part) > 1 and part[0] == "0" else int(part)


def is_forbidden(host: str) -> bool:
    """Link-local, metadata, multicast and unspecified addresses: never a provider, whoever lists them."""
    if host in _METADATA_NAMES:
        return True
    address = literal_address(host)
    return address is not None and any(
        address.version == block.version and address in block for block in _FORBIDDEN
    )


def is_loopback(host: str) -> bool:
    address = literal_address(host)
    return host == "localhost" or host.endswith(".localhost") or bool(address and address.is_loopback)


def matches(entry: str, endpoint: Endpoint, *, exact: bool = False) -> bool:
    """Whether a list entry (`host`, `host:port`, `*.suffix`, `*.suffix:port`) covers the endpoint.

    With `exact` just entries without a wildcard count.
    """
    host, port = split_entry(entry)
    if port and port != endpoint.port:
        return False
    if host.startswith("*."):
        return not exact and endpoint.host.endswith(host[1:]) and literal_address(endpoint.host) is None
    return canonical_host(host) == endpoint.host


def split_entry(entry: str) -> tuple[str, int]:
    """Host and port of a list entry; port 0 means every port, -1 none: what stands there is no port."""
    text = entry.strip().lower()
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not port:
        return host, 0
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return host, number or -1


def covers(entries: Iterable[str], endpoint: Endpoint, *, exact: bool = False) -> bool:
    return any(matches(entry, endpoint, exact=exact) for entry in entries)

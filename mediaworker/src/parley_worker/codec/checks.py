"""What every check of a request shares: the error, and how a field is required."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration

MAX_SECONDS = 86400.0


class InvalidRequest(ValueError):
    """A request that cannot be run: the text names field, value (unless secret) and remedy."""


def require(good: object, field: str, value: object, remedy: str) -> None:
    """InvalidRequest unless `good`; the value is shown, so it must be no secret."""
    if not good:
        shown = value if isinstance(value, int) else repr(str(value)[:80])
        raise InvalidRequest(f"{field} is {shown}: give {remedy}")


def require_url(url: str, field: str, schemes: tuple[str, ...]) -> None:
    """A URL with a host. It may carry a secret in its user part or query: it is not repeated."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    named = f"{', '.join(schemes[:-1])} or {schemes[-1]}" if len(schemes) > 1 else schemes[0]
    article = "an" if named[0] in "aeiou" else "a"
    require(usable, field, "not usable", f"{article} {named} URL with a host")


def require_pem(pem: str, field: str) -> None:
    """Certificates, or nothing."""
    require(not pem or "-----BEGIN CERTIFICATE-----" in pem, field, "not PEM", "PEM certificates")


def json_object(text: str, field: str) -> dict[str, Any]:
    """The JSON object in `text`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{field} is not JSON: give a JSON object") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} is a JSON {type(value).__name__}: give a JSON object")
    return value


def seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def seconds_within(duration: Duration, field: str, most: float = MAX_SECONDS) -> float:
    """Seconds from 0 to `most`."""
    value = seconds(duration)
    require(0 <= value <= most, field, f"{value:g} s", f"0 (default) to {most:g} seconds")
    return value

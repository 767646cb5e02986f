"""What people may read of an event: no key, no audio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET_FIELDS = frozenset({"authorization", "headers", "client_secret", "api_key", "api-key"})
_KEY_LIKE = re.compile(r"\b(?:sk|ek|rk)[-_][A-Za-z0-9_*\-]{3,}")


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """`text` without the secrets and without anything that looks like a provider key."""
    for secret in secrets:
        if len(secret) >= 6:
            text = text.replace(secret, "***")
    return _KEY_LIKE.sub("***", text)


def redact(value: Any, secrets: tuple[str, ...]) -> Any:
    """A copy for people to read: base64 audio as its size, secret fields as `***`."""
    if isinstance(value, Mapping):
        return {key: _redact_field(key, item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item, secrets) for item in value]
    return scrub(value, secrets) if isinstance(value, str) else value


def _redact_field(key: str, value: Any, secrets: tuple[str, ...]) -> Any:
    if key.lower() in _SECRET_FIELDS:
        return "***"
    if key == "audio" and isinstance(value, str):
        return f"<{len(value)} characters of audio>"
    return redact(value, secrets)

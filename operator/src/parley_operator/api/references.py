"""References to other objects: Secrets and ConfigMaps of the session's own namespace, and pools."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Fields


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A key of a Secret in the session's own namespace."""

    name: str
    key: str = "apiKey"


@dataclass(frozen=True, slots=True)
class PoolRef:
    """Which pool; an empty namespace means the session's own, then the operator's default one."""

    name: str = "default"
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class ConfigMapRef:
    """A key of a ConfigMap in the session's own namespace."""

    name: str
    key: str


def parse_secret_ref(parent: Fields, key: str, default_key: str) -> SecretRef | None:
    """The reference under `key`; `None` when it is missing."""
    if not parent.has(key):
        return None
    fields = parent.child(key)
    found = SecretRef(fields.name("name"), fields.text("key", default_key, longest=253) or default_key)
    fields.finish()
    return found


def parse_pool_ref(parent: Fields, key: str) -> PoolRef:
    """The reference under `key`; the default pool when it is missing."""
    fields = parent.child(key)
    found = PoolRef(fields.name("name", "default"), fields.name("namespace", ""))
    fields.finish()
    return found


def parse_config_map_ref(parent: Fields, key: str) -> ConfigMapRef | None:
    """The reference under `key`; `None` when it is missing."""
    if not parent.has(key):
        return None
    fields = parent.child(key)
    found = ConfigMapRef(fields.name("name"), fields.required("key", longest=253))
    fields.finish()
    return found

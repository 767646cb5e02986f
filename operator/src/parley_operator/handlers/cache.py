"""The objects as last heard of, by kind, namespace and name."""

from __future__ import annotations

from collections.abc import Iterator

from parley_operator.api.constants import Body
from parley_operator.api.v1alpha1 import text_at

from .queue import Key


class ObjectCache:
    """Newer resource versions replace older ones; a deletion counts for the uid that it names."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Key, Body]] = {}

    @staticmethod
    def key(kind: str, body: Body) -> Key:
        return Key(
            kind, text_at(body, "metadata", "namespace") or "default", text_at(body, "metadata", "name")
        )

    def put(self, kind: str, body: Body) -> Key:
        key = self.key(kind, body)
        kind_objects = self._objects.setdefault(kind, {})
        present = kind_objects.get(key)
        if present is None or _version(body) >= _version(present) or _uid(body) != _uid(present):
            kind_objects[key] = body
        return key

    def drop(self, kind: str, body: Body) -> Key:
        key = self.key(kind, body)
        present = self._objects.get(kind, {}).get(key)
        if present is not None and _uid(present) == _uid(body):
            del self._objects[kind][key]
        return key

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        return self._objects.get(kind, {}).get(Key(kind, namespace, name))

    def of_kind(self, kind: str) -> Iterator[tuple[Key, Body]]:
        return iter(list(self._objects.get(kind, {}).items()))


def _version(body: Body) -> int:
    text = text_at(body, "metadata", "resourceVersion")
    return int(text) if text.isdigit() else 0


def _uid(body: Body) -> str:
    return text_at(body, "metadata", "uid")

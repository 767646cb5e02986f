"""The objects as last heard of, by kind, namespace and name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from parley_operator.api.constants import Body
from parley_operator.api.v1alpha1 import metadata_of, text_at

from .queue import Key

# Deletions beyond this are old enough that no list speaks of them any more.
_REMEMBERED = 20_000
# Different specs of one kind that are kept as one object; most sessions are made from a few templates.
_SPECS = 1024
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_encode = msgspec.json.Encoder().encode


class ObjectCache:
    """Newer resource versions replace older ones; a deletion counts for the uid that it names."""

    def __init__(self) -> None:
        # Told of every object that is taken or dropped: kind, key, object, whether it is gone.
        self.listener: Callable[[str, Key, Body, bool], None] = lambda kind, key, body, gone: None
        self._objects: dict[str, dict[Key, Body]] = {}
        self._gone: dict[str, None] = {}
        self._specs: dict[bytes, object] = {}

    @staticmethod
    def key(kind: str, body: Body) -> Key:
        return Key(
            kind, text_at(body, "metadata", "namespace") or "default", text_at(body, "metadata", "name")
        )

    def put(self, kind: str, body: Body) -> Key:
        key = self.key(kind, body)
        kind_objects = self._objects.setdefault(kind, {})
        present = kind_objects.get(key)
        newer = present is None or _version(body) >= _version(present)
        if newer and not self.gone(_uid(body)):
            if present is not None and _uid(present) != _uid(body):
                self._forget(_uid(present))
                self.listener(kind, key, present, True)
            kind_objects[key] = slim = self._slim(body, present)
            self.listener(kind, key, slim, False)
        return key

    def drop(self, kind: str, body: Body) -> Key:
        key = self.key(kind, body)
        present = self._objects.get(kind, {}).get(key)
        self._forget(_uid(body))
        if present is not None and _uid(present) == _uid(body):
            del self._objects[kind][key]
            self.listener(kind, key, present, True)
        return key

    def _slim(self, body: Body, present: Body | None) -> Body:
        """Without the record of who wrote which field and without kubectl's copy: often more than half of an
        object, and of no use here. Specs that are the same are one object: whatever was read from one before
        is known by its identity."""
        metadata = metadata_of(body)
        metadata.pop("managedFields", None)
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict) and LAST_APPLIED in annotations:
            metadata["annotations"] = {k: v for k, v in annotations.items() if k != LAST_APPLIED}
        slim = {**body, "metadata": metadata}
        spec, kept = body.get("spec"), present.get("spec") if present is not None else None
        if spec is not None:
            slim["spec"] = kept if kept == spec else self._one(spec)
        return slim

    def _one(self, spec: object) -> object:
        text = _encode(spec)
        found = self._specs.setdefault(text, spec)
        if len(self._specs) > _SPECS:
            del self._specs[next(iter(self._specs))]
        return found

    def _forget(self, uid: str) -> None:
        if uid:
            self._gone[uid] = None
        while len(self._gone) > _REMEMBERED:
            self._gone.pop(next(iter(self._gone)))

    def gone(self, uid: str) -> bool:
        """Whether the object of this uid was deleted: lists may be older than the news of it."""
        return uid in self._gone

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        return self._objects.get(kind, {}).get(Key(kind, namespace, name))

    def knows(self, kind: str, body: Body) -> bool:
        """Whether the object is known in just this resource version."""
        present = self._objects.get(kind, {}).get(self.key(kind, body))
        version = text_at(body, "metadata", "resourceVersion")
        return present is not None and version == text_at(present, "metadata", "resourceVersion") != ""

    def count(self, kind: str) -> int:
        return len(self._objects.get(kind, {}))

    def of_kind(self, kind: str) -> Iterator[tuple[Key, Body]]:
        return iter(list(self._objects.get(kind, {}).items()))


def _version(body: Body) -> int:
    text = text_at(body, "metadata", "resourceVersion")
    return int(text) if text.isdigit() else 0


def _uid(body: Body) -> str:
    return text_at(body, "metadata", "uid")
